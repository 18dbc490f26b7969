"""Images of other formats than NIfTI and DICOM, read with SimpleITK."""

from __future__ import annotations

import logging
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from nnunetv2_ext.images.files import DEFLATE, JPEG, PICTURES, data_files, refuse_too_large, text_header
from nnunetv2_ext.images.geometry import Grid
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json

if TYPE_CHECKING:
    import SimpleITK

_logger = logging.getLogger(__name__)

# ITK's reader of each format, so that it does not try all others, and how many times smaller it makes voxels at most.
_FORMATS = {
    ".nrrd": ("NrrdImageIO", DEFLATE),
    ".nhdr": ("NrrdImageIO", DEFLATE),
    ".mha": ("MetaImageIO", DEFLATE),
    ".mhd": ("MetaImageIO", DEFLATE),
    ".gipl": ("GiplImageIO", 1),
    ".png": ("PNGImageIO", math.inf),
    ".bmp": ("BMPImageIO", math.inf),
    **dict.fromkeys(JPEG, ("JPEGImageIO", math.inf)),
    ".tif": ("TIFFImageIO", math.inf),
    ".tiff": ("TIFFImageIO", math.inf),
}

_NO_GRID = "it holds arrays without a grid, and pickles may hold code; write them as NIfTI"
# What people try, and what they can do.
_OTHERS = {
    ".dcm": "series are folders, and their annotations are converted by nnUNetv2_ext_convert_dataset dicom",
    **dict.fromkeys((".pkl", ".pickle", ".npy", ".npz", ".pt", ".pth"), _NO_GRID),
}

# ITK takes it for 1 mm in NRRD, where only the axis of the components of a voxel, before three others, may have none.
_UNKNOWN = re.compile(rb"^spacings:.*nan(?:[ \t]+\S+){0,2}[ \t]*$|^space directions:.*\([^)]*nan", re.I | re.M)

_GIPL_HEADER = 256
_SCAN_OF_JPEG, _END_OF_JPEG = b"\xff\xda", b"\xff\xd9"


def read_itk(file: Path) -> tuple[np.ndarray, Grid]:
    """Reads one file as ``(channels, z, y, x)``; other errors than the one below come as libraries raise them.

    Raises:
        UserError: The format is none that is known, or the voxels are in a file that is none of the image's own.
    """
    import SimpleITK

    ending = file.suffix.lower()
    if ending not in _FORMATS:
        advice = f"; {_OTHERS[ending]}." if ending in _OTHERS else "."
        raise UserError(f"Expected an image (.nii.gz, .nii, {', '.join(_FORMATS)}), but got {file}{advice}")
    name, factor = _FORMATS[ending]
    files = [file]
    if factor == DEFLATE:
        files = data_files(file)
        if _UNKNOWN.search(text_header(file)):
            raise UserError(f"Expected the spacing in the header of {file}, but it says that it is none; correct it.")
    elif ending in (*PICTURES, *JPEG):
        _refuse_short_picture(file, ending)
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO(name)
    reader.SetFileName(str(file))
    reader.ReadImageInformation()
    stored = factor * sum(data.stat().st_size for data in files) - (_GIPL_HEADER if ending == ".gipl" else 0)
    pixel = SimpleITK.Image([1] * 2, reader.GetPixelID(), reader.GetNumberOfComponents())
    refuse_too_large(file, (*reader.GetSize(), reader.GetNumberOfComponents()), pixel.GetSizeOfPixelComponent(), stored)
    return split(reader.Execute())


def split(image: SimpleITK.Image) -> tuple[np.ndarray, Grid]:
    """A SimpleITK image as ``(channels, z, y, x)`` and the grid of its spatial axes."""
    import SimpleITK

    array = SimpleITK.GetArrayFromImage(image)
    dimension = image.GetDimension()
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
        if dimension == 4:
            raise UserError("Expected components or a fourth axis as channels, but the image has both.")
    elif dimension < 4:  # otherwise, as for nnU-Net, the fourth axis holds the channels
        array = array[None]
    return array[:, None] if dimension == 2 else array, Grid.of(image)


def _refuse_short_picture(file: Path, ending: str) -> None:
    """Refuses what ITK reads in part: bitmaps and JPEGs that end early, and stacks whose later pages are missing."""
    size = file.stat().st_size
    with open(file, "rb") as stream:
        head = stream.read(16)
        if ending in JPEG:
            # A preview at the beginning has an end of its own.
            content = head + stream.read()
            if content.rfind(_END_OF_JPEG) < content.rfind(_SCAN_OF_JPEG):
                raise EOFError("it ends within its last scan")
        if ending == ".bmp" and int.from_bytes(head[2:6], "little") > size:
            raise EOFError("it is shorter than its header says")
        if not ending.startswith(".tif"):
            return
        order: Literal["little", "big"] = "little" if head.startswith(b"II") else "big"
        # Offsets, numbers of entries and entries, in TIFF and in BigTIFF.
        start, wide, count, entry = (8, 8, 8, 20) if int.from_bytes(head[2:4], order) == 43 else (4, 4, 2, 12)
        page, seen = int.from_bytes(head[start : start + wide], order), set[int]()
        while page:
            if page >= size or page in seen:
                raise EOFError(f"page {len(seen) + 1} lies behind its end, or is one of those before")
            seen.add(page)
            stream.seek(page)
            stream.seek(int.from_bytes(stream.read(count), order) * entry, os.SEEK_CUR)
            following = stream.read(wide)
            if len(following) < wide:
                raise EOFError(f"it ends within page {len(seen)}")
            page = int.from_bytes(following, order)


def tiff_spacing(file: Path) -> tuple[float, ...]:
    """Spacing (x, y, z) from the JSON file that nnU-Net's ``Tiff3DIO`` keeps beside ``case_0000.tif``; else 1 mm."""
    beside = file.with_name(re.sub(r"_\d{4}$", "", file.stem) + ".json")
    if not beside.is_file():
        _logger.warning("%s has no %s with its spacing; taking 1 mm.", file, beside.name)
        return (1.0, 1.0, 1.0)
    return tuple(float(value) for value in reversed(read_json(beside)["spacing"]))
