"""How logits become labels: one object per kind of network output.

A `DecisionRule` takes the logits of one case, slab by slab as they come from the streaming sliding window, resamples
and decides at once, and ends in `Decisions`, from which label maps are painted one at a time. Networks with another
meaning of their outputs join with a rule of their own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from nnunetv2_ext.images.label_maps import label_type
from nnunetv2_ext.inference.deciding.outputs import OutputMap, OutputPlan
from nnunetv2_ext.inference.deciding.resample import Comparison, LargestWins, LastAboveZero, label_map
from nnunetv2_ext.inference.deciding.streaming import Piece, Pieces
from nnunetv2_ext.inference.deciding.tiles import refuse_nonfinite
from nnunetv2_ext.inference.windows.ring import LogitSlab

Shape = tuple[int, int, int]


class Decisions(Protocol):
    """What was decided for every voxel."""

    def paint(self, output: OutputMap) -> Integer[np.ndarray, "z y x"]:
        """The label map of an output."""
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


class DecisionRule(ABC):
    """Resamples the logits of one case and decides, without holding what was resampled.

    All planes are fed with `feed`; or, where the plans resample by a function that needs whole volumes, all channels
    are given to `of_channels`.

    Args:
        shape: Shape (z, y, x) of the logits.
        new_shape: Shape (z, y, x) of the decisions.
        nearest_axis: The axis that is resampled by nearest neighbour; None for trilinear resampling.
    """

    def __init__(self, shape: Sequence[int], new_shape: Sequence[int], nearest_axis: int | None = None) -> None:
        self._pieces = Pieces(shape, new_shape, nearest_axis)

    def feed(self, slab: LogitSlab) -> None:
        """Takes the planes that follow those before.

        Raises:
            UserError: A logit is NaN or infinite.
            ValueError: The slabs do not follow each other.
        """
        for piece in self._pieces.of(slab):
            self._decide(piece)

    def result(self) -> Decisions:
        """What was decided.

        Raises:
            ValueError: Planes are missing.
        """
        self._pieces.refuse_missing()
        return self._result()

    def of(self, slabs: Iterable[LogitSlab]) -> Decisions:
        """Feeds all slabs; what was decided."""
        for slab in slabs:
            self.feed(slab)
        return self.result()

    def of_channels(self, resampled: Iterable[Float[np.ndarray, "Z Y X"]]) -> Decisions:
        """What is decided from all channels, which were resampled already.

        Raises:
            UserError: A logit is NaN or infinite.
        """
        for number, channel in enumerate(resampled):
            refuse_nonfinite(torch.from_numpy(channel))
            self._decide_channel(number, channel)
        return self._result()

    @abstractmethod
    def _decide(self, piece: Piece) -> None: ...

    @abstractmethod
    def _decide_channel(self, channel: int, resampled: Float[np.ndarray, "Z Y X"]) -> None: ...

    @abstractmethod
    def _result(self) -> Decisions: ...


class _OneLabel(DecisionRule):
    """One label per voxel, which a comparison of its logits decides."""

    def __init__(
        self, comparison: Comparison, shape: Sequence[int], new_shape: Sequence[int], nearest_axis: int | None = None
    ) -> None:
        super().__init__(shape, new_shape, nearest_axis)
        self._comparison = comparison
        self._labels = torch.zeros(tuple(new_shape), dtype=comparison.dtype)
        self._bar: Any = comparison.bar

    def _decide(self, piece: Piece) -> None:
        self._labels[piece.outputs] = label_map(piece.logits, piece.axes, self._comparison).cpu()

    def _decide_channel(self, channel: int, resampled: Float[np.ndarray, "Z Y X"]) -> None:
        self._labels.numpy()[resampled > self._bar] = self._comparison.labels[channel]
        if self._comparison.raises_the_bar:
            self._bar = np.maximum(self._bar, resampled, out=self._bar if channel else None)


class LargestLogit(_OneLabel):
    """The class with the largest logit, among equal ones the first: softmax, whose first channel is background.

    Args:
        channels: How many channels the network has.
        *shapes: What `DecisionRule` takes.
    """

    def __init__(self, channels: int, *shapes: Any) -> None:
        super().__init__(LargestWins(channels), *shapes)

    def _result(self) -> Winners:
        return Winners(len(self._comparison.labels), self._labels.numpy())


class PaintedRegions(_OneLabel):
    """Every class has its own sigmoid; one map is painted, later classes over earlier ones (nnU-Net's regions).

    Args:
        values: The integer that each channel paints, in the order of painting.
        *shapes: What `DecisionRule` takes.
    """

    def __init__(self, values: Sequence[int], *shapes: Any) -> None:
        super().__init__(LastAboveZero(values), *shapes)

    def _result(self) -> Painted:
        return Painted(self._labels.numpy())


class SeparateRegions(DecisionRule):
    """Every class has its own sigmoid, and its mask is kept whole."""

    def __init__(self, shape: Sequence[int], new_shape: Sequence[int], nearest_axis: int | None = None) -> None:
        super().__init__(shape, new_shape, nearest_axis)
        self._new_shape = (int(new_shape[0]), int(new_shape[1]), int(new_shape[2]))
        self._masks: Masks | None = None

    def _decide(self, piece: Piece) -> None:
        masks = self._masks = self._masks or Masks(self._new_shape, piece.along)
        for channel, logits in enumerate(piece.logits.split(1)):
            mask = label_map(logits, piece.axes, LastAboveZero((1,))).view(torch.bool)
            masks.add(channel, piece.outputs[piece.along].start, mask.cpu().numpy())

    def _decide_channel(self, channel: int, resampled: Float[np.ndarray, "Z Y X"]) -> None:
        masks = self._masks = self._masks or Masks(self._new_shape)
        masks.add(channel, 0, resampled > 0)

    def _result(self) -> Masks:
        assert self._masks is not None
        return self._masks


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


#: Makes the rule of a case from the shape of its logits, that of the decisions, and the nearest axis.
RuleOfCase = Callable[[Shape, Shape, int | None], DecisionRule]


def rule_of_cases(plan: OutputPlan, channels: int, *, has_regions: bool) -> RuleOfCase:
    """The rule of nnU-Net's own models.

    Args:
        plan: Which label maps are wanted.
        channels: How many channels the network computes.
        has_regions: Whether these are sigmoid outputs.
    """
    if not has_regions:
        return partial(LargestLogit, channels)
    if plan.kind == "merged":
        return partial(PaintedRegions, [value for _, value in plan.maps[0].paint])
    return SeparateRegions


def background_logits(channels: int, *, has_regions: bool) -> Float[Tensor, " channels"]:
    """Logits that stand for background, where no window was predicted."""
    logits = torch.full((channels,), -10.0)
    if not has_regions:
        logits[0] = 10.0
    return logits
