"""Images of other formats than NIfTI and DICOM, read with SimpleITK."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunetv2_ext.images.files import DEFLATE, data_files, refuse_too_large
from nnunetv2_ext.images.geometry import Grid
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json

if TYPE_CHECKING:
    import SimpleITK

_logger = logging.getLogger(__name__)

# ITK's reader of each format, so that it does not try all others, and whether a header of text may name other files.
_FORMATS = {
    ".nrrd": ("NrrdImageIO", True),
    ".nhdr": ("NrrdImageIO", True),
    ".mha": ("MetaImageIO", True),
    ".mhd": ("MetaImageIO", True),
    ".gipl": ("GiplImageIO", False),
    ".png": ("PNGImageIO", False),
    ".bmp": ("BMPImageIO", False),
    ".tif": ("TIFFImageIO", False),
    ".tiff": ("TIFFImageIO", False),
}

#: Formats whose headers state no millimetres.
PICTURES = (".png", ".bmp", ".tif", ".tiff")


def read_itk(file: Path) -> tuple[np.ndarray, Grid]:
    """Reads one file as ``(channels, z, y, x)``; other errors than the one below come as libraries raise them.

    Raises:
        UserError: The format is none that is known, or the voxels are in a file that is none of the image's own.
    """
    import SimpleITK

    ending = file.suffix.lower()
    if ending not in _FORMATS:
        raise UserError(f"Expected an image (.nii.gz, .nii, {', '.join(_FORMATS)}), but got {file}.")
    name, has_text = _FORMATS[ending]
    stored = sum(data.stat().st_size for data in data_files(file)) * DEFLATE if has_text else float("inf")
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO(name)
    reader.SetFileName(str(file))
    reader.ReadImageInformation()
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


def tiff_spacing(file: Path) -> tuple[float, ...]:
    """Spacing (x, y, z) from the JSON file that nnU-Net's ``Tiff3DIO`` keeps beside ``case_0000.tif``; else 1 mm."""
    beside = file.with_name(re.sub(r"_\d{4}$", "", file.stem) + ".json")
    if not beside.is_file():
        _logger.warning("%s has no %s with its spacing; taking 1 mm.", file, beside.name)
        return (1.0, 1.0, 1.0)
    return tuple(float(value) for value in reversed(read_json(beside)["spacing"]))
