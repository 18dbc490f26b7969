"""NIfTI files: read to their last byte, and written with the names of their labels.

ITK fills what is missing of a file with zeros, prints a warning and goes on; nibabel takes all the memory that a header
asks for. So the bytes are read here, as many as the header promises and the file can hold.

The names travel in header extensions that hold the label table of the Connectome Workbench, an XML text. It is written
twice: under code 0, where TotalSegmentator writes it and its ``load_multilabel_nifti`` looks for it (the first
extension, which it cannot read under code 30: nibabel has no text for that code), and under code 30, which is that of
the Workbench.
"""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Integer

from nnunetv2_ext.images.colours import display_colours
from nnunetv2_ext.images.files import DEFLATE, refuse_too_large
from nnunetv2_ext.images.geometry import Grid
from nnunetv2_ext.utilities.errors import UserError

#: NIFTI_ECODE_IGNORE and NIFTI_ECODE_CARET in nifti1_io.h.
LABEL_TABLE_CODES = (0, 30)

_BLOCK = 1 << 20
#: The first number in a NIfTI-1 file, the only version that ITK reads.
SIZE_OF_NIFTI_1 = 348
# Volume of the parallelepiped of the unit vectors along the axes: 1 at right angles.
_SINGULAR = 1e-3
# Axes that are further (degrees) from right angles are named.
_RIGHT_ANGLE = 0.01
# Millimetres in the units that a header may state; no unit means millimetres.
_MILLIMETRES = {"meter": 1e3, "micron": 1e-3}


def read_nifti(file: Path) -> tuple[np.ndarray, Grid, str]:
    """Reads a file to its last byte; other errors than the one below come as libraries raise them.

    Returns:
        Voxels ``(channels, z, y, x)``, z = 1 for two dimensions, with the header's slope and intercept applied; the
        grid as SimpleITK, and so nnU-Net, understands the header, which it keeps; and what keeps SimpleITK from it.

    Raises:
        UserError: The voxels are no grey values, or the header does not say where they lie.
    """
    from nibabel.volumeutils import apply_read_scaling

    with _stream(file) as stream:
        header, start = _read_header(file, stream)
        shape, dtype = header.get_data_shape(), header.get_data_dtype()
        if dtype.fields is not None:
            raise UserError(f"Expected grey values in {file}, but its voxels are of the type {dtype}.")
        refuse_too_large(file, shape, dtype.itemsize, _capacity(file) - start)
        data = memoryview(bytearray(math.prod(shape) * dtype.itemsize))
        filled = 0
        while filled < len(data):
            if not (block := stream.read(min(_BLOCK, len(data) - filled))):
                raise EOFError(f"it ends after {filled} of {len(data)} bytes of voxels")
            data[filled : filled + len(block)] = block
            filled += len(block)
        # The checksum comes behind the voxels. Some programs leave a little more there, but none as much again.
        if all(stream.read(_BLOCK) for _ in range(len(data) // _BLOCK + 2)):
            raise ValueError("it holds more than its header says")
    array: np.ndarray = np.ndarray(shape, dtype, data, order="F")
    slope, intercept = header.get_slope_inter()
    array = apply_read_scaling(array, np.float64(1 if slope is None else slope), np.float64(intercept or 0))
    # (x, y, z, 1) and (x, y, z, 1, n) are how some programs write volumes and vectors.
    shape = (*shape[:3], *(size for size in shape[3:] if size > 1))
    if len(shape) not in (2, 3, 4):
        raise UserError(f"Expected two to four axes in {file}, but it has {len(shape)}: {shape}.")
    array = array.reshape(shape, order="F").T
    array = array if array.ndim == 4 else array[None]
    return array if array.ndim == 4 else array[:, None], *_grid(file, header, shape[:3])


def read_extensions(file: Path) -> list[str]:
    """The texts in a header's extensions; errors come as libraries raise them."""
    with _stream(file) as stream:
        header, _ = _read_header(file, stream)
    # nibabel before 5.3 has only get_content; where both exist, that one fails on the Workbench's own code.
    contents = [item.content if hasattr(item, "content") else item.get_content() for item in header.extensions]
    return [text if isinstance(text, str) else bytes(text).decode("utf-8", errors="replace") for text in contents]


def _stream(file: Path) -> Any:
    return gzip.open(file) if file.name.lower().endswith(".gz") else open(file, "rb")


def _capacity(file: Path) -> int:
    """The largest number of bytes that a file can hold."""
    return os.path.getsize(file) * (DEFLATE if file.name.lower().endswith(".gz") else 1)


def _read_header(file: Path, stream: Any) -> tuple[Any, int]:
    """The header with its extensions, and the number of bytes before the voxels, which are read from the stream."""
    from nibabel import Nifti1Header, Nifti2Header

    content = stream.read(4)
    kinds = {SIZE_OF_NIFTI_1: Nifti1Header, 540: Nifti2Header}
    kind = next(
        (kinds[n] for n in (int.from_bytes(content, "big"), int.from_bytes(content, "little")) if n in kinds), None
    )
    if kind is None:
        raise ValueError("it does not begin as NIfTI does")
    content += stream.read(kind.template_dtype.itemsize - len(content))
    raw = kind(content, check=False)
    # The voxels of any other are in a second file.
    if not bytes(raw["magic"]).startswith(b"n+"):
        raise ValueError("it is no single NIfTI file")
    start = int(raw["vox_offset"])
    if start < len(content):
        raise ValueError(f"its voxels begin within its header, at byte {start}")
    refuse_too_large(file, [start], 1, _capacity(file))
    # nibabel takes a spacing of 0 for 1 mm, and ITK one that is no number.
    spacing = raw["pixdim"][1 : 1 + min(3, int(raw["dim"][0]))]
    if not np.isfinite(spacing).all() or not spacing.all():
        raise UserError(f"Expected the spacing in the header of {file}, but it says {spacing.tolist()}; correct it.")
    content += stream.read(start - len(content))
    return kind.from_fileobj(BytesIO(content)), start


def _grid(file: Path, header: Any, size: tuple[int, ...]) -> tuple[Grid, str]:
    """The grid as ITK knows it; where it refuses a header, the nearest one with right angles."""
    import SimpleITK

    header.extensions.clear()
    affine = header.get_best_affine()
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not lengths.all() or abs(np.linalg.det(affine[:3, :3] / lengths)) < _SINGULAR:
        raise UserError(
            f"Expected a transform in the header of {file} that says where its voxels lie, but it is singular or no "
            "number; correct it."
        )
    if header["sizeof_hdr"] == SIZE_OF_NIFTI_1:
        reader = SimpleITK.ImageFileReader()
        reader.SetFileName(str(file))
        reader.SetImageIO("NiftiImageIO")
        try:
            reader.ReadImageInformation()
            return replace(Grid.of(reader), size=size, nifti_header=header), ""
        except RuntimeError as error:
            if "orthonormal" not in str(error):
                raise
    units = _MILLIMETRES.get(header.get_xyzt_units()[0], 1.0)
    grid, degrees = Grid.of_affine(np.diag([units, units, units, 1.0]) @ affine, size)
    mended = f"the axes in the header were not at right angles (off by {degrees:.2g} degrees)"
    return replace(grid, nifti_header=header), mended if degrees > _RIGHT_ANGLE else ""


def write_nifti(labels: Integer[np.ndarray, "z y x"], names: Mapping[int, str], grid: Grid, target: Path) -> None:
    """Writes a NIfTI file whose geometry is that of the image: bit by bit where that was NIfTI too.

    Args:
        labels: ``(z, y, x)``.
        names: Class name of every integer but 0.
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
        # Where some programs note the patient.
        for field in {"descrip", "db_name", "aux_file"} & set(header.keys()):
            header[field] = b""
        kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
        # Without an affine of its own the image keeps both transforms of the header and their codes.
        image = kind(array, None, header)
    else:
        image = nibabel.Nifti1Image(array, grid.affine)
        image.set_qform(image.affine, code=1)
        image.set_sform(image.affine, code=1)
        image.header.set_xyzt_units("mm")
    if names:
        content = label_table(names).encode("utf-8")
        for code in LABEL_TABLE_CODES:
            image.header.extensions.append(nibabel.nifti1.Nifti1Extension(code, content))
    nibabel.save(image, target)


def label_table(names: Mapping[int, str]) -> str:
    """The ``<CaretExtension>`` text for a label map."""
    colours = display_colours(names)
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
