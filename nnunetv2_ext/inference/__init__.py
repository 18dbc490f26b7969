"""Predicting with trained models: images in, label maps with names out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunetv2_ext.inference.deciding.resample import resample_argmax
    from nnunetv2_ext.inference.model.folder import read_model
    from nnunetv2_ext.inference.modes import Mode
    from nnunetv2_ext.inference.prediction_run import PredictionRun
    from nnunetv2_ext.inference.predictor import Predictor

# Importing one part of this room must not import torch and nnU-Net for all of it.
_MODULES = {
    "Mode": "modes",
    "PredictionRun": "prediction_run",
    "Predictor": "predictor",
    "read_model": "model.folder",
    "resample_argmax": "deciding.resample",
}

__all__ = ["Mode", "PredictionRun", "Predictor", "read_model", "resample_argmax"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
