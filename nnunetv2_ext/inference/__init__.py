"""Predicting with trained models: images in, label maps with names out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnunetv2_ext.utilities.lazy import lazy_names

if TYPE_CHECKING:
    from nnunetv2_ext.inference.deciding.resample import resample_argmax
    from nnunetv2_ext.inference.model.folder import read_model
    from nnunetv2_ext.inference.modes import Mode
    from nnunetv2_ext.inference.prediction_run import PredictionOptions, PredictionRun
    from nnunetv2_ext.inference.predictor import Predictor

__all__ = ["Mode", "PredictionOptions", "PredictionRun", "Predictor", "read_model", "resample_argmax"]

__getattr__ = lazy_names(
    __name__,
    {
        "Mode": "modes",
        "PredictionOptions": "prediction_run",
        "PredictionRun": "prediction_run",
        "Predictor": "predictor",
        "read_model": "model.folder",
        "resample_argmax": "deciding.resample",
    },
)
