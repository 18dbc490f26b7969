"""The course of a training as a table."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2_ext.utilities.files import atomic_path

#: Column -> entry of nnU-Net's log.
_COLUMNS = {
    "learning_rate": "lrs",
    "train_loss": "train_losses",
    "val_loss": "val_losses",
    "pseudo_dice": "mean_fg_dice",
    "pseudo_dice_moving_average": "ema_fg_dice",
}


def write_training_log(log: Mapping[str, Sequence[Any]], class_names: Sequence[str], file: Path) -> None:
    """Writes nnU-Net's log as CSV, one line per complete epoch.

    The file is written anew after each epoch, so that it never holds more than the training has done: one that goes on
    from an earlier checkpoint goes on from there in the table, too.

    Args:
        log: Entry -> value per epoch, as in nnU-Net's checkpoints.
        class_names: Of the pseudo Dice of each class.
        file: The table.
    """
    epochs = min(len(log[name]) for name in (*_COLUMNS.values(), "dice_per_class_or_region", "epoch_end_timestamps"))
    with atomic_path(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["epoch", *_COLUMNS, "seconds", *(f"pseudo_dice {name}" for name in class_names)])
        for epoch in range(epochs):
            seconds = log["epoch_end_timestamps"][epoch] - log["epoch_start_timestamps"][epoch]
            values = [log[name][epoch] for name in _COLUMNS.values()]
            table.writerow([epoch, *values, round(seconds, 3), *log["dice_per_class_or_region"][epoch]])
