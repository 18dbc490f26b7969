"""Logs beside nnU-Net's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunetv2_ext.labels.channels import BACKGROUND, channel_names
from nnunetv2_ext.labels.partial_labels import PartialLabels
from nnunetv2_ext.training.trainers.stopping import StoppingTrainer
from nnunetv2_ext.training.training_log import write_training_log
from nnunetv2_ext.utilities.extras import require_extra


class LoggingTrainer(StoppingTrainer):
    """Writes ``training_log.csv`` beside nnU-Net's logs, and TensorBoard's events if asked to.

    Attributes:
        tensorboard: Whether to write these, into the folder ``tensorboard``.
    """

    tensorboard: bool = False

    _events: TensorBoardLogger | None = None

    @property
    def logged_classes(self) -> list[str]:
        """Names of the classes with a pseudo Dice, in its order."""
        if isinstance(partial_labels := getattr(self, "partial_labels", None), PartialLabels):
            return list(partial_labels.class_names)
        return [name for name in channel_names(self.dataset_json["labels"]) if name != BACKGROUND]

    def initialize(self) -> None:
        """Builds network, optimiser and loss.

        Raises:
            UserError: TensorBoard is asked for, but not installed.
        """
        if self.tensorboard:
            require_extra("tensorboard", "--tensorboard")
        super().initialize()

    def on_train_start(self) -> None:
        """Loads the data and opens the logs."""
        super().on_train_start()
        if self.tensorboard and self.local_rank == 0:
            self._events = TensorBoardLogger(Path(self.output_folder) / "tensorboard", self.current_epoch)
            self.logger.loggers.append(self._events)

    def on_epoch_end(self) -> None:
        """Prints and saves what nnU-Net does, and writes the table."""
        super().on_epoch_end()
        if self.local_rank == 0:
            log = self.logger.get_checkpoint()
            write_training_log(log, self.logged_classes, Path(self.output_folder) / "training_log.csv")

    def run_training(self) -> None:
        """Trains, and closes the logs however that ends."""
        try:
            super().run_training()
        finally:
            if self._events is not None:
                self.logger.loggers.remove(self._events)
                self._events.close()


class TensorBoardLogger:
    """What nnU-Net's ``MetaLogger`` calls, for TensorBoard.

    Args:
        folder: Of the event files.
        first_epoch: Events of this epoch and later ones, of a run that this one goes on from, are dropped.
    """

    def __init__(self, folder: Path, first_epoch: int):
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=first_epoch)

    def update_config(self, config: dict[str, Any]) -> None:
        """Configurations are in nnU-Net's own files."""

    def log(self, key: str, value: Any, step: int) -> None:
        """Adds a number of an epoch."""
        if not key.endswith("timestamps"):
            self._writer.add_scalar(key, value, step)

    def log_summary(self, key: str, value: Any) -> None:
        """Results of the final validation are in its summary.json."""

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()
