"""Segmentations in DICOM (SEG) that are damaged, lie about their frames, or promise more than there is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from attacks import fixtures
from attacks.kinds.dicom import needs, new_object, series_slices, write_series
from attacks.recipes import RECIPES
from attacks.sandbox import Sandbox
from attacks.table import ANY, REFUSED, Expect, SetUp, Try, kind

_SEG = "1.2.840.10008.5.1.4.1.1.66.4"


def _segmentation(slices: Sequence[Any], change: Callable[[Any], None]) -> Any:
    """Two segments, a frame per slice each, in bytes of 0 and 255 of 255."""
    import pydicom

    def item(**elements: Any) -> Any:
        content = pydicom.Dataset()
        for name, value in elements.items():
            setattr(content, name, value)
        return content

    content = new_object(_SEG, "SEG", "bad")
    content.StudyInstanceUID, content.FrameOfReferenceUID = slices[0].StudyInstanceUID, slices[0].FrameOfReferenceUID
    content.SeriesInstanceUID, content.SegmentationType = pydicom.uid.generate_uid(), "FRACTIONAL"
    content.SegmentationFractionalType, content.MaximumFractionalValue = "OCCUPANCY", 255
    content.Rows, content.Columns, content.NumberOfFrames = slices[0].Rows, slices[0].Columns, 2 * len(slices)
    content.SamplesPerPixel, content.PhotometricInterpretation, content.PixelRepresentation = 1, "MONOCHROME2", 0
    content.BitsAllocated = content.BitsStored = 8
    content.HighBit = 7
    content.SegmentSequence = [
        item(SegmentNumber=number, SegmentLabel=name) for number, name in enumerate(("liver", "spleen"), start=1)
    ]
    images = [item(ReferencedSOPInstanceUID=image.SOPInstanceUID) for image in slices]
    content.ReferencedSeriesSequence = [
        item(SeriesInstanceUID=slices[0].SeriesInstanceUID, ReferencedInstanceSequence=images)
    ]
    content.SharedFunctionalGroupsSequence = [
        item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=slices[0].ImageOrientationPatient)],
            PixelMeasuresSequence=[item(PixelSpacing=slices[0].PixelSpacing, SliceThickness=2)],
        )
    ]
    content.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=image.ImagePositionPatient)],
            SegmentIdentificationSequence=[item(ReferencedSegmentNumber=number)],
        )
        for number in (1, 2)
        for image in slices
    ]
    labels = fixtures.label_map(0).T
    content.PixelData = b"".join((255 * (labels == number)).astype(np.uint8).tobytes() for number in (1, 2))
    change(content)
    return content


def _set(**elements: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for name, value in elements.items():
            setattr(content, name, value)

    return change


def _without(name: str) -> Callable[[Any], None]:
    """Takes an element away, from all frames where it belongs to them."""

    def change(content: Any) -> None:
        frames = content.PerFrameFunctionalGroupsSequence
        for owner in (content, *content.SharedFunctionalGroupsSequence, *frames):
            if name in owner:
                delattr(owner, name)

    return change


def _frame(name: str, **elements: Any) -> Callable[[Any], None]:
    """Changes what a frame (or what holds for all of them) says of itself."""

    def change(content: Any) -> None:
        groups = (content.PerFrameFunctionalGroupsSequence[7], *content.SharedFunctionalGroupsSequence)
        for group in groups:
            for element, value in elements.items() if name in group else ():
                setattr(group[name].value[0], element, value)

    return change


#: Kind -> what is done to a good segmentation; and whether it may be taken all the same.
SEGMENTATIONS: Mapping[str, Callable[[Any], None]] = {
    "rows_of_60000": _set(Rows=60000, Columns=60000),
    "no_rows": _set(Rows=0),
    "rows_too_few": _set(Rows=3),
    "a_billion_frames": _set(NumberOfFrames=10**9),
    "half_of_the_frames": _set(NumberOfFrames=3),
    "half_of_the_pixels": _set(PixelData=bytes(200)),
    "64_bits": _set(BitsAllocated=64),
    "16_bits": _set(BitsAllocated=16, BitsStored=16),
    "colours": _set(SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0),
    "surface": _set(SegmentationType="SURFACE"),
    "no_type": _without("SegmentationType"),
    "no_segments": _without("SegmentSequence"),
    "no_frames": _without("PerFrameFunctionalGroupsSequence"),
    "no_pixels": _without("PixelData"),
    "no_positions": _without("PlanePositionSequence"),
    "no_orientations": _without("PlaneOrientationSequence"),
    "no_measures": _without("PixelMeasuresSequence"),
    "no_segment_of_frames": _without("SegmentIdentificationSequence"),
    "frame_far_away": _frame("PlanePositionSequence", ImagePositionPatient=[0, 0, 9e9]),
    "frame_between_slices": _frame("PlanePositionSequence", ImagePositionPatient=[0, 0, 3]),
    "singular_orientation": _frame("PlaneOrientationSequence", ImageOrientationPatient=[1, 0, 0, 1, 0, 0]),
    "spacing_0": _frame("PixelMeasuresSequence", PixelSpacing=[0, 0]),
    "other_images": _set(ReferencedSeriesSequence=[], FrameOfReferenceUID="9.9.9"),
    "no_maximum": _without("MaximumFractionalValue"),
    "name_with_codes": lambda content: setattr(content.SegmentSequence[0], "SegmentLabel", "\x1b]0;x\x07"),
    "patient_upwards": _set(PatientID="../../../../victim"),
    "overlapping_segments": _set(PixelData=b"\xff" * 2 * int(np.prod(fixtures.SHAPE))),
}  # fmt: skip
_FINE = ("name_with_codes", "patient_upwards", "overlapping_segments")


def _convert(name: str) -> SetUp:
    def set_up(box: Sandbox) -> Sequence[str]:
        for number, case in enumerate(("bad", "good")):
            slices = series_slices(number, case)
            write_series(box.inputs / "data" / case / "ct", slices)
            change = SEGMENTATIONS[name] if case == "bad" else lambda content: None
            write_series(box.inputs / "data" / case / "seg", [_segmentation(slices, change)])
        return f"dicom -i {box.inputs}/data -d 101 -n New -np 1 --classes liver spleen".split()

    return set_up


def _register(name: str) -> None:
    @kind(f"dicom_seg_{name}", needs=needs)
    def make() -> Any:
        recipe = RECIPES["convert"]
        expect = Expect(ANY, recipe.targets, "", (_good_patient,))
        if name not in _FINE:
            expect = Expect(REFUSED, recipe.targets, "bad", (_good_patient,))
        yield Try(recipe.command, "dicom", (_convert(name),), expect)


def _good_patient(box: Sandbox, output: str) -> Any:
    if not list((box.raw / "Dataset101_New/labelsTr").glob("good*")):
        yield "the good patient was not converted"


for _name in SEGMENTATIONS:
    _register(_name)
