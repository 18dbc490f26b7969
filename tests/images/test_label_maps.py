"""Label maps on disk: values, grid, smallest type, names."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
import SimpleITK

from nnunetv2_ext.images.geometry import Grid
from nnunetv2_ext.images.label_maps import is_complete, label_type, labels_json, write_label_map
from nnunetv2_ext.images.reading import read_scan, scan_of_array
from nnunetv2_ext.inference.cases import Case
from nnunetv2_ext.labels import LabelOrder
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import write_json

NAMES = {1: "liver", 2: "A/tumour <&>", 7: "Dünndarm"}
ENDINGS = [".nii.gz", ".nii", ".nrrd", ".mha", ".seg.nrrd"]
OBLIQUE = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
PERMUTED = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


@pytest.fixture
def labels():
    return np.random.default_rng(0).choice([0, 1, 2, 7], size=(5, 6, 8)).astype(np.int32)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("direction", [None, OBLIQUE, PERMUTED], ids=["straight", "oblique", "permuted"])
@pytest.mark.parametrize("from_nifti", [False, True])
def test_any_format_keeps_values_and_grid(tmp_path, make_ct, labels, ending, direction, from_nifti):
    image = make_ct(size=(8, 6, 5), direction=direction)
    grid = Grid.of(image)
    if from_nifti:
        SimpleITK.WriteImage(image, str(tmp_path / "ct.nii.gz"))
        grid = read_scan(Case("ct", (tmp_path / "ct.nii.gz",)), 1, admit_2d=False).grid
    write_label_map(labels, NAMES, grid, tmp_path / f"map{ending}")
    read = SimpleITK.ReadImage(str(tmp_path / f"map{ending}"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(read), labels)
    assert read.GetPixelID() == SimpleITK.sitkUInt8
    np.testing.assert_allclose(read.GetSpacing(), image.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(read.GetOrigin(), image.GetOrigin(), rtol=1e-6)
    np.testing.assert_allclose(read.GetDirection(), image.GetDirection(), atol=1e-6)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_2d_grid_stays_2d(tmp_path, make_ct, labels, ending):
    image = make_ct(size=(8, 6, 5))[:, :, 2]
    write_label_map(labels[:1], NAMES, Grid.of(image), tmp_path / f"map{ending}")
    read = SimpleITK.ReadImage(str(tmp_path / f"map{ending}"))
    # Slicer's format knows three dimensions only.
    assert read.GetDimension() == (3 if ending == ".seg.nrrd" else 2)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(read).reshape(6, 8), labels[0])
    np.testing.assert_allclose(read.GetSpacing()[:2], image.GetSpacing(), rtol=1e-6)


@pytest.mark.parametrize(("highest", "kind"), [(1, "uint8"), (255, "uint8"), (256, "uint16"), (70000, "uint32")])
def test_the_smallest_type_that_holds_all_classes_is_taken(tmp_path, make_ct, labels, highest, kind):
    assert label_type(highest) == kind
    write_label_map(labels % 2, {highest: "x"}, Grid.of(make_ct(size=(8, 6, 5))), tmp_path / "map.nii.gz")
    assert nibabel.Nifti1Image.from_filename(tmp_path / "map.nii.gz").get_data_dtype() == kind


def test_names_json_is_read_as_a_label_order_and_holds_colours(tmp_path):
    write_json(labels_json({1: "liver", 2: "spleen"}), tmp_path / "labels.json")
    content = json.loads((tmp_path / "labels.json").read_text())
    assert content["labels"] == {"background": 0, "liver": 1, "spleen": 2}
    assert all(len(colour) == 3 and max(colour) <= 255 for colour in content["colors"].values())
    assert LabelOrder.from_dataset_json(content).value("spleen") == 2


def test_a_failed_write_leaves_nothing_and_says_why(tmp_path, make_ct, labels, monkeypatch):
    def half(image, target):
        target.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(nibabel, "save", half)
    with pytest.raises(UserError, match=r"map\.nii\.gz, but that failed \(No space left"):
        write_label_map(labels, NAMES, Grid.of(make_ct(size=(8, 6, 5))), tmp_path / "map.nii.gz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_only_files_that_can_be_read_to_their_end_are_complete(tmp_path, labels, ending):
    file = tmp_path / f"map{ending}"
    assert not is_complete(file)
    write_label_map(labels, NAMES, scan_of_array(labels, (1, 1, 1)).grid, file)
    assert is_complete(file)
    content = file.read_bytes()
    for share in (0.0, 0.6):
        file.write_bytes(content[: int(len(content) * share)])
        assert not is_complete(file)
