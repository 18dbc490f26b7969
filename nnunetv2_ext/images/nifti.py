"""NIfTI label maps that know the names of their labels.

The names travel in header extensions that hold the label table of the Connectome Workbench, an XML text. It is written
twice: under code 0, where TotalSegmentator writes it and its ``load_multilabel_nifti`` looks for it (the first
extension, which it cannot read under code 30: nibabel has no text for that code), and under code 30, which is that of
the Workbench.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Integer

from nnunetv2_ext.images.colours import Colour
from nnunetv2_ext.images.reading import Grid

#: NIFTI_ECODE_IGNORE and NIFTI_ECODE_CARET in nifti1_io.h.
LABEL_TABLE_CODES = (0, 30)


def write_nifti(
    labels: Integer[np.ndarray, "z y x"],
    names: Mapping[int, str],
    colours: Mapping[int, Colour],
    grid: Grid,
    target: Path,
) -> None:
    """Writes a NIfTI file whose geometry is that of the image: bit by bit where that was NIfTI too.

    Args:
        labels: ``(z, y, x)``.
        names: Class name of every integer but 0.
        colours: RGB of every integer.
        grid: Where the voxels lie.
        target: A file name that ends with ``.nii`` or ``.nii.gz``.
    """
    import nibabel

    array = (labels[0] if grid.dimension == 2 else labels).T
    if grid.nifti_header is not None:
        header = grid.nifti_header.copy()
        header.set_data_dtype(labels.dtype)
        header.set_data_shape(array.shape)
        # Rescaling and display range of the intensities mean nothing to labels.
        header.set_slope_inter(1, 0)
        header["cal_min"], header["cal_max"] = 0, 0
        kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
        # Without an affine of its own the image keeps both transforms of the header and their codes.
        image = kind(array, None, header)
    else:
        image = nibabel.Nifti1Image(array, affine_of(grid))
        image.set_qform(image.affine, code=1)
        image.set_sform(image.affine, code=1)
        image.header.set_xyzt_units("mm")
    if names:
        content = label_table(names, colours).encode("utf-8")
        for code in LABEL_TABLE_CODES:
            image.header.extensions.append(nibabel.nifti1.Nifti1Extension(code, content))
    nibabel.save(image, target)


def affine_of(grid: Grid) -> np.ndarray:
    """Voxel index (x, y, z) to position in NIfTI's RAS+ millimetres."""
    affine = np.eye(4)
    dimension = grid.dimension
    direction = np.reshape(grid.direction, (dimension, dimension))
    affine[:dimension, :dimension] = direction * np.asarray(grid.spacing)
    affine[:dimension, 3] = grid.origin
    # SimpleITK points to the left and to the back of the patient (LPS), NIfTI to the right and to the front.
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def label_table(names: Mapping[int, str], colours: Mapping[int, Colour]) -> str:
    """The ``<CaretExtension>`` text for a label map."""
    extension = ElementTree.Element("CaretExtension")
    volume = ElementTree.SubElement(extension, "VolumeInformation", Index="0")
    table = ElementTree.SubElement(volume, "LabelTable")
    for value, name in names.items():
        channels = zip(("Red", "Green", "Blue"), colours[value], strict=True)
        shares = {channel: f"{share / 255:.6f}" for channel, share in channels}
        label = ElementTree.SubElement(table, "Label", {"Key": str(value), **shares, "Alpha": "1"})
        label.text = name
    ElementTree.SubElement(volume, "VolumeType").text = "Label"
    return ElementTree.tostring(extension, encoding="unicode", xml_declaration=True)
