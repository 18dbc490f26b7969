"""Label maps as DICOM objects, read by programs that know nothing of this package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from fixtures.dicom_folders import SECRETS, oblique_grid
from fixtures.dicom_tools import read_with_dcmqi, read_with_plastimatch, validate
from scipy.ndimage import gaussian_filter

from nnunetv2_ext.cli.to_dicom import main
from nnunetv2_ext.images.dicom_annotations import read_annotation
from nnunetv2_ext.images.dicom_seg import Segmentation
from nnunetv2_ext.images.geometry import Grid
from nnunetv2_ext.images.label_maps import DICOM_TYPES, write_label_map
from nnunetv2_ext.images.reading import read_dicom_series
from nnunetv2_ext.images.rtstruct import StructureSet

NAMES = {1: "spleen", 2: "kidney_right", 3: "kidney_left", 24: "kidney_cyst_left", 5: "liver", 117: "nobody_knows"}


def _labels(shape: tuple[int, ...]) -> np.ndarray:
    """Bodies with holes that touch each other and the border; slices without any, and a class that is nowhere."""
    random = np.random.default_rng(0)
    fields = [gaussian_filter(random.normal(size=shape), (1, 4, 4)) for _ in range(4)]
    labels = np.zeros(shape, np.uint8)
    for value, field in zip((1, 3, 24, 117), fields, strict=True):
        labels[np.abs(field) < 0.3 * field.std()] = value
    labels[:, shape[1] // 4 : shape[1] // 2, : shape[2] // 2] = 5
    labels[2:-2, shape[1] // 3 : shape[1] // 3 + 3, 5:9] = 0
    labels[[0, shape[0] // 2]] = 0
    return labels


def _run(labels: Path, series: Path, target: Path, *options: object) -> int:
    return main([str(argument) for argument in (labels, "-series", series, "-o", target, *options)])


def _all_types(labels: Path, series: Path, folder: Path, *options: object) -> dict[str, Path]:
    files = {kind: folder / f"{kind}.dcm" for kind in DICOM_TYPES}
    for kind, file in files.items():
        assert _run(labels, series, file, "--output_type", kind, *options) == 0
    return files


_PLAIN = Grid((44, 40, 8), (1.5, 1.25, 3.0), (-40.0, 25.0, 310.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
SERIES = {
    "plain": _PLAIN,
    # From the head downwards.
    "reversed": replace(_PLAIN, direction=(1, 0, 0, 0, -1, 0, 0, 0, -1)),
    # From the patient's left to the right.
    "row-flipped": replace(_PLAIN, direction=(-1, 0, 0, 0, 1, 0, 0, 0, -1)),
    "coronal": replace(_PLAIN, direction=(1, 0, 0, 0, 0, 1, 0, -1, 0)),
    "oblique": oblique_grid((44, 40, 8), (1.5, 1.25, 3.0)),
}


@pytest.fixture
def made(dicom_folder, tmp_path):
    """``made("oblique")``: a label map with names in its header, and the folder of its series."""

    def make(kind: str) -> tuple[np.ndarray, Path, Path]:
        grid = SERIES[kind]
        dicom_folder.series("ct", np.random.default_rng(1).integers(-1000, 1000, grid.shape), grid)
        labels = _labels(grid.shape)
        file = tmp_path / "labels.nii.gz"
        write_label_map(labels, NAMES, grid, file)
        return labels, file, dicom_folder.root / "ct"

    return make


@pytest.mark.parametrize("kind", SERIES)
def test_objects_hold_the_voxels_of_the_label_map(made, tmp_path, kind):
    labels, file, series = made(kind)
    files = _all_types(file, series, tmp_path)
    grid = read_dicom_series(series).grid
    for output, read in (("dicom_seg", Segmentation), ("dicom_seg_binary", Segmentation), ("rtstruct", StructureSet)):
        found = read(files[output])
        for value, name in NAMES.items():
            np.testing.assert_array_equal(found.mask([name], grid), labels == value, err_msg=f"{output} {name}")


@pytest.mark.parametrize("kind", SERIES)
@pytest.mark.system
def test_other_programs_read_the_same_voxels(made, tmp_path, kind):
    labels, file, series = made(kind)
    _check_with_other_programs(_all_types(file, series, tmp_path), labels, SERIES[kind], tmp_path)


def _check_with_other_programs(files: dict[str, Path], labels: np.ndarray, grid: Grid, folder: Path) -> None:
    for kind, file in files.items():
        validate(file)
        if kind == "rtstruct":
            masks = read_with_plastimatch(file, grid, folder / kind)
            assert masks.keys() == {NAMES[value] for value in np.unique(labels) if value}
            for value, name in NAMES.items():
                if name in masks:
                    np.testing.assert_array_equal(masks[name], labels == value, err_msg=name)
            continue
        found, segments = read_with_dcmqi(file, grid, folder / kind)
        names = {number: segment["SegmentLabel"] for number, segment in segments.items()}
        for value, name in NAMES.items():
            numbers = [number for number, label in names.items() if label == name]
            np.testing.assert_array_equal(np.isin(found, numbers), labels == value, err_msg=f"{kind} {name}")
        (kidney,) = (segment for segment in segments.values() if segment["SegmentLabel"] == "kidney_left")
        assert kidney["SegmentedPropertyTypeCodeSequence"]["CodeValue"] == "64033007"
        assert kidney["SegmentedPropertyTypeModifierCodeSequence"]["CodeMeaning"] == "Left"
        assert kidney["SegmentAlgorithmName"] == "not stated"


@pytest.fixture
def scanner(real_ct_folder, tmp_path):
    """A series of a scanner, JPEG 2000 in files without an ending, whose UIDs were taken away; and a label map."""
    series = real_ct_folder / "ct_dicom"
    volume = read_dicom_series(series)
    depth, rows, columns = volume.grid.shape
    labels = _labels((depth, 26, 32)).repeat(20, axis=1).repeat(16, axis=2)[:, :rows, :columns]
    write_label_map(labels, NAMES, volume.grid, tmp_path / "labels.seg.nrrd")
    return series, labels, volume.grid, tmp_path / "labels.seg.nrrd"


def test_a_series_of_a_scanner_without_uids_is_refused_unless_repaired(scanner, tmp_path, capfd):
    series, labels, grid, file = scanner
    for kind in DICOM_TYPES:
        assert _run(file, series, tmp_path / "refused.dcm", "--output_type", kind) == 2
        said = capfd.readouterr().err
        assert "Expected SOPInstanceUID" in said
        assert "pass --repair" in said
    assert not (tmp_path / "refused.dcm").exists()
    files = _all_types(file, series, tmp_path, "--repair")
    assert "have been made anew" in capfd.readouterr().err
    headers = [pydicom.dcmread(one, stop_before_pixels=True) for one in series.iterdir()]
    studies = set()
    for output, read in (("dicom_seg", Segmentation), ("dicom_seg_binary", Segmentation), ("rtstruct", StructureSet)):
        found, header = read(files[output]), pydicom.dcmread(files[output], stop_before_pixels=True)
        for value, name in NAMES.items():
            np.testing.assert_array_equal(found.mask([name], grid), labels == value, err_msg=f"{output} {name}")
        referred = read_annotation(files[output]).instances
        assert {str(header.file_meta.MediaStorageSOPInstanceUID) for header in headers} <= referred
        studies.add(header.StudyInstanceUID)
    assert len(studies) == 1


@pytest.mark.system
def test_other_programs_read_objects_of_a_scanner(scanner, tmp_path):
    series, labels, grid, file = scanner
    _check_with_other_programs(_all_types(file, series, tmp_path, "--repair"), labels, grid, tmp_path)


# What is refused -----------------------------------------------------------------------------------------------------


def _moved(move):
    def change(data, number):
        data.ImagePositionPatient = [float(value) for value in move(np.array(data.ImagePositionPatient, float), data)]

    return change


def _tilt(position, data):
    return position + np.array([0, (position[2] - 310) / 4, 0])


def _jitter(position, data):
    return position + np.array([0, 0, 0.5 * (abs(position[2] - 316) < 1)])


def _doubled(position, data):
    return [*position[:2], 310 + (position[2] - 310) // 6 * 6]


def _in_one(**elements):
    def change(data, number):
        if number == 3:
            for keyword, value in elements.items():
                setattr(data, keyword, value)

    return change


REFUSED = {
    "a slice is missing": (None, "a slice is probably missing"),
    "uneven slices": (_moved(_jitter), "Expected slices at equal distances"),
    "a tilted gantry": (_moved(_tilt), "a gantry tilt of 14.0 degrees"),
    "two images at a position": (_moved(_doubled), "Expected one image per position"),
    "another spacing": (_in_one(PixelSpacing=[1.25, 1.6]), "slices of one pixel spacing"),
    "another orientation": (_in_one(ImageOrientationPatient=[0, 1, 0, 1, 0, 0]), "slices of one orientation"),
    "no frame of reference": (_in_one(FrameOfReferenceUID=""), "Expected FrameOfReferenceUID in all slices"),
    "two studies": (_in_one(StudyInstanceUID="1.2.3"), "2 different StudyInstanceUIDs; part them"),
    "two series": (_in_one(SeriesInstanceUID="1.2.3"), "Expected one DICOM image series in"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_series_that_objects_cannot_describe_are_refused(made, tmp_path, capfd, kind):
    _, file, series = made("plain")
    change, sentence = REFUSED[kind]
    slices = sorted(series.iterdir(), key=lambda one: pydicom.dcmread(one).ImagePositionPatient[2])
    if change is None:
        slices[3].unlink()
    else:
        for number, one in enumerate(slices):
            data = pydicom.dcmread(one)
            change(data, number)
            data.save_as(one)
    capfd.readouterr()
    assert _run(file, series, tmp_path / "out.dcm") == 2
    said = capfd.readouterr().err
    assert sentence in said
    assert not [secret for secret in (*SECRETS.values(), "Muster", "Traceback") if secret in said]
    assert not list(tmp_path.glob("out.dcm*"))


def test_a_slice_of_other_rows_is_refused(made, tmp_path, capfd):
    _, file, series = made("plain")
    one = sorted(series.iterdir())[2]
    data = pydicom.dcmread(one)
    data.Rows, data.PixelData = data.Rows - 2, data.PixelData[: -4 * data.Columns]
    data.save_as(one)
    assert _run(file, series, tmp_path / "out.dcm") == 2
    assert "Expected a complete image in" in capfd.readouterr().err


def test_label_maps_that_cannot_be_of_the_series_are_refused(made, tmp_path, capfd):
    labels, file, series = made("plain")
    other = tmp_path / "other.nii.gz"
    write_label_map(labels[:-1], NAMES, replace(SERIES["plain"], size=(44, 40, 7)), other)
    assert _run(other, series, tmp_path / "out.dcm") == 2
    assert "(44, 40, 8) voxels and (44, 40, 7)" in capfd.readouterr().err
    sitk.WriteImage(SERIES["plain"].image(labels), str(tmp_path / "nameless.nrrd"))
    assert _run(tmp_path / "nameless.nrrd", series, tmp_path / "out.dcm") == 2
    assert "pass --order" in capfd.readouterr().err
    assert _run(tmp_path / "nameless.nrrd", series, tmp_path / "out.dcm", "--order", "msd_spleen") == 2
    assert "found none for 3, 5, 24, 117" in capfd.readouterr().err
    assert _run(tmp_path / "nameless.nrrd", series, tmp_path / "out.dcm", "--order", "totalsegmentator_v2") == 0
    assert _run(file, series, series / "out.dcm") == 2
    assert "overlap" in capfd.readouterr().err


def test_nobody_is_told_who_the_patient_is(made, tmp_path, capfd):
    _, file, series = made("plain")
    for one in series.iterdir():
        data = pydicom.dcmread(one)
        data.PatientName = "MusterJolandawithoutcaret"
        data["PatientSex"] = pydicom.DataElement("PatientSex", "CS", "Muster", validation_mode=0)
        data.save_as(one)
    _all_types(file, series, tmp_path)
    said = "".join(capfd.readouterr())
    assert not [secret for secret in (*SECRETS.values(), "Muster") if secret in said]


def test_the_commands_of_the_documentation_run(made, tmp_path, code_in, monkeypatch):
    _, file, series = made("plain")
    places = {"LABELS.nii.gz": file, "SERIES": series}
    lines = [line for block in code_in("dicom.md", "bash") for line in block.splitlines()]
    commands = [line.split()[1:] for line in lines if line.startswith("nnUNetv2_ext_to_dicom ")]
    assert len(commands) >= 3
    monkeypatch.chdir(tmp_path)
    for words in commands:
        assert main([str(places.get(word, word)) for word in words]) == 0, words
