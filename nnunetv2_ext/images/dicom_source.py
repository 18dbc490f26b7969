"""The series that a DICOM object is made for: what its headers must say so that the object is found beside it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_ext import __version__
from nnunetv2_ext.images.dicom import find_series
from nnunetv2_ext.images.files import opened
from nnunetv2_ext.images.geometry import AxisTurn, Grid
from nnunetv2_ext.images.volumes import Volume, turned
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.extras import require_extra
from nnunetv2_ext.utilities.files import sha256_of

_logger = logging.getLogger(__name__)

#: What every object says in the description of its series.
DESCRIPTION = "Segmentation (research use only; not a medical device)"
_SOFTWARE = "nnunetv2-ext"

# What objects refer to, in all slices alike but for the first one; and whose patient it is.
_IDENTIFIERS = ("SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_SHARED = (*_IDENTIFIERS[2:], "PatientID")
# May be empty, but must be there.
_PATIENT_AND_STUDY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"),
    *("StudyTime", "ReferringPhysicianName", "PositionReferenceIndicator"),
)


@dataclass(frozen=True)
class Algorithm:
    """What made a label map."""

    name: str
    version: str

    def identification(self) -> Any:
        """As a DICOM sequence, whose texts take up to 64 characters."""
        from highdicom import AlgorithmIdentificationSequence
        from pydicom.sr.codedict import codes

        family = codes.DCM.ArtificialIntelligence
        return AlgorithmIdentificationSequence(self.name[:64], family, self.version[:64], source=_SOFTWARE)


@dataclass(frozen=True)
class SourceSeries:
    """A series that objects can refer to.

    Attributes:
        headers: Of every slice (pydicom's ``Dataset``), in the order of the slices of the grid; the first one is
            complete, without the address of the institution.
        grid: Where the voxels lie.
    """

    headers: tuple[Any, ...]
    grid: Grid

    def object_arguments(self, number: int) -> dict[str, Any]:
        """Arguments that the classes of highdicom share.

        Args:
            number: Of the object among those of the series, from 1.
        """
        from pydicom.uid import generate_uid

        # Beside the number of the images; integer strings end at 2^31.
        series_number = 100 * (int(self.headers[0].get("SeriesNumber") or 0) % 10**6) + number
        return {
            "series_instance_uid": generate_uid(),
            "series_number": series_number,
            "series_description": DESCRIPTION,
            "sop_instance_uid": generate_uid(),
            "instance_number": 1,
            "manufacturer": _SOFTWARE,
            "manufacturer_model_name": _SOFTWARE,
            "software_versions": __version__,
            "device_serial_number": "0",
            "content_qualification": "RESEARCH",
            # Names of classes are in any script.
            "specific_character_set": "ISO_IR 192",
        }


def only_series(folder: Path) -> tuple[Path, ...]:
    """The slices of the one series in a folder and those below it.

    Raises:
        UserError: There is none, or several, of which nobody says which one is meant.
    """
    found = find_series(folder)
    if len(found) != 1:
        names = ", ".join(f"{one.name} ({len(one.files)} slices)" for one in found[:8]) or "none"
        raise UserError(f"Expected one DICOM image series in {folder}, but found {names}; name the folder of one.")
    return found[0].files


def read_source(files: Sequence[Path], grid: Grid, *, repair: bool = False) -> SourceSeries:
    """Reads the headers of a series whose voxels have been read, and checks that objects can refer to it.

    Args:
        files: The slices in their order.
        grid: As the voxels were read, see `read_slices`.
        repair: Whether to make new UIDs in place of empty ones; they depend on the slices alone, so that all objects of
            a series get the same.

    Raises:
        UserError: UIDs are empty, the slices are not of one series, or they are no single slices; pydicom or highdicom
            is not installed.
    """
    require_extra("dicom", "Writing DICOM", "pydicom", "highdicom", "skimage")
    import pydicom
    from pydicom.config import disable_value_validation

    folder = files[0].parent
    # What pydicom warns of could be of the patient.
    with opened(folder, folder=True), disable_value_validation():
        headers = [pydicom.dcmread(file, stop_before_pixels=True, force=True) for file in files]
        _complete(headers, files, repair)
        _check(headers, folder)
        _prepare(headers[0])  # from which patient, study and scanner are taken
    return SourceSeries(tuple(headers), grid)


def on_source(labels: Volume, source: SourceSeries, file: Path) -> Volume:
    """A label map with its axes as those of the series; voxels are never resampled.

    Args:
        labels: In any order of the axes.
        source: The series.
        file: Where the label map comes from.

    Raises:
        UserError: It lies on other voxels.
    """
    grid, orientation = source.grid, source.grid.orientation
    if labels.grid.dimension == 3 and grid.difference(labels.grid) and orientation is not None:
        labels = turned(labels, AxisTurn.to(orientation, labels.grid))
    if difference := grid.difference(labels.grid):
        raise UserError(
            f"Expected a label map on the voxels of the series, but the series and {file} have {difference}; resample "
            "it, or name the series that it was made for."
        )
    return labels


def _complete(headers: Sequence[Any], files: Sequence[Path], repair: bool) -> None:
    """Fills identifiers that are empty, or refuses them."""
    from pydicom.uid import generate_uid

    folder = files[0].parent
    empty = [keyword for keyword in _IDENTIFIERS if not all(header.get(keyword) for header in headers)]
    if not empty:
        return
    if not repair:
        raise UserError(
            f"Expected {', '.join(empty)} in all slices of {folder}, which DICOM objects refer to, but found "
            f"{'it' if len(empty) == 1 else 'them'} empty; get the series again, or pass --repair to have new ones "
            "made."
        )
    for header, file in zip(headers, files, strict=True):
        meta = header.get("file_meta") or {}
        own = header.get("SOPInstanceUID") or meta.get("MediaStorageSOPInstanceUID")
        header.SOPInstanceUID = own or generate_uid(entropy_srcs=[sha256_of(file)])
        header.SOPClassUID = header.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID")
        if not header.SOPClassUID:
            raise UserError(f"Expected what kind of image {file} is (SOPClassUID), but it is empty; get it again.")
    instances = sorted(header.SOPInstanceUID for header in headers)
    for keyword in _IDENTIFIERS[2:]:
        known = next((header.get(keyword) for header in headers if header.get(keyword)), None)
        new = known or generate_uid(entropy_srcs=[keyword, *instances])
        for header in headers:
            setattr(header, keyword, header.get(keyword) or new)
    _logger.warning(
        "%s: %s were empty and have been made anew, SOPInstanceUIDs from the files' meta headers where these have one; "
        "the series itself stays as it is, and programs will not know the objects as its own by them.",
        *(folder, ", ".join(empty)),
    )


def _check(headers: Sequence[Any], folder: Path) -> None:
    for keyword in _SHARED:
        values = {str(header.get(keyword, "")) for header in headers}
        if len(values) > 1:
            raise UserError(
                f"Expected the slices of one series in {folder}, but they have {len(values)} different {keyword}s; "
                "part them."
            )
    if len({header.SOPInstanceUID for header in headers}) < len(headers):
        raise UserError(
            f"Expected an SOPInstanceUID of its own for every slice of {folder}, but some share one; get the series "
            "again."
        )
    frames = max(int(header.get("NumberOfFrames") or 1) for header in headers)
    if frames > 1:
        raise UserError(
            f"Expected single slices in {folder}, but a file there holds {frames}; DICOM objects are made for series "
            "of single slices only."
        )


def _prepare(header: Any) -> None:
    """Adds what highdicom asks for, and takes away what it would refuse with its content, or what should not travel."""
    from highdicom import PatientSexValues
    from pydicom.valuerep import DA, TM

    for keyword in _PATIENT_AND_STUDY:
        if keyword not in header:
            setattr(header, keyword, "")
    kinds = {"PatientBirthDate": DA, "StudyDate": DA, "StudyTime": TM, "PatientSex": PatientSexValues}
    for keyword, kind in kinds.items():
        try:
            if header[keyword].value:
                kind(header[keyword].value)
        except ValueError:
            header[keyword].value = ""

    def drop_address(dataset: Any, element: Any) -> None:
        if element.keyword == "InstitutionAddress":
            del dataset[element.tag]

    # Physicians may have one, too.
    header.walk(drop_address)
