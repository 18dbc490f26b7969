"""Preparing and segmenting for models with a head per source: one pass after the other, each with its own input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Integer, Shaped

from nnunetv2_ext.images.reading import Scan
from nnunetv2_ext.inference.deciding.outputs import OutputMap
from nnunetv2_ext.inference.deciding.rules import Decisions
from nnunetv2_ext.inference.preparing.nnunet import NnunetPreprocessing
from nnunetv2_ext.inference.preparing.protocol import Prepared
from nnunetv2_ext.inference.segmentation import LogitsVisitor, Progress, Segmenter


@dataclass(frozen=True)
class Pass:
    """One way from the image to the decisions of some heads.

    Attributes:
        preprocessing: What these heads see.
        segmenter: The network with these heads.
        channels: Where the outputs of each head begin among those of all heads of the model, and its outputs.
    """

    preprocessing: NnunetPreprocessing
    segmenter: Segmenter
    channels: tuple[tuple[int, int], ...]

    def own(self, output: OutputMap) -> OutputMap | None:
        """A map of the model, its channels counted within this pass; None for maps of other heads."""
        start = 0
        for begin, outputs in self.channels:
            if begin <= output.paint[0][0] < begin + outputs:
                shift = start - begin
                return replace(output, paint=tuple((channel + shift, value) for channel, value in output.paint))
            start += outputs
        return None


@dataclass
class Waiting:
    """The placement of the first pass, and the image for those that follow.

    Attributes:
        first: As the first preprocessing left it.
        scan: Until the last pass has begun.
    """

    first: Any
    scan: Scan | None


@dataclass
class DecisionsOfPasses:
    """What was decided in every pass, with what is needed to put it back on the grid of the image."""

    passes: Sequence[tuple[Pass, Decisions, Prepared]]

    def paint(self, output: OutputMap) -> Integer[np.ndarray, "z y x"]:
        """The label map of an output, on the grid of the image."""
        for each, decisions, prepared in self.passes:
            if (own := each.own(output)) is not None:
                return each.preprocessing.restore(decisions.paint(own), prepared)
        raise ValueError(f"Expected an output of the heads that were predicted, but got {output.name!r}.")


class PreprocessingOfPasses:
    """Prepares the image for the first pass; the others prepare it when their turn comes, so that one is held.

    Args:
        passes: At least one.
    """

    def __init__(self, passes: Sequence[Pass]) -> None:
        self._passes = passes
        self.orientation: str | None = passes[0].preprocessing.orientation

    def prepare(self, scan: Scan, previous_stage: Scan | None = None) -> Prepared:
        """See `Preprocessing`."""
        first = self._passes[0].preprocessing.prepare(scan, previous_stage)
        return replace(first, placement=Waiting(first.placement, scan if len(self._passes) > 1 else None))

    def restore(self, labels: Shaped[np.ndarray, "z y x"], prepared: Prepared) -> Shaped[np.ndarray, "z y x"]:
        """Nothing is left to do: every pass restores its own label maps."""
        return labels


class SegmenterOfPasses:
    """Runs every pass over a case.

    Args:
        passes: At least one.
    """

    def __init__(self, passes: Sequence[Pass]) -> None:
        self._passes = passes

    def num_windows(self, prepared: Prepared) -> int:
        """Windows of all passes; heads are mostly trained at one spacing, so that all have as many as the first."""
        return len(self._passes) * self._passes[0].segmenter.num_windows(prepared)

    def __call__(
        self, prepared: Prepared, progress: Progress | None = None, visit_logits: LogitsVisitor | None = None
    ) -> DecisionsOfPasses:
        """Predicts one case; there are no logits of the whole model to visit."""
        if visit_logits is not None:
            raise ValueError("Expected nobody to ask for the logits of all heads.")
        waiting: Waiting = prepared.placement
        scan, waiting.scan = waiting.scan, None
        results = []
        for number, each in enumerate(self._passes):
            own = replace(prepared, placement=waiting.first)
            if number:
                assert scan is not None, "the image is kept where there are several passes"
                own = each.preprocessing.prepare(scan)
            decisions = each.segmenter(own, progress)
            results.append((each, decisions, replace(own, data=torch.empty(0, 0, 0, 0), content=None)))
        return DecisionsOfPasses(results)
