"""Predicting with trained models: images in, label maps with names out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunetv2_ext.inference.predictor import Predictor

__all__ = ["Predictor"]


def __getattr__(name: str) -> Any:
    # Importing one part of this room must not import torch and nnU-Net for all of it.
    if name == "Predictor":
        from nnunetv2_ext.inference.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
