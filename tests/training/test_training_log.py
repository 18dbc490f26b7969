from __future__ import annotations

import csv
from typing import Any

from nnunetv2_ext.training.training_log import write_training_log

LOG: dict[str, list[Any]] = {
    "mean_fg_dice": [0.5, 0.6],
    "ema_fg_dice": [0.5, 0.51],
    "dice_per_class_or_region": [[0.4, 0.6], [0.5, 0.7]],
    "train_losses": [1.5, 1.25],
    "val_losses": [1.0, 0.75],
    "lrs": [0.01, 0.009],
    "epoch_start_timestamps": [100.0, 110.5],
    "epoch_end_timestamps": [110.25, 120.0],
}


def test_a_line_per_complete_epoch(tmp_path):
    file = tmp_path / "training_log.csv"
    started = {**LOG, "epoch_start_timestamps": [*LOG["epoch_start_timestamps"], 130.0], "lrs": [0.01, 0.009, 0.008]}
    write_training_log(started, ["liver", "spleen, left"], file)
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert rows[0]["seconds"] == "10.25"
    assert (rows[1]["learning_rate"], rows[1]["train_loss"], rows[1]["val_loss"]) == ("0.009", "1.25", "0.75")
    assert (rows[1]["pseudo_dice"], rows[1]["pseudo_dice_moving_average"]) == ("0.6", "0.51")
    assert (rows[0]["pseudo_dice liver"], rows[1]["pseudo_dice spleen, left"]) == ("0.4", "0.7")


def test_a_training_that_goes_on_from_before_goes_on_from_there(tmp_path):
    file = tmp_path / "training_log.csv"
    write_training_log(LOG, ["liver", "spleen"], file)
    write_training_log({name: values[:1] for name, values in LOG.items()}, ["liver", "spleen"], file)
    assert len(file.read_text(encoding="utf-8").splitlines()) == 2
    assert list(tmp_path.iterdir()) == [file]
