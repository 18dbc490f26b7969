"""Reading medical images so that a file which ends too early, or is damaged otherwise, never passes for a whole one.

ITK fills what is missing of a NIfTI file with zeros, prints a warning and goes on. So the voxels of NIfTI files are
read with nibabel, which refuses such files, before ITK is asked for anything.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnunetv2_ext.utilities.errors import UserError

if TYPE_CHECKING:
    import SimpleITK
    from nibabel.spatialimages import SpatialImage

_BLOCK = 1 << 20


def is_nifti(file: Path | str) -> bool:
    """Whether a name ends as NIfTI files do, in capitals or not."""
    return str(file).lower().endswith((".nii", ".nii.gz"))


def read_image(file: Path | str) -> SimpleITK.Image:
    """Reads one image file of any format with SimpleITK.

    Raises:
        UserError: The file is missing, truncated or damaged.
    """
    import SimpleITK

    file = Path(file)
    _refuse_missing(file)
    if is_nifti(file):
        read_nifti(file)
    try:
        return SimpleITK.ReadImage(str(file))
    except RuntimeError as error:
        raise damaged(file, error) from None


def read_nifti(file: Path | str) -> tuple[SpatialImage, npt.NDArray[Any]]:
    """Reads a NIfTI file with nibabel, to its last byte.

    Returns:
        The image for its header, and the voxels (x, y, z, ...) with the header's slope and intercept applied.

    Raises:
        UserError: The file is missing, truncated or damaged.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError, HeaderTypeError

    file = Path(file)
    _refuse_missing(file)
    try:
        image: Any = nibabel.load(file)
        if not file.name.lower().endswith(".gz"):
            return image, np.asanyarray(image.dataobj)
        with gzip.open(file) as stream:
            voxels = np.asanyarray(type(image).from_stream(stream).dataobj)
            # The checksum comes behind the voxels, where nibabel stops.
            while stream.read(_BLOCK):
                pass
        return image, voxels
    except (
        *(OSError, EOFError, zlib.error),
        *(ValueError, OverflowError, MemoryError),  # what numpy says of impossible sizes in a damaged header
        *(ImageFileError, HeaderDataError, HeaderTypeError),
    ) as error:
        raise damaged(file, error) from None


def damaged(file: Path | str, error: BaseException) -> UserError:
    """The sentence about a file that a library cannot read."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1].removeprefix("sitk::ERROR: ").rstrip(".") if lines else type(error).__name__
    return UserError(
        f"Expected a complete image in {file}, but it cannot be read, it is truncated or damaged ({reason}); replace "
        "it or leave it out."
    )


def _refuse_missing(file: Path) -> None:
    if not file.is_file():
        raise UserError(f"Expected the image {file}, but it does not exist.")
