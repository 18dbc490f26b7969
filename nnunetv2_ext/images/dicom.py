"""Images as DICOM series, checked for what GDCM passes over in silence."""

from __future__ import annotations

import csv
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nnunetv2_ext.images.files import opened, refuse_too_large
from nnunetv2_ext.images.geometry import listed
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.executors import in_a_worker
from nnunetv2_ext.utilities.files import atomic_path
from nnunetv2_ext.utilities.locks import output_lock
from nnunetv2_ext.utilities.names import file_name

if TYPE_CHECKING:
    import SimpleITK

_logger = logging.getLogger(__name__)

# Slices may lie this far (mm) from equal distances before one is taken to be missing, and from the line through the
# first one; over long series, a thousandth of their length, which directions of few decimals explain.
_SLICE_TOLERANCE = 0.1
# How far directions may be from unit vectors.
_ROUNDING = 1e-2
_POSITION, _ORIENTATION, _SPACING = "0020|0032", "0020|0037", "0028|0030"
_INTERCEPT, _SLOPE = "0028|1052", "0028|1053"
# Samples per pixel, frames, rows, columns, bits of a pixel.
_SIZES = ("0028|0002", "0028|0008", "0028|0010", "0028|0011", "0028|0100")
_SERIES, _INSTANCE, _IMAGE_TYPE = "0020|000e", "0020|0013", "0008|0008"
_SOP_INSTANCE, _FRAME_OF_REFERENCE, _MODALITY = "0008|0018", "0020|0052", "0008|0060"
# Patient ID, study date, series description: what series are called by; and what never appears in a name: the
# patient's name and date of birth, and the accession number.
_NAMED_BY = ("0010|0020", "0008|0020", _DESCRIPTION := "0008|103e")
_SECRET = ("0010|0010", "0010|0030", "0008|0050")
_SCOUT = re.compile(r"locali[sz]er|scout|topogram|surview", re.I)
# The element Pixel Data with the number of its bytes, with and without its type; and the elements Transfer Syntax and
# Media Storage SOP Class.
_PIXEL_DATA = re.compile(rb"\xe0\x7f\x10\x00(?:O[BW]\x00\x00)?(.{4})", re.S)
_SYNTAX = re.compile(rb"\x02\x00\x10\x00UI..([0-9.]*)", re.S)
# Presentation states, segmentations, reports, and what radiotherapy adds: no slices of an image.
_NO_SLICES = re.compile(rb"\x02\x00\x02\x00UI..1\.2\.840\.10008\.5\.1\.4\.1\.1\.(?:11|66|88|481)\.", re.S)
# Segmentations and structure sets.
_ANNOTATION = re.compile(rb"\x02\x00\x02\x00UI..1\.2\.840\.10008\.5\.1\.4\.1\.1\.(?:66\.[47]|481\.3)(?![.\d])", re.S)
# Pixels are stored as they are, with the smallest byte first.
_PLAIN = (b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1")


@dataclass(frozen=True)
class Series:
    """The slices of a series.

    Attributes:
        name: Made of patient ID, study date and series description; unique among those found together.
        files: In the order in which they lie.
        uid: Series Instance UID.
        instances: SOP Instance UIDs of the slices.
        frame_of_reference: UID of the coordinates that positions are in.
        modality: ``"CT"``, ``"MR"``, ...
    """

    name: str
    files: tuple[Path, ...]
    uid: str = ""
    instances: frozenset[str] = frozenset()
    frame_of_reference: str = ""
    modality: str = ""


def find_series(folder: Path) -> list[Series]:
    """Every series in a folder and the folders below it; scouts and objects that hold no slices are passed over.

    GDCM cannot read files that are cut short. They are given with every series beside them, which is then refused as
    damaged.

    Raises:
        UserError: A folder cannot be read, or holds something that is neither file nor folder.
    """
    return find_annotated(folder)[0]


def find_annotated(folder: Path) -> tuple[list[Series], list[Path]]:
    """As `find_series`, and the files of segmentations (SEG) and structure sets (RTSTRUCT)."""
    found, annotations, passed_over = in_a_worker(_find, folder, folder)
    if passed_over:
        _logger.info("Passed over %d DICOM files: scouts, and objects that hold no slices.", passed_over)
    taken: set[str] = set()
    series = []
    for number, (header, instances, files) in enumerate(found, start=1):
        named = (header.get(key, "") for key in (_FRAME_OF_REFERENCE, _MODALITY))
        series.append(Series(own_name(header, number, taken), files, header.get(_SERIES, ""), instances, *named))
    return series, annotations


_Found = tuple[dict[str, str], frozenset[str], tuple[Path, ...]]


def _find(folder: Path) -> tuple[list[_Found], list[Path], int]:
    """Of every series the header of the first slice, the UIDs of all and their files; annotations; how many others."""
    import SimpleITK

    series: dict[tuple[Path, str], list[tuple[dict[str, str], Path]]] = {}
    lost: dict[Path, list[Path]] = {}
    annotations, passed_over = list[Path](), 0
    quiet = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    # GDCM warns about every file that is not DICOM; such files are expected here.
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        with opened(folder, folder=True):
            for file in _files_below(folder):
                header, beginning = _header(file)
                if _ANNOTATION.search(beginning):
                    annotations.append(file)
                elif _NO_SLICES.search(beginning) or _is_scout(header):
                    passed_over += 1
                elif header:
                    series.setdefault((file.parent, header.get(_SERIES, "")), []).append((header, file))
                elif file.suffix.lower() == ".dcm" or beginning[128:132] == b"DICM":
                    lost.setdefault(file.parent, []).append(file)
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(quiet)
    found: list[_Found] = []
    for (place, _), slices in series.items():
        slices.sort(key=lambda one: _order(one[0]))
        instances = frozenset(header.get(_SOP_INSTANCE, "") for header, _ in slices) - {""}
        found.append((slices[0][0], instances, (*(file for _, file in slices), *lost.get(place, ()))))
    known = {place for place, _ in series}
    found += [({}, frozenset(), tuple(files)) for place, files in lost.items() if place not in known]
    return found, annotations, passed_over


def _files_below(folder: Path) -> Iterator[Path]:
    def stop(error: OSError) -> None:
        raise error

    for place, below, names in os.walk(folder, onerror=stop):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for file in (Path(place, name) for name in sorted(names) if not name.startswith(".") and name != "DICOMDIR"):
            if file.is_file():
                yield file
            elif file.exists():
                raise UserError(f"Expected files in {file.parent}, but {file.name} is none to read from; remove it.")


def _header(file: Path) -> tuple[dict[str, str], bytes]:
    """What GDCM reads of a header, nothing where it cannot; and the first bytes of the file."""
    import SimpleITK

    with open(file, "rb") as stream:
        beginning = stream.read(1024)
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return {}, beginning
    return {key: reader.GetMetaData(key).strip(" \0") for key in reader.GetMetaDataKeys()}, beginning


def _is_scout(header: Mapping[str, str]) -> bool:
    return "LOCALIZER" in header.get(_IMAGE_TYPE, "").upper() or bool(_SCOUT.search(header.get(_DESCRIPTION, "")))


def _order(header: Mapping[str, str]) -> tuple[float, float]:
    """Where a slice comes: along the normal of the slices, or by its number."""
    position, orientation = _numbers(header, _POSITION), _numbers(header, _ORIENTATION)
    along = float(_normal(orientation) @ position) if (len(position), len(orientation)) == (3, 6) else 0.0
    number = (*_numbers(header, _INSTANCE), 0.0)[0]
    return (0.0 if math.isnan(along) else along, 0.0 if math.isnan(number) else number)


def _normal(orientation: Sequence[float]) -> npt.NDArray[np.float64]:
    return np.cross(orientation[:3], orientation[3:])


def _numbers(header: Mapping[str, str], key: str) -> list[float]:
    """The numbers of an element; NaN for what is none."""
    text = header.get(key, "")
    numbers = []
    for part in text.split("\\") if text else ():
        try:
            numbers.append(float(part))
        except ValueError:
            numbers.append(math.nan)
    return numbers


def own_name(header: Mapping[str, str], number: int, taken: set[str]) -> str:
    """A name that says nothing of the patient but the ID; the number of the object stands for what is empty.

    Args:
        header: Elements by their tags (``"0010|0020"``), those that must not be told among them.
        number: Of the object, among those found with it.
        taken: Names that others have; the new one is added.
    """
    secrets = {word for key in _SECRET for word in re.split(r"[\W_]+", header.get(key, "").casefold())} - {""}
    parts = []
    for key in _NAMED_BY:
        text = header.get(key, "")
        words = re.split(r"[\W_]+", text.casefold())
        tells = any(word in words or (len(word) > 2 and word in text.casefold()) for word in secrets)
        parts.append(file_name(text) if text and not tells else f"{number:03d}")
    wanted = name = "_".join(dict.fromkeys(parts))
    again = 1
    while name in taken:
        again += 1
        name = f"{wanted}_{again}"
    taken.add(name)
    return name


def pseudonyms(cases: Mapping[str, Path], table: Path) -> dict[str, str]:
    """Numbers for names, the same in every run with the same table, which says who is who.

    Args:
        cases: Name -> where the images are.
        table: A CSV file of number, name and place, made or added to; nobody else may read it.

    Returns:
        Name -> number.

    Raises:
        UserError: The table cannot be written or is another file.
    """
    columns = ["pseudonym", "name", "images"]
    with output_lock(table, wait=True):
        rows: list[list[str]] = []
        if table.exists():
            with opened(table), open(table, newline="", encoding="utf-8") as file:
                rows = list(csv.reader(file))
            if not rows or rows[0] != columns or any(len(row) != len(columns) for row in rows):
                raise UserError(f"Expected a table of pseudonyms or nothing at {table}, but it is another file.")
        known = {(name, images): number for number, name, images in rows[1:]}
        numbers = {}
        for name, images in cases.items():
            key = (name, str(images.resolve()))
            numbers[name] = known.setdefault(key, f"case{len(known) + 1:05d}")
        with atomic_path(table) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            temporary.chmod(0o600)
            csv.writer(file).writerows([columns, *([number, *key] for key, number in known.items())])
    return numbers


def read_series(files: Sequence[Path]) -> SimpleITK.Image:
    """Reads the slices of a series; other errors than the one below come as libraries raise them.

    Raises:
        UserError: The slices are not equally spaced, or one of them is damaged.
    """
    import SimpleITK

    first = SimpleITK.ImageFileReader()
    first.SetImageIO("GDCMImageIO")
    first.SetFileName(str(files[0]))
    first.ReadImageInformation()
    refuse_too_large(files[0].parent, (*first.GetSize()[:2], len(files)), 8)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames([str(file) for file in files])
    reader.MetaDataDictionaryArrayUpdateOn()
    image = reader.Execute()
    headers = [
        {key: reader.GetMetaData(number, key).strip(" \0") for key in reader.GetMetaDataKeys(number)}
        for number in range(len(files))
    ]
    for header, file in zip(headers, files, strict=True):
        _check_slice(header, file)
    if len(files) > 1:
        _check_stack(headers, files[0].parent)
    return image


def _check_stack(headers: Sequence[Mapping[str, str]], folder: Path) -> None:
    """Refuses slices that are no straight, complete stack; ITK takes the first step for all of them."""
    for key, what in ((_POSITION, "position"), (_ORIENTATION, "orientation"), (_SPACING, "pixel spacing")):
        values = [_numbers(header, key) for header in headers]
        if not all(values):
            raise UserError(
                f"Expected the {what} of every slice in {folder}, but {values.count([])} of {len(values)} headers have "
                "none; pictures of a screen are no volume."
            )
        if key != _POSITION and not np.allclose(values, values[0], atol=_ROUNDING):
            raise UserError(f"Expected slices of one {what} in {folder}, but they have several; part the series.")
    positions = np.array([_numbers(header, _POSITION) for header in headers])
    normal = _normal(_numbers(headers[0], _ORIENTATION))
    along = (positions - positions[0]) @ normal
    gaps = np.abs(np.diff(along))
    if gaps.min() < _SLICE_TOLERANCE / 10:
        raise UserError(
            f"Expected one image per position in {folder}, but several lie at {listed(positions[gaps.argmin()])} mm; "
            "part the series into one folder per point in time, echo or kernel."
        )
    # ITK notes uneven distances in a form that Python cannot read, so they are worked out here.
    if np.abs(gaps - gaps.mean()).max() > _SLICE_TOLERANCE:
        raise UserError(
            f"Expected slices at equal distances in {folder}, but they are {gaps.min():.2f} to {gaps.max():.2f} mm "
            "apart; a slice is probably missing, get the series again."
        )
    aside = np.linalg.norm(positions - positions[0] - np.outer(along, normal), axis=1).max()
    if aside > max(_SLICE_TOLERANCE, np.abs(along).max() / 1000):
        degrees = math.degrees(math.atan2(aside, np.abs(along).max()))
        raise UserError(
            f"Expected slices straight above each other in {folder}, but they are shifted by up to {aside:.1f} mm "
            f"(a gantry tilt of {degrees:.1f} degrees); resample the series to straight slices before."
        )


def _check_slice(header: Mapping[str, str], file: Path) -> None:
    """Refuses what GDCM would replace: what it cannot read by defaults, and missing voxels by what comes."""
    values = {key: _numbers(header, key) for key in (_POSITION, _ORIENTATION, _SPACING, _SLOPE, _INTERCEPT)}
    # Unit vectors at right angles: their products with each other are those of the identity.
    directions = np.reshape(values[_ORIENTATION], (-1, 3))
    if (
        not all(np.isfinite(given).all() for given in values.values())
        or not all(value > 0 for value in values[_SPACING])
        or 0 in values[_SLOPE]
        or not np.allclose(directions @ directions.T, np.eye(len(directions)), atol=2 * _ROUNDING)
    ):
        raise UserError(
            f"Expected position, orientation, spacing and rescaling in the header of {file}, but one of them says "
            "nothing that can be used; get the series again."
        )
    content = file.read_bytes()
    syntax = _SYNTAX.search(content)
    samples, frames, rows, columns, bits = (int(*_numbers(header, key) or [1]) for key in _SIZES)
    row = samples * columns * bits // 8
    if (syntax is None or syntax[1] in _PLAIN) and not any(
        0 <= int.from_bytes(found[1], "little") - frames * rows * row < row for found in _PIXEL_DATA.finditer(content)
    ):
        raise UserError(f"Expected {rows} x {columns} pixels in {file}, but it holds others; get the series again.")
