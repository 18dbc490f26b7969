"""Numbers of a case, against numpy's."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
import SimpleITK

from nnunetv2_ext.dataset_report import measuring
from nnunetv2_ext.dataset_report.cases import read_raw_dataset
from nnunetv2_ext.dataset_report.measuring import MeasuringJob, measure_case, thinned
from nnunetv2_ext.utilities.errors import UserError


def _measure(folder, number=0):
    dataset = read_raw_dataset(str(folder))
    return measure_case(MeasuringJob(dataset, dataset.cases[number]))


def test_volumes_and_intensities_are_those_of_the_voxels(raw_dataset, usual_case):
    image, label = usual_case(1)
    found = _measure(raw_dataset(), 1)
    assert found.case == "case_1"
    assert found.size == (20, 16, 12)
    assert found.spacing == pytest.approx((1, 1.5, 3))
    assert found.ranges == ((image.min(), image.max()),)
    for name, value in (("liver", 1), ("kidney_left", 2), ("kidney_right", 3)):
        assert found.volumes[name] == pytest.approx((label == value).sum() * 4.5 / 1000)
        assert found.intensities[name] == pytest.approx(image[label == value].mean(dtype=np.float64))
    assert found.findings == ()


def test_a_region_has_the_voxels_of_all_its_values_and_ignored_voxels_belong_to_none(raw_dataset, usual_case):
    image, label = usual_case(0)
    labels = {"background": 0, "organ": [1, 2], "tumour": [2, 2], "ignore": 3}
    found = _measure(raw_dataset(labels=labels, order=[1, 2]))
    assert found.volumes["organ"] == pytest.approx(np.isin(label, (1, 2)).sum() * 4.5 / 1000)
    assert found.intensities["organ"] == pytest.approx(image[np.isin(label, (1, 2))].mean(dtype=np.float64))
    assert set(found.volumes) == {"organ", "tumour"}


def test_a_class_that_does_not_occur_has_no_volume_and_no_intensity(raw_dataset, usual_case):
    image, label = usual_case(0)
    found = _measure(raw_dataset({"case_0": (image, np.where(label == 2, 0, label).astype(np.uint8))}))
    assert found.volumes["kidney_left"] == 0
    assert "kidney_left" not in found.intensities


def test_swapped_sides_are_found(raw_dataset, usual_case):
    image, label = usual_case(0)
    swapped = np.array([0, 1, 3, 2], np.uint8)[label]
    (finding,) = _measure(raw_dataset({"case_0": (image, swapped)})).findings
    assert "kidney_left" in finding


def test_an_image_without_label_map_has_a_picture_all_the_same(raw_dataset):
    folder = raw_dataset()
    (folder / "imagesTs").mkdir()
    (folder / "imagesTr" / "case_0_0000.nii.gz").rename(folder / "imagesTs" / "new_0000.nii.gz")
    found = _measure(folder, -1)
    assert (found.title, found.volumes, found.findings) == ("new (test)", {}, ())
    assert found.picture


def test_what_is_kept_of_a_case_does_not_grow_with_it(make_raw_dataset):
    rng = np.random.default_rng(0)
    image = rng.integers(-1000, 1000, (96, 192, 192)).astype(np.int16)
    label = rng.integers(0, 3, image.shape).astype(np.uint8)
    folder = make_raw_dataset("Dataset006_Large", {"background": 0, "a": 1, "b": 2}, {"x": (image, label)})
    assert len(pickle.dumps(_measure(folder))) < 100_000


@pytest.mark.parametrize("shape", [(13, 17, 10), (1, 40, 31), (25, 25, 25), (3, 4, 5)])
def test_flipped_and_swapped_axes_do_not_change_which_voxels_are_looked_at(monkeypatch, shape):
    monkeypatch.setattr(measuring, "_VOXELS_OF_FINGERPRINT", 150)
    array = np.arange(np.prod(shape)).reshape(shape)
    chosen = set(thinned(array).ravel().tolist())
    assert len(chosen) <= 300
    for axes in itertools.chain.from_iterable(itertools.combinations(range(3), count) for count in range(4)):
        for order in itertools.permutations(range(3)):
            assert set(thinned(np.flip(array, axes).transpose(order)).ravel().tolist()) == chosen


def _other_grid(folder):
    label = SimpleITK.ReadImage(str(folder / "labelsTr" / "case_0.nii.gz"))
    label.SetOrigin((500, 0, 0))
    SimpleITK.WriteImage(label, str(folder / "labelsTr" / "case_0.nii.gz"))


def _truncate(folder):
    file = folder / "imagesTr" / "case_0_0000.nii.gz"
    file.write_bytes(file.read_bytes()[:-200])


def _odd_value(folder):
    file = folder / "labelsTr" / "case_0.nii.gz"
    label = SimpleITK.ReadImage(str(file))
    label[0, 0, 0] = 77
    SimpleITK.WriteImage(label, str(file))


BAD = {
    "origin": _other_grid,
    "truncated": _truncate,
    "77 .1 voxels": _odd_value,
    "does not exist": lambda folder: (folder / "labelsTr" / "case_0.nii.gz").unlink(),
    r"1 channel.s., but found 2": lambda folder: (folder / "imagesTr" / "case_0_0001.nii.gz").write_bytes(
        (folder / "imagesTr" / "case_0_0000.nii.gz").read_bytes()
    ),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_case_is_a_sentence(raw_dataset, reason):
    folder = raw_dataset()
    BAD[reason](folder)
    with pytest.raises(UserError, match=reason):
        _measure(folder)
