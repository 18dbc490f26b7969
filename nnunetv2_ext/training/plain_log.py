"""nnU-Net's log in a form that a checkpoint can hold safely."""

from __future__ import annotations

from typing import Any

import numpy as np
from nnunetv2.training.logging.nnunet_logger import LocalLogger


class PlainNumbersLogger(LocalLogger):
    """nnU-Net's log with Python numbers in place of numpy's, so that ``torch.load(weights_only=True)`` reads it."""

    def log(self, key: str, value: Any, step: int) -> None:
        """Logs one value (a number or a list of numbers) for an epoch; a moving average passes over undefined ones."""
        if key == "ema_fg_dice" and np.isnan(value):
            # Nothing with a Dice was drawn in this epoch, or in the one before.
            earlier = [*self.my_fantastic_logging[key], self.my_fantastic_logging["mean_fg_dice"][-1]]
            value = next((known for known in reversed(earlier) if not np.isnan(known)), 0.0)
        # What an epoch logged before a training stopped in it.
        del self.my_fantastic_logging[key][step:]
        super().log(key, _plain(value), step)


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value
