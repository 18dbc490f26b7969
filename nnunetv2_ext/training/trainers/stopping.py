"""Trainings that stop in order and go on where they stopped, within an epoch, too."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import distributed

from nnunetv2_ext.training.lr_scheduler.within_time import WithinTime
from nnunetv2_ext.training.options import seed_everything
from nnunetv2_ext.training.stopping import GO_ON_LATER, stop_signals_call
from nnunetv2_ext.training.workers import finish_loaders
from nnunetv2_ext.utilities.validation import Shape, check, entries, list_of, nullable, number

PROGRESS = "progress"
"""Entry of a checkpoint's ``init_args``: what nnU-Net's checkpoints, which are written between epochs, do not tell."""

# The loss of a step may be nan.
_PROGRESS = entries(
    {"losses": nullable(list_of(Shape("a number", lambda value: isinstance(value, float)))), "seconds": number(0)},
    needed=("losses", "seconds"),
)
_SECONDS_PER_HOUR = 3600


class StoppingTrainer(nnUNetTrainer):
    """Ends after the running step when a signal asks for it or the time is up.

    Attributes:
        seed: Determines the random numbers of each step and rank, so that a resumed training draws the same.
        max_hours: Hours of training, those before ``--c`` included, within which the learning rate falls to 0.
        train_outputs: What the steps of the running epoch returned; None between epochs.
    """

    seed: int | None = None
    max_hours: float | None = None
    grad_accumulation: int = 1
    train_outputs: list[dict[str, Any]] | None = None

    # Set by nnU-Net; named here for type checkers, which do not see into nnU-Net.
    optimizer: torch.optim.Optimizer
    lr_scheduler: Any
    num_epochs: int

    _signal: signal.Signals | None = None
    _seconds_before = 0.0
    _start: float | None = None
    _seconds_trained = 0.0

    def initialize(self) -> None:
        """Builds network, optimiser and loss."""
        super().initialize()
        if (hours := self.max_hours) is not None:
            self.lr_scheduler = WithinTime(
                self.lr_scheduler, self, lambda: self._seconds_trained / (hours * _SECONDS_PER_HOUR)
            )

    def run_training(self) -> None:
        """Trains.

        Replaces nnU-Net's method, whose loop begins and ends with whole epochs.

        Raises:
            SystemExit: The training stopped before its end, with 75 (`GO_ON_LATER`) because of a signal and with 0
                because its time was up.
        """
        self._start = time.monotonic()
        try:
            with stop_signals_call(self._note):
                self.on_train_start()
                for _ in range(self.current_epoch, self.num_epochs):
                    self._train_epoch()
                self.on_train_end()
        finally:
            # nnU-Net's own end does so, too; without it they would complain about each other at exit.
            finish_loaders(self)

    def _train_epoch(self) -> None:
        steps = self.num_iterations_per_epoch
        self._seconds_trained = self._seconds_so_far()
        self.on_epoch_start()
        self.on_train_epoch_start()
        done = self.train_outputs = self.train_outputs or []
        for step in range(len(done), steps):
            self._begin_step(step)
            done.append(self.train_step(next(self.dataloader_train)))
        self._begin_step(steps)
        self.on_train_epoch_end(done)
        with torch.no_grad():
            self.on_validation_epoch_start()
            outputs = []
            for _ in range(self.num_val_iterations_per_epoch):
                if (code := self._code_to_stop_with()) is not None:
                    self._stop(code)
                outputs.append(self.validation_step(next(self.dataloader_val)))
            self.on_validation_epoch_end(outputs)
        self.train_outputs = None
        self.on_epoch_end()

    def _begin_step(self, step: int) -> None:
        """Stops before a step where that is asked for, and draws random numbers that no earlier step has a part in."""
        code = self._code_to_stop_with()
        # Gradients of batches that wait for others are in no checkpoint.
        if code is not None and (step % self.grad_accumulation == 0 or step >= self.num_iterations_per_epoch):
            self._stop(code)
        if self.seed is not None:
            seed_everything(self.seed, self.local_rank, self.current_epoch, step)
        if self.max_hours is not None:
            self.lr_scheduler.step(self.current_epoch)

    def _code_to_stop_with(self) -> int | None:
        """The exit code where the training is to stop now; the same for all ranks."""
        asked, seconds = float(self._signal is not None), self._seconds_so_far()
        if self.is_ddp:
            agreed = torch.tensor([asked, seconds], dtype=torch.float64, device=self.device)
            distributed.all_reduce(agreed, distributed.ReduceOp.MAX)
            asked, seconds = agreed.tolist()
        self._seconds_trained = seconds
        if asked:
            return GO_ON_LATER
        return 0 if self.max_hours is not None and seconds >= self.max_hours * _SECONDS_PER_HOUR else None

    def _stop(self, code: int) -> None:
        done = len(self.train_outputs or ())
        place = f"in epoch {self.current_epoch} after step {done} of {self.num_iterations_per_epoch}"
        if code == GO_ON_LATER:
            name = self._signal.name if self._signal is not None else "A signal to another process"
            self.print_to_log_file(f"{name} asked to stop: the training stops {place}; --c goes on there.")
        else:
            self.print_to_log_file(
                f"The {self.max_hours:g} hours of this training are up {place}; checkpoint_latest.pth holds its "
                "weights. --c with a higher --max_hours goes on there."
            )
        # nnU-Net writes the number of the epoch that follows.
        self.current_epoch -= 1
        self.save_checkpoint(str(Path(self.output_folder) / "checkpoint_latest.pth"))
        self.current_epoch += 1
        if self.is_ddp:
            # The first process that ends takes the others with it.
            distributed.barrier()
        raise SystemExit(code)

    def _note(self, number: signal.Signals) -> None:
        self._signal = number

    def _seconds_so_far(self) -> float:
        return self._seconds_before + (0 if self._start is None else time.monotonic() - self._start)

    def save_checkpoint(self, filename: str) -> None:
        """Writes a checkpoint that tells the steps of an unfinished epoch, too, and the time that all have taken."""
        losses = None if (done := self.train_outputs) is None else [float(outputs["loss"]) for outputs in done]
        self.my_init_kwargs[PROGRESS] = {"losses": losses, "seconds": self._seconds_so_far()}
        super().save_checkpoint(filename)

    def restore_progress(self, checkpoint: Mapping[str, Any]) -> None:
        """Takes the place within an epoch, and the time so far, from a checkpoint.

        Raises:
            UserError: They are none.
        """
        nothing = {"losses": None, "seconds": 0.0}
        progress = check(checkpoint["init_args"].get(PROGRESS, nothing), _PROGRESS, "the progress in the checkpoint")
        losses = progress["losses"]
        self.train_outputs = None if losses is None else [{"loss": np.float32(loss)} for loss in losses]
        self._seconds_before = float(progress["seconds"])
