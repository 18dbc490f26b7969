"""From logits on the network's grid to a label map on the image's grid, without resampling the logits as a whole.

Least work for 118 classes, 96^3 -> 224^3: the logits are read once (118 * 96^3 * 4 bytes = 417 MB) and the label map is
written once (11 MB). Resampling everything first writes 118 * 224^3 * 4 bytes = 5.3 GB and reads it again.

How it stays exact: a trilinear value lies between the smallest and the largest of its corner values. In a tile of
voxels a class can therefore win only if its largest logit reaches the largest of all classes' smallest logits. One
pass of minima and maxima per tile leaves 4 of 118 classes on average for smooth logits (tiles of 9^3 input voxels);
only these are interpolated: one small matrix product per axis, at the full speed of the processor. Where many are left,
those that one strong class exceeds at every corner are ruled out too (from 67 to 28 of 118 for a random network). Where
nothing can be ruled out (noise), all classes of a tile are interpolated, so the memory stays that of a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nnunetv2_ext.inference.resampled_axis import Axes, Tile, resampled_axes
from nnunetv2_ext.utilities.errors import UserError

# Output voxels per axis of a tile, and the fewest and most input voxels it may cover. Large enough to hide the cost of
# a call, small enough to rule out most classes and to stay in the processor's second-level cache; a GPU hides its
# calls only behind larger tiles.
_TILE = {"cpu": (20, 4, 16), "cuda": (48, 8, 32)}

# Classes of a tile that are interpolated together: what fits into the second-level cache.
_CLASSES_AT_ONCE = 32

# From so many candidates on it pays to compare them with the strongest before they are interpolated further.
_WORTH_NARROWING = 8

# From so many candidates on it pays to interpolate all classes along the first axis and to pick the candidates then.
_WORTH_CONTIGUITY = 16


def resample_argmax(
    logits: Float[Tensor, "classes z y x"],
    shape: Sequence[int],
    *,
    nearest_axis: int | None = None,
    num_threads: int | None = None,
) -> Int[Tensor, "Z Y X"]:
    """``argmax`` over classes of the trilinearly resampled logits; among equal classes the first.

    Equal, up to rounding of float32 sums, to nnU-Net's ``resample_data_or_seg_to_shape(order=1)`` and to
    ``torch.nn.functional.interpolate(mode="trilinear", align_corners=False)``, each followed by ``argmax(0)``.

    As nnU-Net's function, which returns the type that it is given, resampled float16 logits are rounded to float16; the
    classes that tie then may be others.

    Args:
        logits: Finite, of any floating type, on any device, strided as you like.
        shape: Shape (z, y, x) of the label map; larger, smaller or equal along each axis.
        nearest_axis: The axis that is resampled by nearest neighbour, see `resampled_axis.separate_axis`.
        num_threads: Threads on a CPU; torch's number of threads by default.

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
    axes = _axes_of(logits, shape, nearest_axis)
    return argmax_along_axes(logits, axes, num_threads)


def resample_threshold(
    logits: Float[Tensor, "regions z y x"],
    shape: Sequence[int],
    regions_class_order: Sequence[int],
    *,
    threshold: float = 0.0,
    nearest_axis: int | None = None,
    num_threads: int | None = None,
) -> Int[Tensor, "Z Y X"]:
    """One label map from sigmoid outputs: regions paint their label in order, later ones over earlier ones.

    As stock nnU-Net: the logits are resampled, and a region covers a voxel where its probability exceeds 0.5, that is
    where its logit exceeds 0. (float32 rounds the sigmoid of a logit below 1.2e-7 to 0.5; such voxels may differ.)
    Resampled float16 logits are rounded to float16 first, as nnU-Net's: where whole numbers cancel out, float32 sums
    leave a remainder that float16 seldom holds.

    Args:
        logits: Finite, one channel per region.
        shape: Shape (z, y, x) of the label map.
        regions_class_order: The label that each region paints, as in dataset.json.
        threshold: Least logit, exclusive; ``log(p / (1 - p))`` for a probability p.
        nearest_axis: As in `resample_argmax`.
        num_threads: As in `resample_argmax`.

    Returns:
        Label map of the smallest integer type that holds all labels, on the device of the logits.

    Raises:
        UserError: A logit is NaN or infinite.
        ValueError: There is not one label per region, or a shape is wrong.
    """
    axes = _axes_of(logits, shape, nearest_axis)
    return threshold_along_axes(logits, axes, regions_class_order, threshold, num_threads)


def resample_masks(
    logits: Float[Tensor, "regions z y x"],
    shape: Sequence[int],
    *,
    threshold: float = 0.0,
    nearest_axis: int | None = None,
    num_threads: int | None = None,
) -> Iterator[Bool[Tensor, "Z Y X"]]:
    """The mask of each region in turn, overlaps kept; one mask is held at a time.

    The arguments are those of `resample_threshold`.
    """
    for region in range(len(logits)):
        mask = resample_threshold(
            logits[region : region + 1],
            shape,
            (1,),
            threshold=threshold,
            nearest_axis=nearest_axis,
            num_threads=num_threads,
        )
        yield mask.view(torch.bool)


def resample_probabilities(
    logits: Float[Tensor, "classes z y x"],
    shape: Sequence[int],
    *,
    has_regions: bool,
    classes: Sequence[int] | None = None,
    nearest_axis: int | None = None,
    num_threads: int | None = None,
) -> Float[Tensor, "chosen Z Y X"]:
    """Probabilities of the chosen classes: softmax over all classes (or sigmoid) of the resampled logits.

    Args:
        logits: Finite logits of all classes.
        shape: Shape (z, y, x) of the result.
        has_regions: Sigmoid instead of softmax, as nnU-Net's label manager decides.
        classes: Channels to return, in this order; all by default.
        nearest_axis: As in `resample_argmax`.
        num_threads: As in `resample_argmax`.

    Returns:
        Float32, on the device of the logits; resampled float16 logits are rounded to float16 first, as nnU-Net's. Only
        the chosen classes are held at the full shape.
    """
    axes = _axes_of(logits, shape, nearest_axis)
    return probabilities_along_axes(logits, axes, has_regions, classes, num_threads)


def argmax_along_axes(
    logits: Float[Tensor, "classes z y x"], axes: Axes, num_threads: int | None = None
) -> Int[Tensor, "Z Y X"]:
    """`resample_argmax` for axes that were laid out beforehand, such as the part of a volume that is known so far."""
    rule = _LargestLogit(len(logits), logits.device, _type_of_resampled(logits, axes))
    return _label_map(logits, axes, rule, num_threads)


def threshold_along_axes(
    logits: Float[Tensor, "regions z y x"],
    axes: Axes,
    regions_class_order: Sequence[int],
    threshold: float = 0.0,
    num_threads: int | None = None,
) -> Int[Tensor, "Z Y X"]:
    """`resample_threshold` for axes that were laid out beforehand."""
    if len(regions_class_order) != len(logits):
        raise ValueError(f"Expected a label for each of {len(logits)} regions, but got {list(regions_class_order)}.")
    rule = _LastAboveThreshold(regions_class_order, threshold, logits.device, _type_of_resampled(logits, axes))
    return _label_map(logits, axes, rule, num_threads)


def probabilities_along_axes(
    logits: Float[Tensor, "classes z y x"],
    axes: Axes,
    has_regions: bool,
    classes: Sequence[int] | None = None,
    num_threads: int | None = None,
) -> Float[Tensor, "chosen Z Y X"]:
    """`resample_probabilities` for axes that were laid out beforehand."""
    chosen = torch.tensor(range(len(logits)) if classes is None else list(classes), device=logits.device)
    everything = torch.arange(len(logits), device=logits.device)
    result = torch.empty((len(chosen), *(axis.new_size for axis in axes)), device=logits.device)
    dtype = _type_of_resampled(logits, axes)

    def visit(beam: _Beam) -> None:
        for tile in beam.x_tiles:
            resampled = beam.along_y_and_z(beam.along_x(tile, chosen if has_regions else everything))
            _refuse_nonfinite(resampled)
            resampled = resampled.to(dtype).float()
            part = resampled.sigmoid() if has_regions else resampled.softmax(0).index_select(0, chosen)
            z, y, x = beam.outputs(tile)
            result[:, z, y, x] = part

    _for_each_beam(logits, axes, visit, num_threads)
    return result


def _axes_of(logits: Tensor, shape: Sequence[int], nearest_axis: int | None) -> Axes:
    if logits.ndim != 4 or len(logits) == 0:
        raise ValueError(f"Expected logits (classes, z, y, x), but got the shape {tuple(logits.shape)}.")
    return resampled_axes(logits.shape[1:], shape, nearest_axis)


def smallest_integer_type(largest_label: int) -> torch.dtype:
    """The smallest integer type of torch that holds the labels 0 to ``largest_label``."""
    return torch.uint8 if largest_label <= 255 else torch.int16 if largest_label <= 32767 else torch.int32


def _type_of_resampled(logits: Tensor, axes: Axes) -> torch.dtype:
    """What resampled values are rounded to: as in nnU-Net, float16 stays float16; all else is decided in float32."""
    is_interpolated = any(axis.taps > 1 for axis in axes)
    return torch.float16 if logits.dtype == torch.float16 and is_interpolated else torch.float32


class _Rule(Protocol):
    """How the label of a voxel follows from its resampled logits."""

    dtype: torch.dtype

    def candidates(
        self, highest: Float[Tensor, "classes tiles"], lowest: Float[Tensor, "classes tiles"]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bool (tiles, classes): what must be interpolated. Integer (tiles,): the label where no candidate wins."""

    def narrow(
        self, values: Float[Tensor, "some z y X"], classes: Int[Tensor, " some"]
    ) -> tuple[Float[Tensor, "fewer z y X"], Int[Tensor, " fewer"]]:
        """Leaves out further candidates of one tile, now that its values along one axis are at hand."""

    def decide(
        self, resampled: Iterator[tuple[Float[Tensor, "some voxels"], Int[Tensor, " some"]]], otherwise: int
    ) -> Int[Tensor, " voxels"]:
        """The label of each voxel, given the resampled logits of the candidates, a few classes at a time, ascending."""


class _LargestLogit:
    """The class with the largest logit wins; among those that are equal once they are rounded, the first."""

    def __init__(self, num_classes: int, device: torch.device, rounded_to: torch.dtype):
        self.rounded_to = rounded_to
        self.dtype = smallest_integer_type(num_classes - 1)
        # A code falls as the class rises, so that the largest code among equal classes is that of the first class.
        self.top = num_classes
        self.codes = (num_classes - torch.arange(num_classes, device=device)).float()[:, None]

    def candidates(
        self, highest: Float[Tensor, "classes tiles"], lowest: Float[Tensor, "classes tiles"]
    ) -> tuple[np.ndarray, np.ndarray]:
        possible = (highest >= lowest.amax(0)).t().cpu().numpy()
        first = possible.argmax(1)
        possible[possible.sum(1) == 1] = False
        return possible, first

    def narrow(
        self, values: Float[Tensor, "some z y X"], classes: Int[Tensor, " some"]
    ) -> tuple[Float[Tensor, "fewer z y X"], Int[Tensor, " fewer"]]:
        if len(classes) < _WORTH_NARROWING:
            return values, classes
        flat = values.flatten(1)
        # A class that lies below one other at every corner lies below it everywhere between. Two strong others suffice.
        strongest = {int(flat.mean(1).argmax()), int(flat.amin(1).argmax())}
        kept = torch.stack([(flat - flat[other]).amax(1) >= -self._may_tie(flat[other]) for other in strongest]).all(0)
        index = kept.nonzero().flatten()
        return values.index_select(0, index), classes.index_select(0, index)

    def decide(
        self, resampled: Iterator[tuple[Float[Tensor, "some voxels"], Int[Tensor, " some"]]], otherwise: int
    ) -> Int[Tensor, " voxels"]:
        largest = winner = None
        for values, classes in resampled:
            values = values.to(self.rounded_to).float()
            largest_here = values.amax(0)
            # The largest code among the largest logits. These vectorise (in place; `==` does not), and are several
            # times faster than torch's search for the position of the largest.
            winner_here = values.eq_(largest_here).mul_(self.codes.index_select(0, classes)).amax(0)
            if largest is None or winner is None:
                largest, winner = largest_here, winner_here
            else:
                winner = torch.where(largest_here > largest, winner_here, winner)
                largest = torch.maximum(largest, largest_here)
        assert winner is not None
        return (self.top - winner).to(self.dtype)

    def _may_tie(self, values: Float[Tensor, " voxels"]) -> Float[Tensor, ""] | float:
        """How far below these values another may lie and still be rounded to the same number."""
        if self.rounded_to == torch.float32:
            return 0.0
        # One step of float16 numbers of this size, doubled to be safe from roundings on the way.
        float16 = torch.finfo(torch.float16)
        return values.abs().amax() * (2 * float16.eps) + float16.tiny * float16.eps


class _LastAboveThreshold:
    """Of the regions above the threshold the last in order gives its label."""

    def __init__(self, order: Sequence[int], threshold: float, device: torch.device, rounded_to: torch.dtype):
        self.rounded_to = rounded_to
        self.dtype = smallest_integer_type(max(order))
        self.threshold = threshold
        self.labels = np.array([0, *order])
        self.labels_on_device = torch.tensor(order, dtype=self.dtype, device=device)

    def candidates(
        self, highest: Float[Tensor, "classes tiles"], lowest: Float[Tensor, "classes tiles"]
    ) -> tuple[np.ndarray, np.ndarray]:
        position = torch.arange(1, len(highest) + 1, device=highest.device)[:, None]
        # Whatever lies before a region that covers the whole tile is painted over.
        last_full = ((lowest > self.threshold) * position).amax(0)
        possible = (highest > self.threshold) & (position > last_full)
        return possible.t().cpu().numpy(), self.labels[last_full.cpu().numpy()]

    def narrow(
        self, values: Float[Tensor, "some z y X"], classes: Int[Tensor, " some"]
    ) -> tuple[Float[Tensor, "fewer z y X"], Int[Tensor, " fewer"]]:
        return values, classes

    def decide(
        self, resampled: Iterator[tuple[Float[Tensor, "some voxels"], Int[Tensor, " some"]]], otherwise: int
    ) -> Int[Tensor, " voxels"]:
        labels = self.labels_on_device.new_tensor(otherwise)
        for values, regions in resampled:
            values = values.to(self.rounded_to).float()
            for value, label in zip(values, self.labels_on_device.index_select(0, regions), strict=True):
                labels = torch.where(value > self.threshold, label, labels)
        return labels


def _label_map(
    logits: Float[Tensor, "classes z y x"], axes: Axes, rule: _Rule, num_threads: int | None
) -> Int[Tensor, "Z Y X"]:
    labels = torch.empty([axis.new_size for axis in axes], dtype=rule.dtype, device=logits.device)
    classes_at_once = _CLASSES_AT_ONCE if logits.device.type == "cpu" else len(logits)

    def visit(beam: _Beam) -> None:
        candidates, otherwise = rule.candidates(*beam.highest_and_lowest())
        for tile, possible, label in zip(beam.x_tiles, candidates, otherwise, strict=True):
            target = labels[beam.outputs(tile)]
            if possible.any():
                classes = torch.from_numpy(np.flatnonzero(possible)).to(logits.device)
                values, classes = rule.narrow(beam.along_x(tile, classes), classes)
                resampled = (
                    (beam.along_y_and_z(some).flatten(1), which)
                    for some, which in zip(values.split(classes_at_once), classes.split(classes_at_once), strict=True)
                )
                target.copy_(rule.decide(resampled, int(label)).view(target.shape))
            else:
                target.fill_(int(label))

    _for_each_beam(logits, axes, visit, num_threads)
    return labels


@dataclass(frozen=True)
class _TileOnDevice:
    inputs: slice
    outputs: slice
    weights: Float[Tensor, "outputs inputs"]
    is_identity: bool


@dataclass(frozen=True)
class _Beam:
    """The tiles that share a tile of the z axis and a tile of the y axis."""

    logits: Float[Tensor, "classes z y X"]
    z_tile: _TileOnDevice
    y_tile: _TileOnDevice
    x_tiles: list[_TileOnDevice]

    def outputs(self, x_tile: _TileOnDevice) -> tuple[slice, slice, slice]:
        return self.z_tile.outputs, self.y_tile.outputs, x_tile.outputs

    def highest_and_lowest(self) -> tuple[Float[Tensor, "classes tiles"], Float[Tensor, "classes tiles"]]:
        # Two reductions of one axis each: torch vectorises them, but not one reduction of two axes.
        highest, lowest = self.logits.amax(1).amax(1), self.logits.amin(1).amin(1)
        _refuse_nonfinite(highest, lowest)
        spans = [tile.inputs for tile in self.x_tiles]
        return (
            torch.stack([highest[:, span].amax(1) for span in spans], 1),
            torch.stack([lowest[:, span].amin(1) for span in spans], 1),
        )

    def along_x(self, x_tile: _TileOnDevice, classes: Int[Tensor, " some"]) -> Float[Tensor, "some z y X"]:
        """The logits of a tile, interpolated along x."""
        if len(classes) < _WORTH_CONTIGUITY or x_tile.is_identity:
            corners = self.logits[..., x_tile.inputs].index_select(0, classes)
            return corners if x_tile.is_identity else corners @ x_tile.weights.t()
        # To pick the short rows of a tile class by class takes longer than to interpolate all of them.
        rows = self._contiguous.view(-1, self.logits.shape[-1])[:, x_tile.inputs]
        values = (rows @ x_tile.weights.t()).view(*self.logits.shape[:-1], -1)
        return values if len(classes) == len(values) else values.index_select(0, classes)

    def along_y_and_z(self, values: Float[Tensor, "some z y X"]) -> Float[Tensor, "some Z Y X"]:
        """The logits of a tile, interpolated along the other axes too."""
        if not self.y_tile.is_identity:
            values = self.y_tile.weights @ values
        if not self.z_tile.is_identity:
            plane = values.shape[2:]
            values = (self.z_tile.weights @ values.flatten(2)).unflatten(2, plane)
        return values

    @cached_property
    def _contiguous(self) -> Float[Tensor, "classes z y X"]:
        return self.logits.contiguous()


def _for_each_beam(
    logits: Float[Tensor, "classes z y x"], axes: Axes, visit: Callable[[_Beam], None], num_threads: int | None
) -> None:
    """Calls ``visit`` for every beam of tiles, in parallel on a CPU."""
    device = logits.device
    wished, fewest, most = _TILE["cuda" if device.type == "cuda" else "cpu"]
    tiles = [[_on_device(tile, device) for tile in axis.tiles(wished, fewest, most)] for axis in axes]

    def work(pair: tuple[_TileOnDevice, _TileOnDevice]) -> None:
        z_tile, y_tile = pair
        # Autocast and gradients are set per thread. In half precision the products would no longer be exact.
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            part = logits[:, z_tile.inputs, y_tile.inputs].float()
            visit(_Beam(part, z_tile, y_tile, tiles[2]))

    beams = [(z_tile, y_tile) for z_tile in tiles[0] for y_tile in tiles[1]]
    with _exact_products():
        if device.type != "cpu":
            for beam in beams:
                work(beam)
            return
        threads = num_threads or torch.get_num_threads()
        # Torch's own threads meet after every call, which costs more than the short calls for a tile; whole beams
        # share nothing.
        try:
            with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
                for _ in pool.map(work, beams):
                    pass
        finally:
            # The number is kept per thread, but also as the default of threads still to come.
            torch.set_num_threads(torch.get_num_threads())


def _refuse_nonfinite(*values: Tensor) -> None:
    if not all(bool(torch.isfinite(value).all()) for value in values):
        raise UserError(
            "Expected finite logits, but the network's output holds NaN or infinity; check the image for invalid "
            "voxels and the checkpoint, and predict in float32."
        )


def _on_device(tile: Tile, device: torch.device) -> _TileOnDevice:
    return _TileOnDevice(tile.inputs, tile.outputs, torch.tensor(tile.weights, device=device), tile.is_identity)


@contextmanager
def _exact_products() -> Iterator[None]:
    """Full float32 products even where the caller allows TF32 or bfloat16 for the network."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
