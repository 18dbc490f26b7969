"""Predictions that go back to where the series came from."""

from __future__ import annotations

import json

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from fixtures.dicom_folders import oblique_grid

from nnunetv2_ext.cli.predict import main
from nnunetv2_ext.images.dicom_seg import Segmentation
from nnunetv2_ext.images.label_maps import DICOM_TYPES
from nnunetv2_ext.images.reading import read_dicom_series, read_volume
from nnunetv2_ext.images.rtstruct import StructureSet

GRID = oblique_grid((22, 20, 12), (1.5, 1.6, 2.5))
NAMES = {1: "liver", 2: "spleen", 3: "aorta"}


@pytest.fixture
def archive(dicom_folder, make_ct):
    """Two series, whose second has no frame of reference."""
    for number, patient in enumerate(("whole", "poor")):
        voxels = sitk.GetArrayFromImage(make_ct(seed=number))
        dicom_folder.series(f"{patient}/ct", voxels, GRID, patient=patient)
    for file in (dicom_folder.root / "poor/ct").iterdir():
        data = pydicom.dcmread(file)
        data.FrameOfReferenceUID = ""
        data.save_as(file)
    return dicom_folder.root


def _run(*arguments):
    return main([str(argument) for argument in ("-device", "cpu", "-f", 0, "-npp", 0, "-nps", 0, *arguments)])


def _check(labels, stem, grid):
    for kind, read in (("dicom_seg", Segmentation), ("dicom_seg_binary", Segmentation), ("rtstruct", StructureSet)):
        found = read(stem.with_name(stem.name + DICOM_TYPES[kind]))
        for value, name in NAMES.items():
            np.testing.assert_array_equal(found.mask([name], grid), labels == value, err_msg=f"{kind} {name}")


def test_several_types_say_the_same(softmax_model, archive, tmp_path):
    out = tmp_path / "out"
    flags = ("-i", archive / "whole", "-o", out, "-m", softmax_model, "--output_type", "nii.gz", *DICOM_TYPES)
    assert _run(*flags) == 0
    volume, series = read_volume(out / "whole_20200102_ct.nii.gz"), read_dicom_series(archive / "whole")
    assert series.grid.difference(volume.grid) is None
    assert set(np.unique(volume.array)) > {1, 2}
    _check(volume.array, out / "whole_20200102_ct", series.grid)
    content = pydicom.dcmread(out / "whole_20200102_ct.seg.dcm")
    record = json.loads((out / "prediction.json").read_text())
    (algorithm,) = {element.value for element in content.iterall() if element.keyword == "AlgorithmName"}
    (version,) = {element.value for element in content.iterall() if element.keyword == "AlgorithmVersion"}
    assert algorithm == softmax_model.name
    assert version == next(iter(record["checkpoints"].values()))[:12]
    assert _run(*flags, "--continue_prediction") == 0
    file = out / "whole_20200102_ct.rtstruct.dcm"
    file.write_bytes(file.read_bytes()[:-2000])
    assert _run(*flags, "--continue_prediction") == 0
    _check(volume.array, out / "whole_20200102_ct", series.grid)


def test_only_dicom_is_refused_where_uids_are_empty(softmax_model, archive, tmp_path, capfd):
    flags = ("-i", archive, "-m", softmax_model, "--output_type")
    assert _run(*flags, "nii.gz", "-o", tmp_path / "nifti") == 0
    capfd.readouterr()
    assert _run(*flags, "nii.gz", "dicom_seg", "-o", tmp_path / "both") == 1
    said = capfd.readouterr().err
    assert "poor_20200102_ct failed while" in said
    assert "pass --repair" in said
    names = {"poor_20200102_ct.nii.gz", "whole_20200102_ct.nii.gz", "whole_20200102_ct.seg.dcm"}
    assert {file.name for file in (tmp_path / "both").glob("*_ct.*")} == names
    assert _run(*flags, "rtstruct", "-o", tmp_path / "objects") == 1
    assert [file.name for file in (tmp_path / "objects").glob("*_ct.*")] == ["whole_20200102_ct.rtstruct.dcm"]
    assert _run(*flags, *DICOM_TYPES, "--repair", "-o", tmp_path / "repaired") == 0
    assert "FrameOfReferenceUID were empty and have been made anew" in capfd.readouterr().err
    labels = read_volume(tmp_path / "nifti" / "poor_20200102_ct.nii.gz").array
    _check(labels, tmp_path / "repaired" / "poor_20200102_ct", read_dicom_series(archive / "poor").grid)


def test_one_series_to_one_file(softmax_model, archive, tmp_path):
    file = tmp_path / "mine.rtstruct.dcm"
    assert _run("-i", archive / "whole", "-o", file, "-m", softmax_model, "--output_type", "rtstruct") == 0
    assert StructureSet(file).names <= set(NAMES.values())
    assert (tmp_path / "mine_labels.json").is_file()


def test_an_object_per_source(region_model, archive, tmp_path):
    flags = ("-i", archive / "whole", "-o", tmp_path / "out", "-m", region_model, "--outputs", "per_source")
    assert _run(*flags, "--output_type", "dicom_seg") == 0
    found = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.dcm")}
    assert found == {"A/whole_20200102_ct.seg.dcm", "B/whole_20200102_ct.seg.dcm"}


REFUSED = {
    "images": (("-i", "{images}", "--output_type", "dicom_seg"), "Expected DICOM series as input for --output_type"),
    "pseudonyms": (("--output_type", "rtstruct", "--pseudonyms", "{table}"), "DICOM objects name the patient"),
    "repair": (("--repair",), "Expected --repair with --output_type dicom_seg, dicom_seg_binary, rtstruct"),
    "file": (("-o", "{tmp}/a.seg.dcm", "--output_type", "rtstruct"), ".seg.nrrd, .rtstruct.dcm, as the output"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_is_refused_at_the_start(softmax_model, archive, ct_file, tmp_path, capfd, kind):
    arguments, sentence = REFUSED[kind]
    places = {"images": ct_file.parent, "table": tmp_path / "table.csv", "tmp": tmp_path}
    defaults = ("-i", archive / "whole", "-o", tmp_path / "out", "-m", softmax_model)
    assert _run(*defaults, *(argument.format(**places) for argument in arguments)) == 2
    assert sentence in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
