"""Series that DICOM objects can refer to, and those that they cannot."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from fixtures.dicom_folders import oblique_grid
from pydicom.config import disable_value_validation

from nnunetv2_ext.images.dicom_source import on_source, only_series, read_source
from nnunetv2_ext.images.geometry import AxisTurn
from nnunetv2_ext.images.reading import read_slices
from nnunetv2_ext.images.volumes import Volume, turned
from nnunetv2_ext.utilities.errors import UserError

GRID = oblique_grid((9, 8, 6), (1.5, 1.25, 3.0))
UIDS = ("SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")


@pytest.fixture
def series(dicom_folder) -> Path:
    """A folder with one oblique series."""
    dicom_folder.series("ct", np.random.default_rng(0).integers(-1000, 1000, GRID.size[::-1]), GRID)
    return dicom_folder.root / "ct"


def _change(folder: Path, change: Callable[[pydicom.Dataset, int], None]) -> None:
    for number, file in enumerate(sorted(folder.iterdir())):
        data = pydicom.dcmread(file)
        change(data, number)
        data.save_as(file)


def _emptied(*keywords: str, meta: bool = False) -> Callable[[pydicom.Dataset, int], None]:
    def change(data: pydicom.Dataset, number: int) -> None:
        for keyword in keywords:
            setattr(data, keyword, "")
        if meta:
            del data.file_meta.MediaStorageSOPInstanceUID

    return change


def _set_in_one(keyword: str, value: str) -> Callable[[pydicom.Dataset, int], None]:
    return lambda data, number: setattr(data, keyword, value) if number == 2 else None


def test_headers_are_those_of_the_slices_in_their_order(series):
    files = only_series(series)
    source = read_source(files, read_slices(files).grid)
    assert GRID.difference(source.grid) is None
    for z, (header, file) in enumerate(zip(source.headers, files, strict=True)):
        assert header.SOPInstanceUID == pydicom.dcmread(file).SOPInstanceUID
        np.testing.assert_allclose(header.ImagePositionPatient, (GRID.matrix @ [0, 0, z, 1])[:3], atol=1e-4)
        assert "PixelData" not in header


def test_no_address_travels_and_what_nobody_can_read_is_left_out(series):
    def change(data, number):
        data.InstitutionAddress = "1 Hospital Road"
        physician = pydicom.Dataset()
        physician.InstitutionAddress = "2 Hospital Road"
        data.ReferringPhysicianIdentificationSequence = [physician]
        del data.StudyID
        data["PatientBirthDate"] = pydicom.DataElement("PatientBirthDate", "DA", "in spring", validation_mode=0)

    with disable_value_validation():
        _change(series, change)
    header = read_source(only_series(series), GRID).headers[0]
    assert "Hospital Road" not in str(header)
    assert (header.StudyID, header.PatientBirthDate) == ("", "")


REFUSED = {
    "no instance": (_emptied("SOPInstanceUID"), "Expected SOPInstanceUID in all slices of"),
    "no study, no series": (_emptied(*UIDS[2:4]), "Expected StudyInstanceUID, SeriesInstanceUID in all slices of"),
    "no frame of reference": (_emptied("FrameOfReferenceUID"), "Expected FrameOfReferenceUID in all slices of"),
    "none in one slice": (_set_in_one("FrameOfReferenceUID", ""), "Expected FrameOfReferenceUID in all slices of"),
    "two studies": (_set_in_one("StudyInstanceUID", "1.2.3"), "they have 2 different StudyInstanceUIDs"),
    "two frames of reference": (_set_in_one("FrameOfReferenceUID", "1.2.3"), "2 different FrameOfReferenceUIDs"),
    "two patients": (_set_in_one("PatientID", "P2"), "2 different PatientIDs"),
    "one instance": (lambda data, number: setattr(data, "SOPInstanceUID", "1.2.3"), "but some share one"),
    "several frames": (lambda data, number: setattr(data, "NumberOfFrames", 3), "but a file there holds 3"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_objects_cannot_refer_to(series, kind):
    change, sentence = REFUSED[kind]
    files = only_series(series)
    _change(series, change)
    with pytest.raises(UserError, match=sentence):
        read_source(files, GRID)


@pytest.mark.parametrize("meta", [False, True])
def test_repair_makes_new_uids_that_depend_on_the_slices_alone(series, caplog, meta):
    files = only_series(series)
    before = [pydicom.dcmread(file).file_meta.MediaStorageSOPInstanceUID for file in files]
    _change(series, _emptied(*UIDS, meta=meta))
    content = [file.read_bytes() for file in files]
    with caplog.at_level(logging.WARNING, logger="nnunetv2_ext"):
        source = read_source(files, GRID, repair=True)
    assert "were empty and have been made anew" in caplog.text
    own = [header.SOPInstanceUID for header in source.headers]
    assert (own == before) is not meta
    assert len(set(own)) == len(files)
    assert {header.SOPClassUID for header in source.headers} == {"1.2.840.10008.5.1.4.1.1.2"}
    for keyword in UIDS[2:]:
        (uid,) = {header[keyword].value for header in source.headers}
        assert pydicom.uid.UID(uid).is_valid
        again = read_source(files, GRID, repair=True).headers[0]
        assert again[keyword].value == uid
    assert len({source.headers[0][keyword].value for keyword in UIDS}) == len(UIDS)
    assert [file.read_bytes() for file in files] == content


def test_repair_keeps_what_is_there(series):
    files = only_series(series)
    study = pydicom.dcmread(files[0]).StudyInstanceUID
    _change(
        series, lambda data, number: setattr(data, "StudyInstanceUID", data.StudyInstanceUID if number == 3 else "")
    )
    headers = read_source(files, GRID, repair=True).headers
    assert {header.StudyInstanceUID for header in headers} == {study}


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIL", "SAR"])
def test_label_maps_are_turned_to_the_series(series, orientation):
    files = only_series(series)
    source = read_source(files, read_slices(files).grid)
    labels = Volume(np.random.default_rng(1).integers(0, 5, GRID.shape, np.uint8), source.grid)
    stored = turned(labels, AxisTurn.to(orientation, source.grid))
    found = on_source(Volume(np.ascontiguousarray(stored.array), stored.grid), source, Path("labels.nii.gz"))
    np.testing.assert_array_equal(found.array, labels.array)


def test_label_maps_of_other_voxels_are_refused(series):
    files = only_series(series)
    source = read_source(files, read_slices(files).grid)
    other = oblique_grid((9, 8, 6), (1.5, 1.25, 2.0))
    with pytest.raises(UserError, match=r"the series and labels.nii.gz have a spacing of"):
        on_source(Volume(np.zeros(other.shape, np.uint8), other), source, Path("labels.nii.gz"))


def test_of_several_series_one_is_to_be_named(series, dicom_folder):
    dicom_folder.series("other/ct", np.zeros(GRID.size[::-1]), GRID)
    with pytest.raises(UserError, match=r"but found P1_20200102_ct \(6 slices\), P1_20200102_ct_2 \(6 slices\)"):
        only_series(dicom_folder.root)
    (dicom_folder.root / "empty").mkdir()
    with pytest.raises(UserError, match="but found none"):
        only_series(dicom_folder.root / "empty")
