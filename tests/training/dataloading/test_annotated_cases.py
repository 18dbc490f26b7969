from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2_ext.labels.partial_labels import PartialLabels, Source
from nnunetv2_ext.training.dataloading.annotated_cases import AnnotatedCases, sampling_probabilities
from nnunetv2_ext.utilities.errors import UserError


def collection(sizes: dict[str, int]) -> PartialLabels:
    sources = {
        name: Source((f"{name}/organ",), tuple(f"{name}_{index}" for index in range(size)))
        for name, size in sizes.items()
    }
    return PartialLabels({f"{name}/organ": (value,) for value, name in enumerate(sizes, 1)}, sources)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=6))
def test_a_case_is_drawn_with_one_over_the_root_of_its_sources_cases(sizes):
    labels = collection({f"S{index}": size for index, size in enumerate(sizes)})
    cases = [case for source in labels.sources.values() for case in source.cases]
    probabilities = sampling_probabilities(labels, cases)
    assert probabilities.sum() == pytest.approx(1)
    start = 0
    for size in sizes:
        of_source = probabilities[start : start + size]
        np.testing.assert_allclose(of_source, size**-0.5 / sum(other**0.5 for other in sizes))
        start += size


def test_the_fold_decides_how_many_cases_a_source_has():
    labels = collection({"A": 100, "B": 100})
    cases = ["A_0", *(f"B_{index}" for index in range(4))]
    np.testing.assert_allclose(sampling_probabilities(labels, cases), np.array([2, 1, 1, 1, 1]) / 6)


def test_a_case_without_a_source_is_refused():
    with pytest.raises(UserError, match="'C_0' belongs to no source"):
        sampling_probabilities(collection({"A": 1}), ["C_0"])


class Dataset:
    """Stands for an nnU-Net dataset: class locations of all classes of a shared region."""

    identifiers = ("A_1", "B_1", "B_2")
    source_folder = "somewhere"

    def load_case(self, identifier):
        everywhere = {(1, 2): [[0, 1, 1, 1]], (2, 2): [], (3, 3): [[0, 2, 2, 2]], (-1, 0, 1, 2, 3): [[0, 0, 0, 0]]}
        return "image", "label map", None, {"class_locations": everywhere, "spacing": [1, 1, 1]}


@pytest.fixture
def cases():
    labels = PartialLabels(
        {"A/liver": (1, 2), "A/tumour": (2,), "B/spleen": (3,)},
        {
            "A": Source(("A/liver", "A/tumour"), ("A_1",)),
            "B": Source(("A/liver", "B/spleen"), ("B_1", "B_2"), {"B_2": ("A/liver",)}),
        },
    )
    return AnnotatedCases(Dataset(), labels, [(1, 2), (2, 2), (3, 3)])


@pytest.mark.parametrize(("case", "regions"), [("A_1", {(1, 2), (2, 2)}), ("B_1", {(1, 2), (3, 3)}), ("B_2", {(3, 3)})])
def test_foreground_is_drawn_among_the_annotated_classes(cases, case, regions):
    image, label_map, previous, properties = cases.load_case(case)
    assert (image, label_map, previous) == ("image", "label map", None)
    # The entry of all annotated voxels, which nnU-Net adds where there is an ignore label, stays.
    assert set(properties["class_locations"]) == regions | {(-1, 0, 1, 2, 3)}
    assert properties["spacing"] == [1, 1, 1]


def test_everything_else_is_the_datasets_own(cases):
    assert cases.source_folder == "somewhere"
    assert cases.identifiers == ("A_1", "B_1", "B_2")
    with pytest.raises(AttributeError):
        cases.nothing_of_the_kind  # noqa: B018
    # Loaders are sent to spawned workers.
    assert pickle.loads(pickle.dumps(cases)).annotated("B_2").tolist() == [False, False, True]  # noqa: S301
