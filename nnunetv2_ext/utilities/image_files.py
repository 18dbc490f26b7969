"""Reading medical images with SimpleITK, without its silence about files that end too early."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2_ext.utilities.errors import UserError

if TYPE_CHECKING:
    import SimpleITK


def read_image(file: Path | str) -> SimpleITK.Image:
    """Reads one image file.

    Raises:
        UserError: The file is missing, truncated or damaged.
    """
    import SimpleITK

    file = Path(file)
    if not file.is_file():
        raise UserError(f"Expected the image {file}, but there is no such file.")
    if file.name.endswith((".nii", ".nii.gz")):
        _refuse_truncated_nifti(file)
    try:
        return SimpleITK.ReadImage(str(file))
    except RuntimeError as error:
        raise _damaged(file, str(error).strip().splitlines()[-1].removeprefix("sitk::ERROR: ")) from None


def _refuse_truncated_nifti(file: Path) -> None:
    """ITK fills what is missing of a NIfTI file with zeros and goes on, so the length is checked here."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        voxels: Any = nibabel.load(file).dataobj
        expected = voxels.offset + voxels.dtype.itemsize * _product(voxels.shape)
        found = _uncompressed_size(file)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError) as error:
        raise _damaged(file, str(error)) from None
    if found < expected:
        raise _damaged(file, f"{found} instead of {expected} bytes")


def _uncompressed_size(file: Path) -> int:
    if file.suffix != ".gz":
        return file.stat().st_size
    size = 0
    with gzip.open(file) as stream:  # reading to the end also compares the checksum
        while block := stream.read(1 << 20):
            size += len(block)
    return size


def _product(numbers: tuple[int, ...]) -> int:
    product = 1
    for number in numbers:
        product *= int(number)
    return product


def _damaged(file: Path, reason: str) -> UserError:
    return UserError(f"{file} cannot be read, it is truncated or damaged ({reason}); replace it or leave it out.")
