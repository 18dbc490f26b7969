"""The precision of losses: sums over millions of voxels fit in no half precision."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

import torch
from torch import Tensor

Arguments = ParamSpec("Arguments")
Forward = Callable[Concatenate[Any, Tensor, Arguments], Tensor]


def outside_autocast(forward: Forward[Arguments]) -> Forward[Arguments]:
    """Decorates ``forward(self, logits, ...)`` of a loss so that it runs outside autocast, with logits as they came.

    Autocast turns matrix products into half precision even where both factors are float32: counts of voxels then end
    in ``inf`` in float16 and lose all but three digits in bfloat16.
    """

    @functools.wraps(forward)
    def run(self: Any, logits: Tensor, *arguments: Arguments.args, **keywords: Arguments.kwargs) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            return forward(self, logits, *arguments, **keywords)

    return run


def at_least_float32(logits: Tensor) -> Tensor:
    """Logits in float32, or as they are if they are more precise."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
