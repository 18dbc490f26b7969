"""Images as DICOM series, checked for what GDCM passes over in silence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunetv2_ext.images.files import opened, refuse_too_large
from nnunetv2_ext.utilities.errors import UserError

if TYPE_CHECKING:
    import SimpleITK

# Slices may lie this far (mm) from equal distances before one is taken to be missing.
_SLICE_TOLERANCE = 0.1
# How far directions may be from unit vectors.
_ROUNDING = 1e-2
_POSITION, _ORIENTATION, _SPACING = "0020|0032", "0020|0037", "0028|0030"
_INTERCEPT, _SLOPE = "0028|1052", "0028|1053"
# Samples per pixel, frames, rows, columns, bits of a pixel.
_SIZES = ("0028|0002", "0028|0008", "0028|0010", "0028|0011", "0028|0100")
# The element Pixel Data with the number of its bytes, with and without its type; and the element Transfer Syntax.
_PIXEL_DATA = re.compile(rb"\xe0\x7f\x10\x00(?:O[BW]\x00\x00)?(.{4})", re.S)
_SYNTAX = re.compile(rb"\x02\x00\x10\x00UI..([0-9.]*)", re.S)
# Pixels are stored as they are, with the smallest byte first.
_PLAIN = (b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1")


def find_series(folder: Path) -> list[tuple[Path, ...]]:
    """The slices of every series in a folder, in the order in which they lie.

    GDCM leaves out files that are cut short. They are given with every series, which is then refused as damaged.

    Raises:
        UserError: The folder cannot be read, or holds something that is neither file nor folder.
    """
    import SimpleITK

    with opened(folder, folder=True):
        entries = sorted(folder.iterdir())
        special = [entry for entry in entries if entry.exists() and not entry.is_file() and not entry.is_dir()]
        if special:
            raise UserError(f"Expected files in {folder}, but {special[0].name} is none to read from; remove it.")
        quiet = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
        # GDCM warns about every file that is not DICOM; such files are expected here.
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
        try:
            found = [
                tuple(map(Path, SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)))
                for uid in SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
            ]
        finally:
            SimpleITK.ProcessObject.SetGlobalWarningDisplay(quiet)
        known = {file.name for files in found for file in files}
        lost = tuple(entry for entry in entries if entry.name not in known and _seems_dicom(entry))
    return [files + lost for files in found] or ([lost] if lost else [])


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
    positions = [_check_slice(reader, number, file) for number, file in enumerate(files)]
    # ITK notes uneven distances in a form that Python cannot read, so they are worked out here.
    if len(files) > 2 and all(positions):
        distances = np.linalg.norm(np.diff(positions, axis=0), axis=1)
        if np.abs(distances - distances.mean()).max() > _SLICE_TOLERANCE:
            raise UserError(
                f"Expected slices at equal distances in {files[0].parent}, but they are {distances.min():.2f} to "
                f"{distances.max():.2f} mm apart; a slice is probably missing, get the series again."
            )
    return image


def _seems_dicom(entry: Path) -> bool:
    if entry.name.startswith(".") or entry.name == "DICOMDIR" or not entry.is_file():
        return False
    with open(entry, "rb") as stream:
        return entry.suffix.lower() == ".dcm" or stream.read(132)[128:] == b"DICM"


def _check_slice(reader: SimpleITK.ImageSeriesReader, number: int, file: Path) -> list[float]:
    """The position of a slice; GDCM replaces what it cannot read by defaults, and missing voxels by what comes."""

    def numbers(key: str) -> list[float]:
        text = reader.GetMetaData(number, key).strip(" \0") if reader.HasMetaDataKey(number, key) else ""
        return [float(part) for part in text.split("\\")] if text else []

    values = {key: numbers(key) for key in (_POSITION, _ORIENTATION, _SPACING, _SLOPE, _INTERCEPT)}
    lengths = np.linalg.norm(np.reshape(values[_ORIENTATION], (-1, 3)), axis=1)
    if (
        not all(np.isfinite(given).all() for given in values.values())
        or not all(value > 0 for value in values[_SPACING])
        or 0 in values[_SLOPE]
        or (np.abs(lengths - 1) > _ROUNDING).any()
    ):
        raise UserError(
            f"Expected position, orientation, spacing and rescaling in the header of {file}, but one of them says "
            "nothing that can be used; get the series again."
        )
    content = file.read_bytes()
    syntax = _SYNTAX.search(content)
    samples, frames, rows, columns, bits = (int(*numbers(key) or [1]) for key in _SIZES)
    row = samples * columns * bits // 8
    if (syntax is None or syntax[1] in _PLAIN) and not any(
        0 <= int.from_bytes(found[1], "little") - frames * rows * row < row for found in _PIXEL_DATA.finditer(content)
    ):
        raise UserError(f"Expected {rows} x {columns} pixels in {file}, but it holds others; get the series again.")
    return values[_POSITION]
