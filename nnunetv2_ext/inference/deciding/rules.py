"""How logits become labels: one object per kind of network output.

A `LabelRule` takes the logits of a case as they come from the streaming sliding window and returns `Decisions`, from
which label maps are painted one at a time. Networks with another meaning of their outputs join with a rule of their
own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from nnunetv2_ext.images.label_maps import label_type
from nnunetv2_ext.inference.deciding.outputs import OutputMap, OutputPlan
from nnunetv2_ext.inference.deciding.streaming import stream_argmax, stream_masks, stream_threshold
from nnunetv2_ext.inference.windows.sliding_window import LogitSlab

Shape = tuple[int, int, int]

#: Resamples logits ``(classes, z, y, x)`` to a shape, in a way that the streaming export does not know.
ResampleLogits = Callable[[Float[Tensor, "classes z y x"], Shape], Float[np.ndarray, "classes Z Y X"]]


class Decisions(Protocol):
    """What was decided for every voxel."""

    def paint(self, output: OutputMap) -> Integer[np.ndarray, "z y x"]:
        """The label map of an output."""
        ...


class LabelRule(Protocol):
    """How logits become decisions."""

    #: Logits ``(classes,)`` that stand for background, where no window was predicted.
    fill: Float[Tensor, " classes"]

    def decide(self, slabs: Iterable[LogitSlab], shape: Shape, new_shape: Shape, nearest_axis: int | None) -> Decisions:
        """Resamples logits and decides, without holding what was resampled.

        Args:
            slabs: Logits of all planes of a volume, each once and in order.
            shape: Shape of the volume.
            new_shape: Shape of the decisions.
            nearest_axis: The axis that is resampled by nearest neighbour; None for trilinear resampling.
        """
        ...

    def decide_resampled(self, channels: Iterable[Float[np.ndarray, "z y x"]]) -> Decisions:
        """Decides from logits that were resampled already, one class at a time."""
        ...


@dataclass
class Winners:
    """One output channel per voxel."""

    channels: int
    winner: Integer[np.ndarray, "z y x"]

    def paint(self, output: OutputMap) -> Integer[np.ndarray, "z y x"]:
        """See `Decisions`."""
        return output.table(self.channels)[self.winner]


@dataclass
class Painted:
    """The one label map that is wanted."""

    labels: Integer[np.ndarray, "z y x"]

    def paint(self, output: OutputMap) -> Integer[np.ndarray, "z y x"]:
        """See `Decisions`."""
        return self.labels


class Masks:
    """One binary mask per output channel, packed to bits, empty planes left out.

    A hundred masks of 512 x 512 x 600 voxels take 16 GB as bytes; packed, and stored only where a class occurs, they
    take about what the label maps made of them take.

    Args:
        shape: ``(z, y, x)`` of the masks.
        axis: The axis that planes are counted along.
    """

    def __init__(self, shape: Shape, axis: int = 0) -> None:
        self.shape = shape
        self.axis = axis
        self._planes: dict[int, dict[int, np.ndarray]] = {}

    def add(self, channel: int, start: int, part: Bool[np.ndarray, "z y x"]) -> None:
        """Sets whole planes of a channel, from ``start`` on."""
        stored = self._planes.setdefault(channel, {})
        for number, plane in enumerate(np.moveaxis(part, self.axis, 0), start):
            if plane.any():
                stored[number] = np.packbits(plane)

    def paint(self, output: OutputMap) -> Integer[np.ndarray, "z y x"]:
        """See `Decisions`; channels paint in the order of the output, later ones over earlier ones."""
        labels = np.zeros(self.shape, dtype=label_type(max(output.names, default=0)))
        planes = np.moveaxis(labels, self.axis, 0)
        for channel, value in output.paint:
            for number, packed in self._planes.get(channel, {}).items():
                plane = planes[number]
                plane[np.unpackbits(packed, count=plane.size).view(bool).reshape(plane.shape)] = value
        return labels


class SoftmaxRule:
    """The class with the largest logit; the first channel is background.

    Args:
        channels: How many channels the network has.
    """

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.fill = torch.tensor([10.0] + [-10.0] * (channels - 1))

    def decide(self, slabs: Iterable[LogitSlab], shape: Shape, new_shape: Shape, nearest_axis: int | None) -> Decisions:
        """See `LabelRule`."""
        return Winners(self.channels, stream_argmax(slabs, shape, new_shape, nearest_axis=nearest_axis).numpy())

    def decide_resampled(self, channels: Iterable[Float[np.ndarray, "z y x"]]) -> Decisions:
        """See `LabelRule`."""
        best: np.ndarray | None = None
        for channel, logits in enumerate(channels):
            if best is None:
                best, winner = logits.copy(), np.zeros(logits.shape, label_type(self.channels - 1))
                continue
            better = logits > best
            winner[better] = channel
            best[better] = logits[better]
        return Winners(self.channels, winner)


class MergedRegionsRule:
    """Every class has its own sigmoid; one map is painted, later classes over earlier ones (nnU-Net's regions).

    Args:
        values: The integer that each channel paints, in the order of painting.
    """

    def __init__(self, values: Sequence[int]) -> None:
        self.values = tuple(values)
        self.fill = torch.full((len(self.values),), -10.0)

    def decide(self, slabs: Iterable[LogitSlab], shape: Shape, new_shape: Shape, nearest_axis: int | None) -> Decisions:
        """See `LabelRule`."""
        return Painted(stream_threshold(slabs, shape, new_shape, self.values, nearest_axis=nearest_axis).numpy())

    def decide_resampled(self, channels: Iterable[Float[np.ndarray, "z y x"]]) -> Decisions:
        """See `LabelRule`."""
        labels: np.ndarray | None = None
        for logits, value in zip(channels, self.values, strict=True):
            if labels is None:
                labels = np.zeros(logits.shape, label_type(max(self.values)))
            labels[logits > 0] = value
        assert labels is not None
        return Painted(labels)


class SeparateRegionsRule:
    """Every class has its own sigmoid, and its mask is kept whole.

    Args:
        channels: How many channels the network has.
    """

    def __init__(self, channels: int) -> None:
        self.fill = torch.full((channels,), -10.0)

    def decide(self, slabs: Iterable[LogitSlab], shape: Shape, new_shape: Shape, nearest_axis: int | None) -> Decisions:
        """See `LabelRule`."""
        masks: Masks | None = None
        for channel, where, part in stream_masks(slabs, shape, new_shape, nearest_axis=nearest_axis):
            if masks is None:
                # Parts are whole planes along the axis of the slabs: the first part does not span that axis, unless it
                # spans the volume.
                partial = [axis for axis in range(3) if where[axis].stop - where[axis].start < new_shape[axis]]
                masks = Masks(new_shape, partial[0] if partial else 0)
            masks.add(channel, where[masks.axis].start, part.numpy())
        assert masks is not None
        return masks

    def decide_resampled(self, channels: Iterable[Float[np.ndarray, "z y x"]]) -> Decisions:
        """See `LabelRule`."""
        masks: Masks | None = None
        for channel, logits in enumerate(channels):
            masks = masks or Masks((logits.shape[0], logits.shape[1], logits.shape[2]))
            masks.add(channel, 0, logits > 0)
        assert masks is not None
        return masks


@dataclass
class Enlarged:
    """Decisions at the network's spacing, resampled by nearest neighbour when they are painted.

    Attributes:
        decisions: At the network's spacing.
        shape: What the maps are resampled to.
    """

    decisions: Decisions
    shape: Shape

    def paint(self, output: OutputMap) -> Integer[np.ndarray, "z y x"]:
        """See `Decisions`."""
        labels = self.decisions.paint(output)
        # The voxel that contains the centre of the new voxel.
        index = [
            np.minimum(((np.arange(new) + 0.5) * (old / new)).astype(np.intp), old - 1)
            for old, new in zip(labels.shape, self.shape, strict=True)
        ]
        return labels[np.ix_(*index)]


def label_rule(plan: OutputPlan, channels: int, *, has_regions: bool) -> LabelRule:
    """The rule of nnU-Net's own models.

    Args:
        plan: Which label maps are wanted.
        channels: How many channels the network computes.
        has_regions: Whether these are sigmoid outputs.
    """
    if not has_regions:
        return SoftmaxRule(channels)
    if plan.kind == "merged":
        return MergedRegionsRule([value for _, value in plan.maps[0].paint])
    return SeparateRegionsRule(channels)
