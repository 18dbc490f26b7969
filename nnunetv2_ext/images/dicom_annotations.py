"""Annotations in DICOM: what segmentations (SEG) and structure sets (RTSTRUCT) delineate, and on which images.

They are read with pydicom, which decodes all that SEG is stored in. highdicom infers a volume from the frames that are
there, of which a single one has no distance to the next; here they lie on a volume that is known, that of the images.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_ext.images.dicom import Series
from nnunetv2_ext.images.files import opened
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.extras import require_extra
from nnunetv2_ext.utilities.names import quoted

STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
# What objects are called by, and what may not be in a name: keyword -> tag.
_HEADER = {
    **{"PatientID": "0010|0020", "StudyDate": "0008|0020", "SeriesDescription": "0008|103e"},
    **{"PatientName": "0010|0010", "PatientBirthDate": "0010|0030", "AccessionNumber": "0008|0050"},
}
_REFERENCES = ("ReferencedSeriesSequence", "ReferencedFrameOfReferenceSequence")
_CONTENTS = ("SegmentSequence", "StructureSetROISequence", "ROIContourSequence")
# Where objects that name no images at their beginning do so.
_PARTS = ("PerFrameFunctionalGroupsSequence", "ROIContourSequence")


@dataclass(frozen=True)
class Annotation:
    """The header of an annotation.

    Attributes:
        file: The object.
        header: What it is called by, see `own_name`.
        names: What it delineates, as `plain_name` writes it.
        series: Series Instance UIDs of the images that it was drawn on.
        instances: SOP Instance UIDs of the images that it was drawn on.
        frames_of_reference: UIDs of the coordinates that it is in.
    """

    file: Path
    header: dict[str, str]
    names: frozenset[str]
    series: frozenset[str]
    instances: frozenset[str]
    frames_of_reference: frozenset[str]


def plain_name(text: object) -> str:
    """The name of a structure or segment as it is compared: without capitals, ``_`` for blanks."""
    return re.sub(r"\s+", "_", str(text).strip().casefold())


def read_annotation(file: Path) -> Annotation:
    """Reads what an annotation delineates, and on which images; no voxels.

    Raises:
        UserError: It cannot be read.
    """
    tags = ["SOPClassUID", "FrameOfReferenceUID", *_REFERENCES, *_CONTENTS, *_HEADER]
    content = read_object(file, stop_before_pixels=True, specific_tags=tags)
    with reading(file):
        header = {tag: str(content.get(keyword, "")) for keyword, tag in _HEADER.items()}
        names = structures(content) if content.SOPClassUID == STRUCTURE_SET else segments(content)
        parts = [item for name in _REFERENCES for item in content.get(name) or ()]
        if not set(_values(parts, "ReferencedSOPInstanceUID", "SeriesInstanceUID")):
            whole = read_object(file, stop_before_pixels=True, specific_tags=list(_PARTS))
            parts += [item for name in _PARTS for item in whole.get(name) or ()]
        frames = [str(content.get("FrameOfReferenceUID", "")), *_values(parts, "FrameOfReferenceUID")]
        return Annotation(
            file,
            header,
            frozenset[str](names),
            frozenset(_values(parts, "SeriesInstanceUID")),
            frozenset(_values(parts, "ReferencedSOPInstanceUID")),
            frozenset(frames) - {""},
        )


def structures(content: Any) -> dict[str, list[Any]]:
    """Plain name -> contours of the structures of a structure set; those that nobody drew are left out."""
    names = {int(item.ROINumber): plain_name(item.ROIName) for item in content.StructureSetROISequence}
    found: dict[str, list[Any]] = {}
    for item in content.ROIContourSequence:
        if contours := item.get("ContourSequence"):
            found.setdefault(names[int(item.ReferencedROINumber)], []).append(contours)
    return found


def segments(content: Any) -> dict[str, list[int]]:
    """Plain name -> numbers of the segments of a segmentation; label maps may list the background as 0."""
    found: dict[str, list[int]] = {}
    for item in content.SegmentSequence:
        if number := int(item.SegmentNumber):
            found.setdefault(plain_name(item.SegmentLabel), []).append(number)
    return found


def referred_series(annotation: Annotation, series: Sequence[Series]) -> Series:
    """The series that an annotation was drawn on: the one with most of the images that it names.

    Raises:
        UserError: It is not there, is there several times, or lies in other coordinates.
    """
    shared = [len(annotation.instances & one.instances) for one in series]
    if any(shared):
        found = [one for one, count in zip(series, shared, strict=True) if count == max(shared)]
    else:
        found = [one for one in series if one.uid in annotation.series]
    frames = annotation.frames_of_reference
    if not annotation.instances and not annotation.series:
        found = [one for one in series if one.frame_of_reference in frames]
    if len(found) != 1:
        why = f"{len(found)} fit: {', '.join(quoted(one.files[0].parent) for one in found[:4])}" if found else ""
        raise UserError(
            f"Expected the one image series that {annotation.file} refers to, but {why or 'it is not there'}; "
            f"{'part them' if found else 'get it, too'}, or leave the annotation out."
        )
    if frames and found[0].frame_of_reference and found[0].frame_of_reference not in frames:
        raise UserError(
            f"Expected {annotation.file} in the coordinates of its images in {found[0].files[0].parent}, but it has "
            "another frame of reference; get both again."
        )
    return found[0]


def read_object(path: Path, **arguments: Any) -> Any:
    """Reads a file with pydicom.

    Raises:
        UserError: It cannot be read, or pydicom is not installed.
    """
    require_extra("dicom", "An annotation in DICOM", "pydicom")
    import pydicom

    with opened(path), reading(path):
        return pydicom.dcmread(path, **arguments)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What pydicom and damaged contents raise is of many kinds; what it warns of could be of the patient."""
    from pydicom.config import disable_value_validation

    try:
        with disable_value_validation():
            yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"Expected a complete annotation (SEG, RTSTRUCT) in {path}, but it is damaged ({error}); replace it."
        ) from None


def _values(items: Sequence[Any], *keywords: str) -> Iterator[str]:
    """The values of elements anywhere within some items."""
    for item in items:
        for element in item:
            if element.VR == "SQ":
                yield from _values(element.value, *keywords)
            elif element.keyword in keywords and element.value:
                yield str(element.value)
