"""From logits on the network's grid to a label map on the image's grid, without resampling the logits as a whole.

Least work for 118 classes, 96^3 -> 224^3: the logits are read once (118 * 96^3 * 4 bytes = 417 MB) and the label map is
written once (11 MB). Resampling everything first writes 118 * 224^3 * 4 bytes = 5.3 GB and reads it again.

How it stays exact: a trilinear value lies between the smallest and the largest of its corner values. In a tile of
voxels a class can therefore win only if its largest logit reaches the largest of all classes' smallest logits. One
pass of minima and maxima per tile leaves a few of 118 classes for smooth logits; only these are interpolated. Where
nothing can be ruled out (noise), all classes of a tile are interpolated, so the memory stays that of a tile. On a CPU a
compiled loop does it class by class (`kernel`), elsewhere one small matrix product per axis.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nnunetv2_ext.inference.deciding.axes import Axes, resampled_axes
from nnunetv2_ext.inference.deciding.tiles import Beam, for_each_beam, refuse_nonfinite

_logger = logging.getLogger(__name__)

# Classes of a tile that are interpolated together where no compiled loop does it one by one: they fit into the cache.
_CLASSES_AT_ONCE = 32


def resample_argmax(
    logits: Float[Tensor, "classes z y x"], shape: Sequence[int], *, nearest_axis: int | None = None
) -> Int[Tensor, "Z Y X"]:
    """``argmax`` over classes of the trilinearly resampled logits; among equal classes the first.

    Equal, up to rounding of float32 sums, to nnU-Net's ``resample_data_or_seg_to_shape(order=1)`` and to
    ``torch.nn.functional.interpolate(mode="trilinear", align_corners=False)``, each followed by ``argmax(0)``.

    As nnU-Net's function, which returns the type that it is given, resampled float16 logits are rounded to float16; the
    classes that tie then may be others.

    Args:
        logits: Finite, of any floating type, on any device, strided as you like.
        shape: Shape (z, y, x) of the label map; larger, smaller or equal along each axis.
        nearest_axis: The axis that is resampled by nearest neighbour, see `axes.separate_axis`.

    Returns:
        Label map of the smallest integer type that holds ``classes - 1``, on the device of the logits.

    Raises:
        UserError: A logit is NaN or infinite.
        ValueError: The logits do not have four axes, or a shape is empty.

    Example:
        >>> logits = torch.zeros(3, 2, 2, 2)
        >>> logits[2, :, :, 1] = 1
        >>> resample_argmax(logits, (2, 2, 4))[0, 0].tolist()
        [0, 2, 2, 2]
    """
    if logits.ndim != 4 or len(logits) == 0:
        raise ValueError(f"Expected logits (classes, z, y, x), but got the shape {tuple(logits.shape)}.")
    axes = resampled_axes(logits.shape[1:], shape, nearest_axis)
    return label_map(logits, axes, LargestWins(len(logits)))


def label_map(logits: Float[Tensor, "classes z y x"], axes: Axes, comparison: Comparison) -> Int[Tensor, "Z Y X"]:
    """Resamples logits along axes that were laid out beforehand, and compares.

    Args:
        logits: Finite, on any device.
        axes: Where each voxel of the label map takes its value from.
        comparison: Which class labels a voxel.

    Returns:
        Label map of the comparison's type, on the device of the logits.

    Raises:
        UserError: A logit is NaN or infinite.
    """
    labels = torch.empty([axis.new_size for axis in axes], dtype=comparison.dtype, device=logits.device)
    decide_tile = _compiled_loop() if logits.device.type == "cpu" else None
    rounded_to = _type_of_resampled(logits, axes)
    in_float16 = rounded_to == torch.float16
    # As nnU-Net: what is a tie in float16 is one only if it was interpolated more exactly.
    precision = np.float64 if in_float16 else np.float32

    def visit(beam: Beam) -> None:
        candidates, otherwise = comparison.candidates(*beam.highest_and_lowest())
        for tile, possible, label in zip(beam.x_tiles, candidates, otherwise, strict=True):
            target = labels[beam.outputs(tile)]
            classes = np.flatnonzero(possible)
            if not len(classes):
                target.fill_(int(label))
            elif decide_tile:
                found = decide_tile(
                    beam.logits.numpy(),
                    classes.astype(np.uint32),
                    comparison.labels,
                    *beam.neighbours(tile, precision),
                    comparison.bar,
                    comparison.raises_the_bar,
                    int(label),
                    in_float16,
                )
                target.copy_(torch.from_numpy(found))
            else:
                parts = torch.from_numpy(classes).to(logits.device).split(_CLASSES_AT_ONCE)
                resampled = ((beam.resampled(tile, some).flatten(1).to(rounded_to).float(), some) for some in parts)
                target.copy_(comparison.decide(resampled, int(label)).view(target.shape))

    for_each_beam(logits, axes, visit)
    return labels


def probabilities(
    logits: Float[Tensor, "classes z y x"], axes: Axes, *, has_regions: bool
) -> Float[Tensor, "classes Z Y X"]:
    """Probabilities: softmax over all classes (or sigmoid) of the resampled logits.

    Args:
        logits: Finite logits of all classes.
        axes: Where each voxel of the result takes its value from.
        has_regions: Sigmoid instead of softmax, as nnU-Net's label manager decides.

    Returns:
        Float32, on the device of the logits; resampled float16 logits are rounded to float16 first, as nnU-Net's.

    Raises:
        UserError: A logit is NaN or infinite.
    """
    everything = torch.arange(len(logits), device=logits.device)
    result = torch.empty((len(logits), *(axis.new_size for axis in axes)), device=logits.device)
    rounded_to = _type_of_resampled(logits, axes)

    def visit(beam: Beam) -> None:
        for tile in beam.x_tiles:
            resampled = beam.resampled(tile, everything)
            refuse_nonfinite(resampled)
            resampled = resampled.to(rounded_to).float()
            z, y, x = beam.outputs(tile)
            result[:, z, y, x] = resampled.sigmoid() if has_regions else resampled.softmax(0)

    for_each_beam(logits, axes, visit)
    return result


def smallest_integer_type(largest_label: int) -> torch.dtype:
    """The smallest integer type of torch that holds the labels 0 to ``largest_label``."""
    return torch.uint8 if largest_label <= 255 else torch.int16 if largest_label <= 32767 else torch.int32


def _type_of_resampled(logits: Tensor, axes: Axes) -> torch.dtype:
    """What resampled values are rounded to: as in nnU-Net, float16 stays float16; all else is decided in float32."""
    is_interpolated = any(axis.taps > 1 for axis in axes)
    return torch.float16 if logits.dtype == torch.float16 and is_interpolated else torch.float32


class Comparison(ABC):
    """How the label of a voxel follows from its resampled logits.

    Args:
        labels: The label that each class writes.
        bar: What the logit of a class must exceed.
        raises_the_bar: Whether a class that exceeds the bar sets it for those that follow.
    """

    def __init__(self, labels: Sequence[int], bar: float, *, raises_the_bar: bool) -> None:
        self.labels = np.array(labels, dtype=np.int32)
        self.dtype = smallest_integer_type(max(labels))
        self.bar = bar
        self.raises_the_bar = raises_the_bar

    @abstractmethod
    def candidates(
        self, highest: Float[Tensor, "classes tiles"], lowest: Float[Tensor, "classes tiles"]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bool (tiles, classes): what must be interpolated. Integer (tiles,): the label where no candidate wins."""

    @abstractmethod
    def decide(
        self, resampled: Iterator[tuple[Float[Tensor, "some voxels"], Int[Tensor, " some"]]], otherwise: int
    ) -> Int[Tensor, " voxels"]:
        """The label of each voxel, given the resampled logits of the candidates, a few classes at a time, ascending."""


class LargestWins(Comparison):
    """The class with the largest logit wins; among those that are equal once they are rounded, the first."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(range(num_classes), -np.inf, raises_the_bar=True)

    def candidates(
        self, highest: Float[Tensor, "classes tiles"], lowest: Float[Tensor, "classes tiles"]
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Comparison`."""
        possible = (highest >= lowest.amax(0)).t().cpu().numpy()
        first = possible.argmax(1)
        possible[possible.sum(1) == 1] = False
        return possible, first

    def decide(
        self, resampled: Iterator[tuple[Float[Tensor, "some voxels"], Int[Tensor, " some"]]], otherwise: int
    ) -> Int[Tensor, " voxels"]:
        """See `Comparison`."""
        values, classes = next(resampled)
        largest, position = values.max(0)  # among equal ones the first
        winner = classes[position]
        for values, classes in resampled:
            largest_here, position = values.max(0)
            winner = torch.where(largest_here > largest, classes[position], winner)
            largest = torch.maximum(largest, largest_here)
        return winner.to(self.dtype)


class LastAboveZero(Comparison):
    """Of the regions whose logit exceeds 0 (their probability 0.5) the last in order gives its label.

    As in stock nnU-Net later regions paint over earlier ones. (float32 rounds the sigmoid of a logit below 1.2e-7 to
    0.5; such voxels may differ.) Resampled float16 logits are rounded to float16 first, as nnU-Net's: where whole
    numbers cancel out, float32 sums leave a remainder that float16 seldom holds.
    """

    def __init__(self, order: Sequence[int]) -> None:
        super().__init__(order, 0.0, raises_the_bar=False)

    def candidates(
        self, highest: Float[Tensor, "classes tiles"], lowest: Float[Tensor, "classes tiles"]
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Comparison`."""
        position = torch.arange(1, len(highest) + 1, device=highest.device)[:, None]
        # Whatever lies before a region that covers the whole tile is painted over.
        last_full = ((lowest > self.bar) * position).amax(0)
        possible = (highest > self.bar) & (position > last_full)
        return possible.t().cpu().numpy(), np.insert(self.labels, 0, 0)[last_full.cpu().numpy()]

    def decide(
        self, resampled: Iterator[tuple[Float[Tensor, "some voxels"], Int[Tensor, " some"]]], otherwise: int
    ) -> Int[Tensor, " voxels"]:
        """See `Comparison`."""
        labels: Tensor | int = otherwise
        for values, regions in resampled:
            for value, label in zip(values, self.labels[regions.cpu().numpy()], strict=True):
                labels = torch.where(value > self.bar, int(label), labels)
        assert isinstance(labels, Tensor)
        return labels.to(self.dtype)


@cache
def _compiled_loop() -> Callable[..., np.ndarray] | None:
    """`kernel.decide_tile`, or None for a Python that numba does not know yet."""
    try:
        from nnunetv2_ext.inference.deciding.kernel import decide_tile
    except ImportError as error:
        _logger.info("Exporting without numba, which takes up to five times as long on a CPU: %s", error)
        return None
    return decide_tile
