"""The trainer that all trainers of this package derive from."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_ext.checkpoints.architecture import building
from nnunetv2_ext.checkpoints.plans import check_plans, check_plans_names
from nnunetv2_ext.checkpoints.safe_loading import load_torch_file
from nnunetv2_ext.checkpoints.shapes import TRAINING_CHECKPOINT
from nnunetv2_ext.dataset_conversion.splits import refuse_too_few_cases
from nnunetv2_ext.training.trainers.networks import FromPlans, NetworkEntry
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import atomic_path, parse_json
from nnunetv2_ext.utilities.locks import output_lock
from nnunetv2_ext.utilities.validation import check, entries, flag, integer, number

HYPER_PARAMETERS = (
    "initial_lr",
    "weight_decay",
    "num_epochs",
    "num_iterations_per_epoch",
    "num_val_iterations_per_epoch",
    "oversample_foreground_percent",
    "enable_deep_supervision",
    "save_every",
)
"""The class attributes that `ExtTrainer` copies onto every instance; `nnUNetv2_ext_train` sets the same names."""

_SETTINGS = entries(
    {
        **dict.fromkeys(HYPER_PARAMETERS, integer(1)),
        "initial_lr": number(0),
        "weight_decay": number(0),
        "oversample_foreground_percent": number(0, 1),
        "enable_deep_supervision": flag,
    },
    closed=True,
)

SETTINGS_VARIABLE = "nnUNetv2_ext_settings"
"""Environment variable; a JSON object with values for `HYPER_PARAMETERS`, for use with stock ``nnUNetv2_train``."""

ALLOW_FRESH_START = "nnUNetv2_ext_allow_fresh_start"
"""Environment variable; ``1`` makes ``--c`` start a new training where there is nothing to continue."""

CHECKPOINTS_TO_CONTINUE_FROM = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")


class ExtTrainer(nnUNetTrainer):
    """nnU-Net's trainer with hyper-parameters as class attributes, safe checkpoints and a choice of network.

    A subclass states what differs from nnU-Net's defaults::

        class STUNetTrainer_small(ExtTrainer):
            architecture = STUNetFromPlans("S")

    Attributes:
        architecture: Which network to build; an entry of `nnunetv2_ext.training.trainers.networks`.
        initial_lr: Learning rate at the first epoch.
        weight_decay: Factor of the L2 penalty.
        num_epochs: Epochs of the whole training.
        num_iterations_per_epoch: Training batches per epoch.
        num_val_iterations_per_epoch: Validation batches per epoch.
        oversample_foreground_percent: Fraction of a batch whose patches are centred on foreground.
        enable_deep_supervision: Whether the loss is computed on several resolutions.
        save_every: Epochs between writes of ``checkpoint_latest.pth``.
    """

    architecture: ClassVar[NetworkEntry] = FromPlans()
    initial_lr: float = 1e-2
    weight_decay: float = 3e-5
    num_epochs: int = 1000
    num_iterations_per_epoch: int = 250
    num_val_iterations_per_epoch: int = 50
    oversample_foreground_percent: float = 0.33
    enable_deep_supervision: bool = True
    save_every: int = 25

    # Set by nnU-Net; named here for type checkers, which do not see into nnU-Net.
    network: nn.Module
    optimizer: torch.optim.Optimizer
    inference_allowed_mirroring_axes: tuple[int, ...] | None

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008  the signature is nnU-Net's contract
    ):
        check_plans(plans, "the plans of this training")
        # nnU-Net makes folders of these names in its constructor.
        check_plans_names(plans, "the plans of this training")
        continuing = bool(plans.get("continue_training", False))
        super().__init__(plans, configuration, fold, dataset_json, device)
        # nnUNetTrainer.__init__ has just written its own defaults onto the instance.
        settings = settings_from_environment()
        for name in HYPER_PARAMETERS:
            setattr(self, name, settings.get(name, getattr(type(self), name)))
        if settings:
            self.print_to_log_file(f"Settings from the environment variable {SETTINGS_VARIABLE}: {settings}")
        self.logger.local_logger = PlainNumbersLogger()
        if continuing:
            self._require_checkpoint()

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Builds the network that `architecture` names; nnU-Net calls this in training and in prediction."""
        check_plans(plans_manager.plans, "the plans of this model")
        with building(f"the network of {cls.__name__}"):
            return cls.architecture.build(
                plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
            )

    def do_split(self) -> tuple[list[str], list[str]]:
        """Training and validation cases.

        Raises:
            UserError: There are no folds yet, and too few cases to make five.
        """
        cases = len(list(Path(self.preprocessed_dataset_folder).glob("*.pkl")))
        refuse_too_few_cases(self.fold, cases, Path(self.preprocessed_dataset_folder_base))
        keys: tuple[list[str], list[str]] = super().do_split()
        return keys

    @property
    def bare_network(self) -> nn.Module:
        """The network without the wrappers of torch.compile and of distributed training."""
        network = self.network.module if isinstance(self.network, DistributedDataParallel) else self.network
        return network._orig_mod if isinstance(network, OptimizedModule) else network

    def initialize(self) -> None:
        """Builds network, optimiser and loss, and logs where the network departs from the plans."""
        if not self.was_initialized:
            super().initialize()
            for note in self.architecture.notes(self.configuration_manager):
                self.print_to_log_file(note)

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        if not self.enable_deep_supervision:
            return None
        return self.architecture.deep_supervision_scales(self.configuration_manager)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Switches the auxiliary outputs of the network on or off."""
        self.bare_network.get_submodule("decoder").deep_supervision = enabled  # type: ignore[assignment]

    def run_training(self) -> None:
        """Trains, unless another process trains the same fold."""
        with self._fold_lock():
            super().run_training()

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Validates, unless another process trains or validates the same fold."""
        with self._fold_lock():
            super().perform_actual_validation(save_probabilities)

    def _fold_lock(self) -> AbstractContextManager[Any]:
        # The other ranks of a training on several GPUs write nothing.
        return output_lock(self.output_folder, inside=True) if self.local_rank == 0 else nullcontext()

    def save_checkpoint(self, filename: str) -> None:
        """Writes a checkpoint; an interrupted write leaves the previous file as it was."""
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        with atomic_path(filename) as temporary:
            super().save_checkpoint(str(temporary))

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """Continues from a checkpoint of this trainer.

        Replaces nnU-Net's method, which unpickles whatever the file holds and fails on the dictionary that its own
        signature promises.

        Args:
            filename_or_checkpoint: Path of a ``.pth`` file, or its content.

        Raises:
            UserError: The file is truncated, is not a checkpoint, or carries code.
        """
        self.initialize()
        checkpoint = (
            filename_or_checkpoint
            if isinstance(filename_or_checkpoint, dict)
            else load_torch_file(filename_or_checkpoint, map_location=self.device)
        )
        check(checkpoint, TRAINING_CHECKPOINT, "the checkpoint of this training")
        weights = {name.removeprefix("module."): value for name, value in checkpoint["network_weights"].items()}
        self.bare_network.load_state_dict(weights)
        self.my_init_kwargs = checkpoint["init_args"]
        self.current_epoch = checkpoint["current_epoch"]
        self.logger.load_checkpoint(checkpoint["logging"])
        self._best_ema = checkpoint["_best_ema"]
        self.inference_allowed_mirroring_axes = checkpoint.get(
            "inference_allowed_mirroring_axes", self.inference_allowed_mirroring_axes
        )
        self.prepare_optimizer_for_epoch(self.current_epoch - 1)
        self.optimizer.load_state_dict(checkpoint["optimizer_state"])
        if self.grad_scaler is not None and checkpoint["grad_scaler_state"] is not None:
            self.grad_scaler.load_state_dict(checkpoint["grad_scaler_state"])

    def prepare_optimizer_for_epoch(self, epoch: int) -> None:
        """Hook for schedules whose optimiser changes during training; called before an optimiser state is loaded.

        Args:
            epoch: The last epoch that was trained.
        """

    def _require_checkpoint(self) -> None:
        """Stops a ``--c`` that would silently start from scratch."""
        folder = Path(self.output_folder)
        if has_checkpoint_to_continue_from(folder):
            return
        if fresh_start_is_allowed():
            self.print_to_log_file(f"There is no checkpoint in {folder}: a new training starts, as asked for.")
            return
        raise UserError(
            f"--c expects a checkpoint in {folder}, but there is none; leave --c out to start a new training, or set "
            f"{ALLOW_FRESH_START}=1 to continue where possible and start anew elsewhere."
        )


def has_checkpoint_to_continue_from(output_folder: str | Path) -> bool:
    """Whether ``--c`` finds something in the output folder of a fold."""
    return any((Path(output_folder) / name).is_file() for name in CHECKPOINTS_TO_CONTINUE_FROM)


def fresh_start_is_allowed() -> bool:
    """Whether ``--c`` may start a new training where there is nothing to continue (``--c_or_start``)."""
    return os.environ.get(ALLOW_FRESH_START, "0") == "1"


def settings_from_environment() -> dict[str, Any]:
    """Hyper-parameters that the user set in the environment.

    Raises:
        UserError: The variable does not hold a JSON object, or names something else than `HYPER_PARAMETERS`.
    """
    text = os.environ.get(SETTINGS_VARIABLE, "").strip() or "{}"
    where = f"the variable {SETTINGS_VARIABLE}"
    settings: dict[str, Any] = check(parse_json(text, where), _SETTINGS, where)
    return settings


class PlainNumbersLogger(LocalLogger):
    """nnU-Net's log with Python numbers in place of numpy's, so that ``torch.load(weights_only=True)`` reads it."""

    def log(self, key: str, value: Any, step: int) -> None:
        """Logs one value (a number or a list of numbers) for an epoch."""
        super().log(key, _plain(value), step)


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value
