"""Class names that a label map carries in its own header.

Two forms are in use: a Caret/Workbench ``LabelTable`` in a NIfTI header extension (TotalSegmentator writes it, and so
does this package), and the ``SegmentN_*`` fields of 3D Slicer's ``.seg.nrrd``.
"""

from __future__ import annotations

import gzip
import struct
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from nnunetv2_ext.utilities.errors import UserError

_NIFTI1_HEADER_BYTES = 348


def read_header_names(path: Path | str) -> dict[str, int | tuple[int, ...]]:
    """Class names and integers from the header of a label map.

    Args:
        path: ``.nii``, ``.nii.gz`` or ``.seg.nrrd``.

    Returns:
        Class name to integer, without background.

    Raises:
        UserError: The header holds no names, or the file is of another kind or damaged.
    """
    path = Path(path)
    try:
        if path.name.endswith((".nii", ".nii.gz")):
            labels = _from_nifti(path)
        elif path.name.endswith(".nrrd"):
            labels = _from_nrrd(path)
        else:
            raise UserError(f"Expected a label map (.nii.gz or .seg.nrrd) with names in its header, but got {path}.")
    except (OSError, EOFError, struct.error, ValueError, ElementTree.ParseError) as error:
        raise UserError(f"Expected a readable header in {path}, but it is damaged ({error}).") from None
    if not labels:
        raise UserError(
            f"Expected class names in the header of {path}, but it holds none; name the label order instead."
        )
    return labels


def _from_nifti(path: Path) -> dict[str, int | tuple[int, ...]]:
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "rb") as file:
        header = file.read(_NIFTI1_HEADER_BYTES)
        order = next((mark for mark in "<>" if struct.unpack(mark + "i", header[:4])[0] == _NIFTI1_HEADER_BYTES), None)
        if order is None:
            raise ValueError("it is not NIfTI-1")
        first_voxel = int(struct.unpack(order + "f", header[108:112])[0])
        has_extensions = file.read(4)[:1] not in (b"", b"\0")
        while has_extensions and file.tell() + 8 <= first_voxel:
            size, _code = struct.unpack(order + "ii", file.read(8))
            if size < 8:
                break
            content = file.read(size - 8).rstrip(b"\0")
            if b"<LabelTable" in content:
                table = ElementTree.fromstring(content.decode("utf-8"))
                return {
                    str(label.text).strip(): int(label.attrib["Key"])
                    for label in table.iter("Label")
                    if label.text and int(label.attrib["Key"]) > 0
                }
    return {}


def _from_nrrd(path: Path) -> dict[str, int | tuple[int, ...]]:
    fields = {}
    with open(path, "rb") as file:
        if not file.readline().startswith(b"NRRD"):
            raise ValueError("it is not NRRD")
        while (line := file.readline()).strip():
            key, separator, value = line.decode("utf-8").rstrip("\r\n").partition(":=")
            if separator:
                fields[key] = value
    names = {key.removesuffix("_Name"): value for key, value in fields.items() if key.endswith("_Name")}
    values = {key.removesuffix("_LabelValue"): int(fields[key]) for key in fields if key.endswith("_LabelValue")}
    return {name: values[segment] for segment, name in names.items() if segment in values and values[segment] > 0}
