"""The gate in front of every image file: what a library may open, and what is said when it cannot read it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.names import quoted, refuse_equal_names

#: Deflate, in gzip and in compressed .mha and .nrrd, makes data at most this many times smaller.
DEFLATE = 1032

#: Endings that are read whatever a model was trained on; longest first, so that .nii.gz is not taken for .gz.
IMAGE_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".gipl")

#: Formats whose headers state no millimetres.
PICTURES = (".png", ".bmp", ".tif", ".tiff")

#: A picture that no label map can be.
JPEG = (".jpg", ".jpeg")

# Headers of text end long before this.
_HEADER_BYTES = 1 << 20

# What headers of text call the file (or the files) that holds the voxels.
_DATA_FILE = {
    "meta": re.compile(rb"ElementDataFile\s*[=:]\s*([^\n]*)", re.I),
    "nrrd": re.compile(rb"^\s*data ?file\s*:(?!=)\s*([^\n]*)", re.I | re.M),
}


def is_nifti(file: Path | str) -> bool:
    """Whether a name ends as NIfTI files do, in capitals or not."""
    return str(file).lower().endswith((".nii", ".nii.gz"))


def image_ending(path: Path | str, further: Iterable[str] = ()) -> str | None:
    """The image ending of a file name (``".nii.gz"``), or None where it has none that is known.

    Args:
        path: A file name.
        further: Endings beyond `IMAGE_ENDINGS`, such as a model's own ``.png``.
    """
    name = os.path.basename(path).lower()
    for ending in (*IMAGE_ENDINGS, *(ending.lower() for ending in further)):
        # A segmentation of 3D Slicer is no scan.
        if name.endswith(ending) and len(name) > len(ending) and (ending, name[-9:]) != (".nrrd", ".seg.nrrd"):
            return ending
    return None


def label_maps_among(files: Iterable[Path], folder: Path) -> dict[str, Path]:
    """Label maps of all formats by their path in a folder, without ending.

    Raises:
        UserError: Two of them have one name.
    """
    endings = [(file, ending) for file in files if (ending := image_ending(file, (".seg.nrrd", *PICTURES)))]
    # A picture beside volumes shows one of them.
    maps = [pair for pair in endings if pair[1] not in PICTURES] or endings
    found = [(file.relative_to(folder).as_posix()[: -len(ending)], file) for file, ending in maps]
    refuse_equal_names(found)
    return dict(found)


@contextmanager
def opened(file: Path, *, folder: bool = False) -> Iterator[None]:
    """Turns whatever libraries raise about one file, or one folder of slices, into a sentence about it.

    Raises:
        UserError: There is no such file, it is none to read from (a pipe blocks for ever), or reading it fails.
    """
    try:
        if any("\ud800" <= letter <= "\udfff" for letter in str(file)):
            raise UserError(
                f"Expected a name in UTF-8, but {quoted(file)} is none, which libraries cannot open; rename it, or set "
                "LC_ALL=C.UTF-8 where other programs show it rightly."
            )
        if not file.exists():
            raise UserError(f"Expected the image {file}, but it does not exist.")
        if not (file.is_dir() if folder else file.is_file()):
            raise UserError(f"Expected an image in {file}, but that is no {'folder' if folder else 'regular file'}.")
        yield
    except UserError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1].removeprefix("sitk::ERROR: ").rstrip(".") if lines else type(error).__name__
        raise UserError(
            f"Expected a complete image in {file}, but it cannot be read, it is truncated or damaged ({reason}); "
            "replace it or leave it out."
        ) from None


def refuse_too_large(file: Path, shape: Sequence[int], itemsize: int, stored: float = math.inf) -> None:
    """Refuses what a header promises before memory is taken for it.

    Args:
        file: The image.
        shape: Voxels along the axes, and channels.
        itemsize: Bytes of a voxel in the file.
        stored: The largest number of bytes that the file can hold.

    Raises:
        UserError: The voxels do not fit in the memory of the machine.
        ValueError: There are no voxels, or more than the file can hold.
    """
    if not shape or min(shape) < 1:
        raise ValueError(f"its header promises {' x '.join(map(str, shape)) or 'no'} voxels")
    voxels = math.prod(int(size) for size in shape)
    if voxels * itemsize > stored:
        raise ValueError(f"its header promises {voxels * itemsize} bytes of voxels, the file is too short for them")
    # The work is done in 32-bit numbers at least.
    if voxels * max(itemsize, 4) > _memory():
        raise UserError(
            f"Expected an image that fits in memory, but {file} promises {' x '.join(map(str, shape))} voxels; crop it "
            "or use a machine with more memory."
        )


def _memory() -> float:
    """Bytes of memory of this machine, or of the container; infinite where the system does not say."""
    try:
        machine = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
    except (AttributeError, ValueError):  # Windows
        return math.inf
    except OSError:
        return machine
    return machine if limit == "max" else min(machine, float(limit))


def text_header(file: Path) -> bytes:
    """The lines before the voxels of an NRRD file, without the empty one that ends them; the beginning of any other."""
    with open(file, "rb") as stream:
        header = stream.read(_HEADER_BYTES).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return header.partition(b"\n\n")[0] if header.startswith(b"NRRD") else header


def data_files(file: Path) -> list[Path]:
    """The files that hold the voxels of an ``.mhd``, ``.mha``, ``.nhdr`` or ``.nrrd`` file: itself, or those it names.

    Raises:
        UserError: One of them lies outside the folder of the header or is no regular file, so that reading the image
            would read what its author could not.
    """
    header = text_header(file)
    kind = "nrrd" if header.startswith(b"NRRD") else "meta"
    files = []
    for found in _DATA_FILE[kind].finditer(header):
        name = found[1].strip()
        data = file if name.lower() == b"local" else file.parent / os.fsdecode(name)
        inside = any(data.resolve().is_relative_to(folder) for folder in (file.parent.resolve(), file.resolve().parent))
        # A name with % is a pattern of numbered files, and LIST is no file: a list of names follows.
        if b"%" in name or name.startswith(b"LIST") or not inside or not data.is_file():
            raise UserError(
                f"Expected the voxels of {file} in a file beside it, but its header names {os.fsdecode(name)!r}, which "
                "is no regular file of that folder; put both into one folder."
            )
        files.append(data)
    return files or [file]
