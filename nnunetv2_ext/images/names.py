"""Class names that a label map carries in its own header.

Two forms are in use: a Caret/Workbench ``LabelTable`` in a NIfTI header extension (TotalSegmentator writes it, and so
does this package), and the ``SegmentN_*`` fields of 3D Slicer's ``.seg.nrrd``.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from nnunetv2_ext.images.files import is_nifti, opened, text_header
from nnunetv2_ext.images.nifti import read_extensions
from nnunetv2_ext.utilities.errors import UserError


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
    with opened(path):
        if is_nifti(path):
            labels = _from_nifti(path)
        elif path.name.endswith(".nrrd"):
            labels = _from_nrrd(path)
        else:
            raise UserError(f"Expected a label map (.nii.gz or .seg.nrrd) with names in its header, but got {path}.")
    if not labels:
        raise UserError(
            f"Expected class names in the header of {path}, but it holds none; name the label order instead."
        )
    return labels


def _from_nifti(path: Path) -> dict[str, int | tuple[int, ...]]:
    for text in read_extensions(path):
        if "<LabelTable" in text:
            table = ElementTree.fromstring(text.rstrip("\0").strip().encode("utf-8"))
            return {
                str(label.text).strip(): int(label.attrib["Key"])
                for label in table.iter("Label")
                if label.text and int(label.attrib["Key"]) > 0
            }
    return {}


def _from_nrrd(path: Path) -> dict[str, int | tuple[int, ...]]:
    header = text_header(path)
    if not header.startswith(b"NRRD"):
        raise ValueError("it is not NRRD")
    pairs = (line.decode("utf-8").split(":=", 1) for line in header.split(b"\n") if b":=" in line)
    fields = dict(pairs)
    names = {key.removesuffix("_Name"): value for key, value in fields.items() if key.endswith("_Name")}
    values = {key.removesuffix("_LabelValue"): int(fields[key]) for key in fields if key.endswith("_LabelValue")}
    return {name: values[segment] for segment, name in names.items() if segment in values and values[segment] > 0}
