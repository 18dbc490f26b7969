"""Masks -> atoms -> masks must give back every voxel, whatever the overlap."""

from __future__ import annotations

import doctest
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from fixtures.masks import decode_masks
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nnunetv2_ext.labels import atoms
from nnunetv2_ext.labels.atoms import AtomTable, encode_masks
from nnunetv2_ext.utilities.errors import UserError


def _table_of(cases, names=None):
    encoded = [encode_masks(iter(masks)) for masks in cases]
    names = names or [f"class {index}" for index in range(len(cases[0]))]
    voxels = Counter()
    for case in encoded:
        voxels.update(case.voxels())
    return AtomTable(names, voxels), encoded


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12).flatmap(
        lambda number: st.lists(
            hnp.arrays(np.bool_, st.tuples(st.just(number), *[st.integers(1, 6)] * 3)), min_size=1, max_size=3
        )
    )
)
def test_any_overlap_round_trips(cases):
    table, encoded = _table_of(cases)
    occurring = {tuple(np.flatnonzero(voxel)) for case in cases for voxel in case.reshape(len(case), -1).T}
    assert {c for case in encoded for c in case.combinations} - {()} == occurring - {()}
    for masks, case in zip(cases, encoded, strict=True):
        label_map = table.relabel(case)
        decoded = dict(decode_masks(label_map, table.labels_json(always_regions=True)))
        assert set(decoded) == set(table.class_names)
        for name, mask in zip(table.class_names, masks, strict=True):
            np.testing.assert_array_equal(decoded[name], mask)


def test_more_combinations_than_a_byte_holds():
    rng = np.random.default_rng(0)
    masks = rng.random((16, 20, 20, 20)) > 0.5
    table, (encoded,) = _table_of([masks])
    assert len(encoded.combinations) > 256
    assert encoded.label_map.dtype == np.uint16
    decoded = dict(decode_masks(table.relabel(encoded), table.regions()))
    np.testing.assert_array_equal([decoded[name] for name in table.class_names], masks)


def test_smallest_type_and_plain_labels_without_overlap():
    masks = np.eye(5, dtype=np.uint8).reshape(5, 5, 1, 1)
    table, (encoded,) = _table_of([masks])
    assert not table.has_overlaps
    assert table.labels_json() == {"background": 0} | {f"class {index}": index + 1 for index in range(5)}
    assert table.labels_json(always_regions=True)["class 2"] == [3, 3]
    assert table.relabel(encoded).dtype == np.uint8
    assert table.relabel(encoded).ravel().tolist() == [1, 2, 3, 4, 5]


def test_stock_label_manager_reads_the_regions_and_paints_the_inner_class_last():
    import torch
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    lumen, aorta = np.zeros((2, 4, 4, 4), dtype=bool)
    aorta[:3], lumen[1, :2] = True, True
    table, _ = _table_of([[lumen, aorta]], ["lumen", "aorta"])
    manager = LabelManager(table.labels_json(), table.regions_class_order())
    assert list(table.regions()) == ["aorta", "lumen"]
    assert manager.has_regions
    probabilities = torch.from_numpy(np.stack([aorta, lumen]).astype(np.float32))
    painted = manager.convert_probabilities_to_segmentation(probabilities).numpy()
    np.testing.assert_array_equal(painted, np.where(lumen, 1, np.where(aorta, 2, 0)))


def test_values_of_single_classes_do_not_depend_on_the_other_cases():
    names = ["a", "b", "c"]
    small = AtomTable(names, {(0,): 5, (1, 2): 5})
    large = AtomTable(names, {(2,): 1, (0, 1): 1, (0, 1, 2): 1, (1, 2): 1})
    for table in (small, large):
        assert table.combinations[:4] == ((), (0,), (1,), (2,))
    assert large.combinations[4:] == ((0, 1), (1, 2), (0, 1, 2))
    with pytest.raises(UserError, match=r"overlap\(s\) a \+ b are not in the table"):
        small.relabel(encode_masks([np.array([1]), np.array([1]), np.array([0])]))


def test_unequal_shapes_no_masks_and_equal_names_are_refused():
    with pytest.raises(UserError, match=r"shape \(2, 2\), but mask 2 has \(2, 3\)"):
        encode_masks([np.zeros((2, 2)), np.zeros((2, 3))])
    with pytest.raises(UserError, match="at least one mask"):
        encode_masks([])
    with pytest.raises(UserError, match="every class name once"):
        AtomTable(["a", "a"], {})


def test_117_masks_need_the_memory_of_a_few():
    shape = (48, 64, 64)

    def masks():
        for index in range(117):
            mask = np.zeros(shape, dtype=bool)
            mask[index % 48, (index * 7) % 50 : (index * 7) % 50 + 12] = True
            yield mask

    tracemalloc.start()
    encoded = encode_masks(masks())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(encoded.combinations) > 50
    assert peak < 14 * np.prod(shape), "expected the label map, one mask and one counting buffer"


def test_real_aorta_round_trip(real_ct_folder):
    import SimpleITK

    files = sorted((real_ct_folder / "ct_aorta_1p5mm" / "segmentations").glob("*.nii.gz"))
    names = [file.name.removesuffix(".nii.gz") for file in files]

    def masks():
        return (SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file))) for file in files)

    encoded = encode_masks(masks())
    table = AtomTable(names, encoded.voxels())
    label_map = table.relabel(encoded)
    assert table.has_overlaps
    assert label_map.dtype == np.uint8
    order = list(table.regions())
    assert order.index("aorta") < min(order.index("aorta_true_lumen"), order.index("aorta_false_lumen"))
    decoded = dict(decode_masks(label_map, table.labels_json()))
    for name, mask in zip(names, masks(), strict=True):
        assert mask.any()
        assert sum(count for c, count in encoded.voxels().items() if names.index(name) in c) == np.count_nonzero(mask)
        np.testing.assert_array_equal(decoded[name], mask != 0)


def test_the_example_in_the_docstring():
    assert doctest.testmod(atoms).failed == 0
