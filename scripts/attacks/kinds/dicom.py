"""Series of DICOM slices and contours (RTSTRUCT) that are damaged, lie, or promise more than there is."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attacks import fixtures
from attacks.kinds.scans import good_case_is_there, keeps_secret
from attacks.recipes import RECIPES, Recipe
from attacks.sandbox import Sandbox
from attacks.table import ANY, REFUSED, Expect, SetUp, Try, kind

_SLICES = fixtures.SHAPE[2]
_CT, _RTSTRUCT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.481.3"
_PLAIN = "1.2.840.10008.1.2.1"
_STRUCTURES = ("SpinalCord", "Lung_R", "Lung_L", "Heart", "Esophagus")


def needs() -> str:
    """What is missing for these kinds."""
    return "" if importlib.util.find_spec("pydicom") else "pydicom is not installed"


def new_object(kind_of_file: str, modality: str, patient: str) -> Any:
    """An object with what every file has."""
    import pydicom

    content = pydicom.Dataset()
    content.file_meta = pydicom.dataset.FileMetaDataset()
    content.file_meta.TransferSyntaxUID = pydicom.uid.UID(_PLAIN)
    content.SOPClassUID = content.file_meta.MediaStorageSOPClassUID = pydicom.uid.UID(kind_of_file)
    content.SOPInstanceUID = content.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    content.Modality, content.PatientID = modality, patient
    return content


def series_slices(seed: int, patient: str) -> list[Any]:
    """The slices of a small CT."""
    import pydicom

    voxels = fixtures.ct(seed).T
    series = pydicom.uid.generate_uid()
    slices = []
    for number in range(_SLICES):
        content = new_object(_CT, "CT", patient)
        content.StudyInstanceUID = content.FrameOfReferenceUID = "1.2.3"
        content.SeriesInstanceUID, content.InstanceNumber = series, number + 1
        content.ImagePositionPatient = [0, 0, 2 * number]
        content.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        content.PixelSpacing, content.SliceThickness = [1.5, 1.5], 2
        content.Rows, content.Columns = voxels.shape[1:]
        content.SamplesPerPixel, content.PhotometricInterpretation = 1, "MONOCHROME2"
        content.BitsAllocated = content.BitsStored = 16
        content.HighBit, content.PixelRepresentation = 15, 1
        content.RescaleSlope, content.RescaleIntercept = 1, 0
        content.PixelData = voxels[number].tobytes()
        slices.append(content)
    return slices


def write_series(folder: Path, slices: Sequence[Any]) -> None:
    """Writes objects as the files of a folder."""
    folder.mkdir(parents=True)
    for number, content in enumerate(slices):
        content.save_as(folder / f"{number:03d}.dcm", enforce_file_format=True)


# Series ------------------------------------------------------------------------------------------------------------


def _set(value: Any, name: str, of: slice = slice(3, 4)) -> Callable[[list[Any]], None]:
    """Sets an element of some slices, or removes it where the value is None."""

    def change(slices: list[Any]) -> None:
        for content in slices[of]:
            if value is None:
                delattr(content, name)
            else:
                setattr(content, name, value)

    return change


def _tilt(slices: list[Any]) -> None:
    angle = np.deg2rad(20)
    for content in slices:
        content.ImageOrientationPatient = [1, 0, 0, 0, float(np.cos(angle)), float(np.sin(angle))]


def _as_file(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Changes the bytes of a slice that has been written."""

    def damage(folder: Path) -> None:
        file = folder / "003.dcm"
        file.write_bytes(change(file.read_bytes()))

    return damage


_ALL = slice(None)
SERIES: Mapping[str, Callable[[list[Any]], None]] = {
    "without_positions": _set(None, "ImagePositionPatient", _ALL),
    "a_slice_without_position": _set(None, "ImagePositionPatient"),
    "two_slices_at_one_place": _set([0, 0, 0], "ImagePositionPatient"),
    "a_slice_far_away": _set([0, 0, 9e9], "ImagePositionPatient", slice(9, 10)),
    "tilted": _tilt,
    "spacing_0": _set([0, 0], "PixelSpacing", _ALL),
    "no_spacing": _set(None, "PixelSpacing", _ALL),
    "rescaled_by_0": _set(0, "RescaleSlope"),
    "rescaled_to_1e300": _set(1e300, "RescaleSlope", _ALL),
    "rows_of_60000": _set(60000, "Rows", _ALL),
    "another_size_in_one_slice": _set(8, "Rows"),
    "no_pixels": _set(None, "PixelData"),
    "half_of_the_pixels": _set(bytes(100), "PixelData"),
    "colours": _set(3, "SamplesPerPixel", _ALL),
    "a_billion_frames": _set(10**9, "NumberOfFrames"),
    "64_bits": _set(64, "BitsAllocated", _ALL),
    "0_bits": _set(0, "BitsStored", _ALL),
    "singular_orientation": _set([1, 0, 0, 1, 0, 0], "ImageOrientationPatient", _ALL),
    "patient_upwards": _set("../../../../victim", "PatientID", _ALL),
    "description_with_codes": _set("\x1b]0;x\x07\x00", "SeriesDescription", _ALL),
}
_SYNTAX = b"1.2.840.10008.1.2.1\0"
_PIXELS = b"\xe0\x7f\x10\x00OW\0\0"
SERIES_FILES: Mapping[str, Callable[[Path], None]] = {
    "cut_short": _as_file(lambda content: content[: len(content) * 2 // 3]),
    "empty_file": _as_file(lambda content: b""),
    "random_bytes": _as_file(lambda content: np.random.default_rng(5).bytes(3000)),
    "preamble_alone": _as_file(lambda content: content[:132]),
    "length_of_2_gb": _as_file(lambda content: content.replace(_PIXELS, _PIXELS + b"\xff\xff\xff\x7f", 1)),
    "unknown_syntax": _as_file(lambda content: content.replace(_SYNTAX, b"1.2.840.10008.9.9.9\0")),
    "claims_to_be_run_lengths": _as_file(lambda content: content.replace(_SYNTAX, b"1.2.840.10008.1.2.5\0")),
}  # fmt: skip
#: What a library may read as it is meant, or not.
_EITHER = ("patient_upwards", "description_with_codes", "rescaled_to_1e300", "64_bits", "0_bits", "no_spacing",
    "colours", "claims_to_be_run_lengths")  # fmt: skip


#: Of label maps on the grid of the series: DICOM's axes point left and backwards, those of NIfTI right and forwards.
_AFFINE = np.diag([-1.5, -1.5, 2.0, 1.0])


def _predict_series(name: str) -> SetUp:
    def set_up(box: Sandbox) -> Sequence[str]:
        argv = RECIPES["predict"](box)
        for case in ("bad", "good"):
            (box.inputs / f"images/{case}_0000.nii.gz").unlink()
        write_series(box.inputs / "images/good", series_slices(1, "good"))
        _bad_series(box.inputs / "images/bad", name)
        return argv

    return set_up


def _convert_series(name: str) -> SetUp:
    def set_up(box: Sandbox) -> Sequence[str]:
        argv = RECIPES["convert"](box)
        for number, case in enumerate(("bad", "good", "third")):
            (box.inputs / f"data/images/{case}.nii.gz").unlink()
            if case != "bad":
                write_series(box.inputs / "data/images" / case, series_slices(number, case))
                fixtures.write_nifti(
                    box.inputs / f"data/labels/{case}.nii.gz", fixtures.label_map(number), affine=_AFFINE
                )
        _bad_series(box.inputs / "data/images/bad", name)
        return ["images/{case}" if word.startswith("images/") else word for word in argv]

    return set_up


def _back_to_series(name: str) -> SetUp:
    def set_up(box: Sandbox) -> Sequence[str]:
        argv = RECIPES["to_dicom"](box)
        fixtures.write_nifti(box.inputs / "drawn/bad.nii.gz", fixtures.label_map(0), affine=_AFFINE)
        _bad_series(box.inputs / "bad_series", name)
        return [str(box.inputs / "bad_series") if word == str(box.inputs / "series") else word for word in argv]

    return set_up


def _bad_series(folder: Path, name: str) -> None:
    slices = series_slices(0, "bad")
    SERIES.get(name, lambda slices: None)(slices)
    write_series(folder, slices)
    SERIES_FILES.get(name, lambda folder: None)(folder)


def _register_series(name: str) -> None:
    @kind(f"dicom_{name}", needs=needs)
    def make() -> Iterator[Try]:
        codes = ANY if name in _EITHER else REFUSED
        says = "" if name in _EITHER else "bad"
        good = () if name in _EITHER else (good_case_is_there,)
        for recipe, set_up, checks in (
            (RECIPES["predict"], _predict_series(name), (keeps_secret, *good)),
            (RECIPES["convert"], _convert_series(name), (keeps_secret, *good)),
            (RECIPES["to_dicom"], _back_to_series(name), (keeps_secret,)),
        ):
            yield Try(recipe.command, "series", (set_up,), Expect(codes, recipe.targets, says, checks))


for _name in (*SERIES, *SERIES_FILES):
    _register_series(_name)


# Contours ----------------------------------------------------------------------------------------------------------


def _contours(change: Callable[[Any], None]) -> Any:
    """A structure set with a square per structure and slice."""
    import pydicom

    content = new_object(_RTSTRUCT, "RTSTRUCT", "bad")
    content.StudyInstanceUID, content.SeriesInstanceUID = "1.2.3", pydicom.uid.generate_uid()
    content.StructureSetROISequence, content.ROIContourSequence = [], []
    for number, name in enumerate(_STRUCTURES, start=1):
        structure, contours = pydicom.Dataset(), pydicom.Dataset()
        structure.ROINumber, structure.ROIName = number, name
        contours.ReferencedROINumber, contours.ContourSequence = number, []
        for z in range(1, 5):
            contour = pydicom.Dataset()
            corners = [(2, 2), (8, 2), (8, 8), (2, 8)]
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(corners)
            contour.ContourData = [f"{x}" for x, y in corners for x in (x + number, y, 2 * z)]
            contours.ContourSequence.append(contour)
        content.StructureSetROISequence.append(structure)
        content.ROIContourSequence.append(contours)
    change(content)
    return content


def _points(values: Sequence[float] | int) -> Callable[[Any], None]:
    """Replaces the points of one contour, or takes so many of its numbers away."""

    def change(content: Any) -> None:
        contour = content.ROIContourSequence[0].ContourSequence[0]
        data = list(contour.ContourData)[:-values] if isinstance(values, int) else [f"{value:.6g}" for value in values]
        contour.ContourData = data

    return change


def _many(content: Any) -> None:
    contour = content.ROIContourSequence[0].ContourSequence[0]
    content.ROIContourSequence[0].ContourSequence = [contour] * 20000


CONTOURS: Mapping[str, Callable[[Any], None]] = {
    "a_coordinate_missing": _points(1),
    "no_points": _points([]),
    "one_point": _points([3, 3, 2]),
    "points_of_1e30": _points([1e30, 3, 2, 1e30, 9, 2, 3, 3, 2]),
    "points_beside_the_image": _points([900, 900, 2, 990, 900, 2, 990, 990, 2]),
    "not_on_a_slice": _points([3, 3, 2.9, 9, 3, 2.9, 9, 9, 2.9]),
    "beyond_the_last_slice": _points([3, 3, 900, 9, 3, 900, 9, 9, 900]),
    "no_structures": lambda content: setattr(content, "StructureSetROISequence", []),
    "no_contours": lambda content: delattr(content, "ROIContourSequence"),
    "contours_of_nothing": lambda content: setattr(content.ROIContourSequence[0], "ReferencedROINumber", 99),
    "structure_without_number": lambda content: delattr(content.StructureSetROISequence[0], "ROINumber"),
    "two_of_a_name": lambda content: setattr(content.StructureSetROISequence[1], "ROIName", "SpinalCord"),
    "contour_without_data": lambda content: delattr(content.ROIContourSequence[0].ContourSequence[0], "ContourData"),
    "name_with_codes": lambda content: setattr(content.StructureSetROISequence[0], "ROIName", "\x1b]0;x\x07"),
    "twenty_thousand_contours": _many,
}
CONTOUR_FILES: Mapping[str, Callable[[bytes], bytes]] = {
    "cut_short": lambda content: content[: len(content) // 2],
    "header_alone": lambda content: content[:400],
    "random_bytes": lambda content: np.random.default_rng(6).bytes(3000),
    "numbers_that_are_text": lambda content: content.replace(b"DS", b"LO"),
    "coordinates_nan": lambda content: content.replace(b"3\\2\\2\\9", b"nan\\2\\9", 1),
}
_FINE = ("twenty_thousand_contours", "points_beside_the_image", "two_of_a_name", "no_points", "one_point", "cut_short",
    "points_of_1e30", "numbers_that_are_text", "coordinates_nan")  # fmt: skip


def _lctsc(name: str) -> SetUp:
    def set_up(box: Sandbox) -> Sequence[str]:
        for number, case in enumerate(("bad", "good")):
            patient = box.inputs / "data/LCTSC" / f"LCTSC-Train-{case}"
            write_series(patient / "study/ct", series_slices(number, case))
            change = CONTOURS.get(name) if case == "bad" else None
            write_series(patient / "study/rt", [_contours(change or (lambda content: None))])
            if case == "bad" and name in CONTOUR_FILES:
                file = patient / "study/rt/000.dcm"
                file.write_bytes(CONTOUR_FILES[name](file.read_bytes()))
        return f"lctsc -i {box.inputs}/data -d 101 -n New -np 1".split()

    return set_up


def _good_patient(box: Sandbox, output: str) -> Iterator[str]:
    if not list((box.raw / "Dataset101_New/labelsTr").glob("*good*")):
        yield "the good patient was not converted"


def _register_contours(name: str) -> None:
    @kind(f"rtstruct_{name}", needs=needs)
    def make() -> Iterator[Try]:
        recipe: Recipe = RECIPES["convert"]
        expect = Expect(ANY, recipe.targets, "", (_good_patient,))
        if name not in _FINE:
            expect = Expect(REFUSED, recipe.targets, "bad", (_good_patient,))
        yield Try(recipe.command, "lctsc", (_lctsc(name),), expect)


for _name in dict.fromkeys((*CONTOURS, *CONTOUR_FILES)):
    _register_contours(_name)
