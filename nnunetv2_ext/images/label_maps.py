"""The one door to all formats of label maps."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from nnunetv2_ext.images.colours import display_colours
from nnunetv2_ext.images.files import is_nifti, read_image, read_nifti
from nnunetv2_ext.images.reading import Grid
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import atomic_path, write_json

_logger = logging.getLogger(__name__)

#: What ``--output_type`` admits.
OUTPUT_TYPES = ("nii.gz", "nii", "nrrd", "mha", "seg.nrrd")


def label_type(highest: int) -> np.dtype[Any]:
    """The smallest unsigned integer type that holds a label: uint8 to 255, uint16 to 65535, else uint32."""
    return np.min_scalar_type(highest) if highest > 255 else np.dtype(np.uint8)


def write_label_map(
    labels: Integer[np.ndarray, "z y x"], names: Mapping[int, str], grid: Grid, target: Path | str
) -> None:
    """Writes a label map in the format that its name ends with; the file appears only when it is complete.

    Args:
        labels: ``(z, y, x)`` in the axis order of the image that was predicted.
        names: Class name of every integer but 0, also of those that do not occur.
        grid: Where the voxels lie.
        target: ``.nii.gz`` and ``.nii`` carry the names in a header extension, ``.seg.nrrd`` as segments; other
            formats have no place for them.

    Raises:
        UserError: The file cannot be written.
    """
    # Formats are imported here: a run needs one of them.
    from nnunetv2_ext.images.nifti import write_nifti
    from nnunetv2_ext.images.seg_nrrd import write_seg_nrrd

    target = Path(target)
    labels = labels.astype(label_type(max(names, default=0)), copy=False)
    colours = display_colours(names)
    try:
        with atomic_path(target) as temporary:
            if target.name.endswith((".nii", ".nii.gz")):
                write_nifti(labels, names, colours, grid, temporary)
            elif target.name.endswith(".seg.nrrd"):
                write_seg_nrrd(labels, names, colours, grid, temporary)
            else:
                _write_itk(labels, grid, temporary)
        if target.suffix.lower() in (".tif", ".tiff") and grid.dimension == 3:
            # TIFF has no place for the spacing across slices; nnU-Net's Tiff3DIO looks for it here.
            write_json({"spacing": list(grid.spacing[::-1])}, target.with_suffix(".json"))
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"Expected to write {target}, but that failed ({str(error).strip().splitlines()[-1]})."
        ) from error


def _write_itk(labels: Integer[np.ndarray, "z y x"], grid: Grid, target: Path) -> None:
    import SimpleITK

    SimpleITK.WriteImage(grid.image(labels), str(target), useCompression=True)


def write_names(names: Mapping[int, str], target: Path | str) -> None:
    """Writes ``labels.json``: the ``labels`` of a dataset.json, and the colours that viewers are given (RGB, 0-255)."""
    colours = display_colours(names)
    write_json(
        {
            "labels": {"background": 0, **{name: value for value, name in names.items()}},
            "colors": {name: list(colours[value]) for value, name in names.items()},
        },
        target,
    )


def is_complete(file: Path) -> bool:
    """Whether a label map is there and can be read to its end.

    Files of this package appear only when they are complete; a file of another program, or one that a full disk cut
    short, may not be.
    """
    if not file.is_file() or file.stat().st_size == 0:
        return False
    try:
        # Not with ITK where it is NIfTI: a result keeps the transform of its image, which ITK may refuse.
        _ = read_nifti(file) if is_nifti(file) else read_image(file)
    except UserError as error:
        _logger.info("%s It is predicted again.", error)
        return False
    return True
