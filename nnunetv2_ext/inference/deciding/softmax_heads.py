"""Networks with a softmax head per source: which label maps they give, and how each head decides for itself."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from nnunetv2_ext.inference.deciding.outputs import OutputMap, OutputPlan, chosen_classes
from nnunetv2_ext.inference.deciding.rules import DecisionRule, LargestLogit, Winners, background_logits
from nnunetv2_ext.inference.deciding.streaming import Piece
from nnunetv2_ext.labels.source_heads import SourceHead
from nnunetv2_ext.utilities.errors import UserError


def plan_head_outputs(
    sources: Mapping[str, SourceHead],
    *,
    kind: str | None = None,
    classes: Iterable[str] | None = None,
    chosen: Collection[str] | None = None,
) -> OutputPlan:
    """Decides what to write: of every source a label map in its own integers, or of every class a mask.

    Args:
        sources: Name to head, in the order of the network's heads; the channels of the maps count over all of them.
        kind: ``"per_source"``, the default, or ``"per_class"``.
        classes: Which classes to write; all by default.
        chosen: Which sources to predict; all by default.

    Raises:
        UserError: A class does not exist, or one map of all sources is asked for.
    """
    kind = "per_source" if kind is None else kind
    if kind not in ("per_source", "per_class"):
        raise UserError(
            "Expected per_source or per_class as the outputs of a model with a head per source, whose sources name the "
            f"same voxels each in its own way, but got {kind}; leave --outputs out."
        )
    heads = {name: head for name, head in sources.items() if chosen is None or name in chosen}
    known = [name for head in heads.values() for name in head.regions]
    wanted = set(known if classes is None else chosen_classes(classes, known))
    maps = []
    offset = 0
    for source, head in sources.items():
        own = {name: value for value, name in enumerate(head.regions, 1) if name in wanted} if source in heads else {}
        integers = [own] if kind == "per_source" else [{name: 1} for name in own]
        for painted in integers if own else ():
            paint = tuple((offset + output, value) for output, value in enumerate(head.painted(painted)) if value)
            name = source if kind == "per_source" else next(iter(painted))
            maps.append(OutputMap(name, {value: name for name, value in painted.items()}, paint))
        offset += head.outputs
    return OutputPlan(kind, None, tuple(maps))


@dataclass
class WinnersOfHeads:
    """One output per voxel and head."""

    heads: Sequence[Winners]

    def paint(self, output: OutputMap) -> Integer[np.ndarray, "z y x"]:
        """See `Decisions`; all channels of an output are of one head."""
        start = 0
        for head in self.heads:
            own = tuple((channel - start, value) for channel, value in output.paint if channel >= start)
            start += head.channels
            if own and own[0][0] < head.channels:
                break
        return head.paint(replace(output, paint=own))


class LargestOfEachHead(DecisionRule):
    """The output with the largest logit, of every head: their logits lie side by side.

    Args:
        heads: Outputs of each head.
        *shapes: What `DecisionRule` takes.
    """

    def __init__(self, heads: Sequence[int], *shapes: Any) -> None:
        super().__init__(*shapes)
        self._heads = list(heads)
        self._rules = [LargestLogit(outputs, *shapes) for outputs in heads]

    def _decide(self, piece: Piece) -> None:
        for rule, logits in zip(self._rules, piece.logits.split(self._heads), strict=True):
            rule._decide(replace(piece, logits=logits))

    def _decide_channel(self, channel: int, resampled: Float[np.ndarray, "Z Y X"]) -> None:
        for rule, outputs in zip(self._rules, self._heads, strict=True):
            if channel < outputs:
                rule._decide_channel(channel, resampled)
                return
            channel -= outputs

    def _result(self) -> WinnersOfHeads:
        return WinnersOfHeads([rule._result() for rule in self._rules])


def background_of_heads(heads: Sequence[int]) -> Float[Tensor, " outputs"]:
    """Logits that stand for the background of every head, where no window was predicted."""
    return torch.cat([background_logits(outputs, has_regions=False) for outputs in heads])
