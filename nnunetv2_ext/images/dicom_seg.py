"""Segmentations in DICOM (SEG): read as masks on the voxels of the image that they were drawn on, and written."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Integer

from nnunetv2_ext.images.dicom_annotations import read_object, reading, segments
from nnunetv2_ext.images.dicom_source import DESCRIPTION, Algorithm, SourceSeries
from nnunetv2_ext.images.geometry import Grid
from nnunetv2_ext.images.segments import Segment
from nnunetv2_ext.utilities.errors import UserError

# How far (in voxels) pixels of a segmentation may be from voxels of the image: rounding, but no half voxel.
_OFF_VOXEL = 0.25
_KINDS = ("BINARY", "FRACTIONAL", "LABELMAP")
# It names patients, and Python prints what has no handler.
logging.getLogger("highdicom").addHandler(logging.NullHandler())


class Segmentation:
    """A segmentation with its frames, in whatever order they are stored.

    Args:
        file: The SEG file: BINARY, FRACTIONAL (probabilities and occupancies of at least one half are inside) or
            LABELMAP.

    Raises:
        UserError: It cannot be read.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._content = read_object(file)
        with reading(file):
            self._numbers = segments(self._content)
            self._kind = str(self._content.SegmentationType).upper()
            if self._kind not in _KINDS:
                raise ValueError(f"its type is {self._kind[:40]!r}, none of {', '.join(_KINDS)}")
            if int(self._content.BitsAllocated) not in (1, 8, 16):
                raise ValueError(f"its pixels have {self._content.BitsAllocated} bits")
            self._shared = (self._content.get("SharedFunctionalGroupsSequence") or [{}])[0]
            self._frames = list(self._content.PerFrameFunctionalGroupsSequence)
            if len(self._frames) != int(self._content.NumberOfFrames):
                raise ValueError(f"it describes {len(self._frames)} of {self._content.NumberOfFrames} frames")
        self._label_map: tuple[Grid, npt.NDArray[Any]] | None = None

    @property
    def names(self) -> Set[str]:
        """Plain names of the segments."""
        return self._numbers.keys()

    def mask(self, names: Collection[str], grid: Grid) -> npt.NDArray[np.bool_]:
        """The union of some segments.

        Args:
            names: Plain names; those that are not there are nothing.
            grid: Of the image that was segmented.

        Raises:
            UserError: Frames are damaged, or do not lie on voxels of the image.
        """
        numbers = {number for name in names for number in self._numbers.get(name, ())}
        with reading(self.file):
            if self._kind == "LABELMAP":
                if self._label_map is None or self._label_map[0] != grid:
                    self._label_map = grid, self._placed(range(len(self._frames)), grid)
                return np.isin(self._label_map[1], list(numbers))
            frames = [
                index
                for index, frame in enumerate(self._frames)
                if int(self._group(frame, "SegmentIdentificationSequence").ReferencedSegmentNumber) in numbers
            ]
            # A fraction is inside from one half on.
            full = int(self._content.MaximumFractionalValue) if self._kind == "FRACTIONAL" else 1
            return self._placed(frames, grid) >= max(full / 2, 1)

    def _placed(self, frames: Sequence[int], grid: Grid) -> npt.NDArray[Any]:
        """The values of some frames at the voxels of the image; the largest one where several lie."""
        placed = np.zeros(grid.shape, dtype=np.min_scalar_type(2 ** int(self._content.BitsAllocated) - 1))
        steps = [self._steps(self._frames[index], grid) for index in frames]
        for (start, down, across), pixels in zip(steps, self._pixels(frames), strict=True):
            rows, columns = np.nonzero(pixels)
            x, y, z = start[:, None] + down[:, None] * rows + across[:, None] * columns
            placed[z, y, x] = np.maximum(placed[z, y, x], pixels[rows, columns])
        return placed

    def _pixels(self, frames: Sequence[int]) -> Iterator[npt.NDArray[Any]]:
        """Decodes frames, one at a time."""
        from pydicom.pixels import iter_pixels

        content, plain = self._content, not self._content.file_meta.TransferSyntaxUID.is_encapsulated
        rows, columns, bits = int(content.Rows), int(content.Columns), int(content.BitsAllocated)
        stored, meant = len(content.PixelData), -(-len(self._frames) * rows * columns * bits // 8)
        # Of more than these pydicom only warns.
        if plain and stored not in (meant, meant + meant % 2):
            raise ValueError(f"it holds {stored} of {meant} bytes of pixels")
        if not (plain and bits == 1):
            yield from iter_pixels(content, indices=frames, raw=True) if frames else ()
            return
        # pydicom loses bits of single frames that do not end with a byte.
        data = np.frombuffer(content.PixelData, np.uint8)
        for start in (index * rows * columns for index in frames):
            end = start + rows * columns
            unpacked = np.unpackbits(data[start // 8 : -(-end // 8)], bitorder="little")
            yield unpacked[start % 8 :][: rows * columns].reshape(rows, columns)

    def _steps(self, frame: Any, grid: Grid) -> tuple[npt.NDArray[np.int64], ...]:
        """The voxel (x, y, z) of a frame's first pixel, and the steps to the next row and column."""
        orientation = np.asarray(self._group(frame, "PlaneOrientationSequence").ImageOrientationPatient, dtype=float)
        spacing = np.asarray(self._group(frame, "PixelMeasuresSequence").PixelSpacing, dtype=float)
        position = np.asarray(self._group(frame, "PlanePositionSequence").ImagePositionPatient, dtype=float)
        to_index = np.linalg.inv(grid.matrix)
        across, down = (to_index[:3, :3] @ axis for axis in np.reshape(orientation, (2, 3)) * spacing[::-1, None])
        start = to_index[:3, :3] @ position + to_index[:3, 3]
        exact = [np.rint(value) for value in (start, down, across)]
        rows, columns = int(self._content.Rows), int(self._content.Columns)
        corners = np.array([[1, row, column] for row in (0, rows - 1) for column in (0, columns - 1)])
        off = np.abs(corners @ (np.array([start, down, across]) - exact)).max()
        ends = corners @ exact
        if not off <= _OFF_VOXEL or (np.abs(np.array(exact[1:])).sum(axis=1) != 1).any() or exact[1] @ exact[2]:
            raise UserError(
                f"Expected the pixels of {self.file} on voxels of its images, but its frames have another spacing, "
                "orientation or position; resample it, or export it anew on the images."
            )
        if ends.min() < 0 or (ends.max(axis=0) >= grid.size).any():
            raise UserError(
                f"Expected the frames of {self.file} within its images, but one reaches beyond them; slices may be "
                "missing, get the series again."
            )
        return tuple(value.astype(np.int64) for value in exact)

    def _group(self, frame: Any, name: str) -> Any:
        """What a frame says of itself, or what holds for all of them."""
        (group,) = frame.get(name) or self._shared.get(name) or [None]
        if group is None:
            raise ValueError(f"it has no {name}")
        return group


def write_dicom_seg(
    labels: Integer[np.ndarray, "z y x"],
    found: Sequence[Segment],
    source: SourceSeries,
    algorithm: Algorithm,
    target: Path,
    *,
    binary: bool = False,
) -> None:
    """Writes a label map as one SEG; what fails comes as libraries raise it.

    Args:
        labels: ``(z, y, x)`` on the grid of the series.
        found: The classes that occur, see `segments_of`; all of them in an empty label map.
        source: The series.
        algorithm: What made the label map.
        target: The file.
        binary: Frames of one bit for each segment, numbered from 1, which older programs read; else LABELMAP, whose
            segments keep their integers, compressed (RLE).
    """
    import highdicom
    from pydicom.uid import ExplicitVRLittleEndian, RLELossless

    headers = source.headers
    shown = headers if labels.any() else headers[:1]  # one empty slice says that nothing was found
    numbers = np.zeros(max(segment.value for segment in found) + 1, np.uint16)
    for number, segment in enumerate(found, start=1):
        numbers[segment.value] = number if binary else segment.value
    content = highdicom.seg.Segmentation(
        source_images=shown,
        further_source_images=headers[len(shown) :],
        pixel_array=numbers[labels[: len(shown)]],
        segmentation_type="BINARY" if binary else "LABELMAP",
        segment_descriptions=[_description(segment, int(numbers[segment.value]), algorithm) for segment in found],
        transfer_syntax_uid=ExplicitVRLittleEndian if binary else RLELossless,
        # Headers do not always say how far apart slices are.
        pixel_measures=highdicom.PixelMeasuresSequence(
            headers[0].PixelSpacing, headers[0].get("SliceThickness") or source.grid.spacing[2], source.grid.spacing[2]
        ),
        content_label="SEGMENTATION",
        content_description=DESCRIPTION,
        **source.object_arguments(2 if binary else 1),
    )
    content.save_as(target)


def _description(segment: Segment, number: int, algorithm: Algorithm) -> Any:
    import highdicom

    category, kind, region = segment.codes.items()
    return highdicom.seg.SegmentDescription(
        number,
        segment.name,
        category,
        kind,
        "AUTOMATIC",
        algorithm.identification(),
        anatomic_regions=None if region is None else [region],
        display_color=highdicom.color.CIELabColor.from_rgb(*segment.colour),
    )
