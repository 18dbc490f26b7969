"""The trainer that all trainers of this package derive from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from nnunetv2_ext.architectures.architecture import building
from nnunetv2_ext.architectures.families import FAMILIES, family_of
from nnunetv2_ext.architectures.planned import FromPlans, network_of_trainer
from nnunetv2_ext.checkpoints.plans import check_plans, check_plans_names
from nnunetv2_ext.checkpoints.safe_loading import load_torch_file
from nnunetv2_ext.checkpoints.shapes import TRAINING_CHECKPOINT
from nnunetv2_ext.dataset_conversion.splits import refuse_too_few_cases
from nnunetv2_ext.labels.dataset_json import kind_of_dataset
from nnunetv2_ext.training.options import SETTINGS, SETTINGS_VARIABLE, TrainingOptions, restore_options
from nnunetv2_ext.training.plain_log import PlainNumbersLogger
from nnunetv2_ext.training.stopping import go_on_later, stop_signals_call
from nnunetv2_ext.training.trainers.loading import LoadingTrainer
from nnunetv2_ext.training.trainers.logs import LoggingTrainer
from nnunetv2_ext.training.trainers.mirroring import MirroringTrainer
from nnunetv2_ext.training.trainers.optimization import OptimizationTrainer
from nnunetv2_ext.training.validation import evaluate_folder, log_summary, predict_cases
from nnunetv2_ext.training.whole_files import whole_files
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import atomic_path
from nnunetv2_ext.utilities.locks import output_lock
from nnunetv2_ext.utilities.names import checked_ending
from nnunetv2_ext.utilities.validation import check

ALLOW_FRESH_START = "nnUNetv2_ext_allow_fresh_start"
"""``1`` makes ``--c`` start a new training where there is nothing to continue."""

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")
"""What a training leaves in the folder of a fold; nnU-Net goes on from the first of them that is there."""


class ExtTrainer(OptimizationTrainer, MirroringTrainer, LoadingTrainer, LoggingTrainer):
    """nnU-Net's trainer with hyper-parameters as class attributes, safe checkpoints and a choice of network.

    A subclass states what differs from nnU-Net's defaults::

        class STUNetTrainer_small(ExtTrainer):
            architecture = STUNetFromPlans(size="S")

    Attributes:
        kind: Of dataset, see `kind_of_dataset`; others are refused.
        architecture: Which network to build; an entry of `nnunetv2_ext.architectures.planned`.
        initial_lr: Learning rate at the first epoch.
        weight_decay: Factor of the L2 penalty.
        num_epochs: Epochs of the whole training.
        num_iterations_per_epoch: Training batches per epoch.
        num_val_iterations_per_epoch: Validation batches per epoch.
        oversample_foreground_percent: Fraction of a batch whose patches are centred on foreground.
        enable_deep_supervision: Whether the loss is computed on several resolutions.
        save_every: Epochs between writes of ``checkpoint_latest.pth``.
    """

    kind: ClassVar[str] = "plain"
    architecture: ClassVar[FromPlans] = FromPlans()
    initial_lr: float = 1e-2
    weight_decay: float = 3e-5
    num_epochs: int = 1000
    num_iterations_per_epoch: int = 250
    num_val_iterations_per_epoch: int = 50
    oversample_foreground_percent: float = 0.33
    enable_deep_supervision: bool = True
    save_every: int = 25

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008  the signature is nnU-Net's contract
    ):
        # Before nnU-Net creates folders for a training that cannot run.
        refuse_other_kinds(type(self), dataset_json)
        self._read_labels(dataset_json)
        check_plans(plans, "the plans of this training", to_train=True)
        # nnU-Net makes folders of these names in its constructor.
        check_plans_names(plans, "the plans of this training")
        # Label maps of the final validation are written with it.
        checked_ending(dataset_json.get("file_ending", ".nii.gz"), "the dataset.json of this training")
        continuing = bool(plans.get("continue_training", False))
        super().__init__(plans, configuration, fold, dataset_json, device)
        # nnUNetTrainer.__init__ has just written its own defaults onto the instance.
        for name in SETTINGS:
            if hasattr(type(self), name):
                setattr(self, name, getattr(type(self), name))
        settings = TrainingOptions.from_environment()
        settings.apply(self)
        if settings.given():
            self.print_to_log_file(f"Settings from the environment variable {SETTINGS_VARIABLE}: {settings.given()}")
        self.logger.local_logger = PlainNumbersLogger()
        self._optimizer_states: dict[str, Any] | None = None
        if continuing:
            self._require_checkpoint()

    def _read_labels(self, dataset_json: Mapping[str, Any]) -> None:
        """Hook for trainers that look into the dataset.json before anything is made of it."""

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
                configuration_manager.configuration, num_input_channels, num_output_channels, enable_deep_supervision
            )

    def do_split(self) -> tuple[list[str], list[str]]:
        """Training and validation cases.

        Raises:
            UserError: There are no folds yet, and too few cases to make five, or a case of the fold is not there.
        """
        cases = {file.stem for file in Path(self.preprocessed_dataset_folder).glob("*.pkl")}
        refuse_too_few_cases(self.fold, len(cases), Path(self.preprocessed_dataset_folder_base))
        train, validation = super().do_split()
        if missing := sorted({*train, *validation} - cases):
            raise UserError(
                f"Expected the cases of fold {self.fold} in {self.preprocessed_dataset_folder}, but {len(missing)} of "
                f"{len({*train, *validation})} are missing ({missing[0]}); preprocess them, or correct the folds."
            )
        return train, validation

    def initialize(self) -> None:
        """Builds network, optimiser and loss, and logs where the network departs from the plans."""
        if not self.was_initialized:
            self.enable_deep_supervision &= len(self._output_scales()) > 1
            super().initialize()
            for note in self.architecture.notes(self.configuration_manager.configuration):
                self.print_to_log_file(note)

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        return self._output_scales() if self.enable_deep_supervision else None

    def _output_scales(self) -> list[list[float]]:
        return self.architecture.deep_supervision_scales(self.configuration_manager.configuration)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Switches the auxiliary outputs of the network on or off; on only where the loss looks at them."""
        decoder: Any = self.bare_network.get_submodule("decoder")
        decoder.deep_supervision = enabled and self.enable_deep_supervision

    def run_training(self) -> None:
        """Trains, unless another process trains the same fold."""
        with self._fold_lock():
            super().run_training()

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Predicts and evaluates the validation cases, unless another process trains or validates the same fold.

        Replaces nnU-Net's method, whose export takes minutes and tens of GB for each case of a hundred classes.
        """
        with self._fold_lock(), stop_signals_call(go_on_later):
            cases = self.do_split()[1]
            predict_cases(self, self.validated_classes(cases), save_probabilities)
            if self.local_rank == 0:
                log_summary(self, self.evaluate_predictions(cases))

    def validated_classes(self, cases: Sequence[str]) -> Mapping[str, Sequence[str] | None]:
        """Case to the classes that the final validation predicts of it; None for all."""
        return dict.fromkeys(cases)

    def evaluate_predictions(self, cases: Sequence[str]) -> Mapping[str, Any]:
        """Writes the summary of the final validation and returns its content."""
        return evaluate_folder(self)

    @contextmanager
    def _fold_lock(self) -> Iterator[None]:
        # The other ranks of a training on several GPUs write nothing that others do not write, too.
        lock = output_lock(self.output_folder, inside=True) if self.local_rank == 0 else nullcontext()
        with lock, whole_files():
            yield

    def save_checkpoint(self, filename: str) -> None:
        """Writes a checkpoint; an interrupted write leaves the previous file as it was."""
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        with atomic_path(filename) as temporary:
            super().save_checkpoint(str(temporary))

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """Takes the weights, the options and the log of a checkpoint; a training that goes on takes the optimiser, too.

        Replaces nnU-Net's method, which unpickles whatever the file holds and fails on the dictionary that its own
        signature promises.

        Args:
            filename_or_checkpoint: Path of a ``.pth`` file, or its content.

        Raises:
            UserError: The file is truncated, is not a checkpoint, or carries code.
        """
        checkpoint = (
            filename_or_checkpoint
            if isinstance(filename_or_checkpoint, dict)
            else load_torch_file(filename_or_checkpoint, map_location=self.device)
        )
        check(checkpoint, TRAINING_CHECKPOINT, "the checkpoint of this training")
        if not self.was_initialized:
            restore_options(self, checkpoint)
        self.initialize()
        weights = {name.removeprefix("module."): value for name, value in checkpoint["network_weights"].items()}
        self.bare_network.load_state_dict(weights)
        self.current_epoch = checkpoint["current_epoch"]
        self.logger.load_checkpoint(checkpoint["logging"])
        self._best_ema = checkpoint["_best_ema"]
        self.restore_progress(checkpoint)
        self.inference_allowed_mirroring_axes = checkpoint.get(
            "inference_allowed_mirroring_axes", self.inference_allowed_mirroring_axes
        )
        self._optimizer_states = {name: checkpoint[name] for name in ("optimizer_state", "grad_scaler_state")}

    def on_train_start(self) -> None:
        """Loads the data, and the state of the optimiser where a training goes on."""
        super().on_train_start()
        self.resume_optimizer()

    def resume_optimizer(self) -> None:
        """Gives the optimiser the state of the checkpoint that was loaded, if one was."""
        if (states := self._optimizer_states) is not None:
            self._optimizer_states = None
            self.prepare_optimizer_for_epoch(self.current_epoch - (self.train_outputs is None))
            self.optimizer.load_state_dict(states["optimizer_state"])
            self.restore_training_weights(states["optimizer_state"])
            if self.grad_scaler is not None and states["grad_scaler_state"] is not None:
                self.grad_scaler.load_state_dict(states["grad_scaler_state"])

    def get_training_transforms(self, *arguments: Any, **named: Any) -> Any:
        """nnU-Net's augmentation; with a seed, no transform chooses its algorithm by the clock."""
        transforms = super().get_training_transforms(*arguments, **named)
        for transform in transforms.transforms if self.seed is not None else ():
            inner = getattr(transform, "transform", transform)
            if hasattr(inner, "benchmark"):
                inner.benchmark = False
        return transforms

    def prepare_optimizer_for_epoch(self, epoch: int) -> None:
        """Hook for schedules whose optimiser changes during training; called before an optimiser state is loaded.

        Args:
            epoch: The last epoch that was trained.
        """

    def _require_checkpoint(self) -> None:
        """Stops a ``--c`` that would silently start from scratch."""
        folder = Path(self.output_folder)
        if checkpoint_to_continue_from(folder) is not None:
            return
        if fresh_start_is_allowed():
            self.print_to_log_file(f"There is no checkpoint in {folder}: a new training starts, as asked for.")
            return
        raise UserError(
            f"--c expects a checkpoint in {folder}, but there is none; leave --c out to start a new training, or set "
            f"{ALLOW_FRESH_START}=1 to continue where possible and start anew elsewhere."
        )


_KINDS = {
    "plain": "a plain dataset",
    "collection": "a collection of partially labelled datasets",
    "tree": "a collection with a label tree",
}
_MADE_WITH = {
    "plain": "",
    "collection": ", or make a collection of it with nnUNetv2_ext_merge_datasets",
    "tree": ", or give it a label tree (docs/label_trees.md)",
}


def refuse_other_kinds(trainer: type, dataset_json: Mapping[str, Any]) -> None:
    """Checks that a trainer knows what the labels of a dataset mean.

    Trainers for plain datasets would take what a source does not annotate for background.

    Raises:
        UserError: It does not.
    """
    kind, expected = kind_of_dataset(dataset_json), getattr(trainer, "kind", "plain")
    if kind == expected:
        return
    entry = getattr(trainer, "architecture", FromPlans())
    families = [family for family in FAMILIES if entry in map(network_of_trainer, family.trainers.values())]
    better = (families[0] if families and entry != FromPlans() else family_of("")).trainers[kind]
    raise UserError(
        f"{trainer.__name__} expects {_KINDS[expected]}, but the dataset.json is that of {_KINDS[kind]}; train with "
        f"-tr {better}{_MADE_WITH[expected]}."
    )


def checkpoint_to_continue_from(fold_folder: str | Path) -> Path | None:
    """The file that ``--c`` goes on from."""
    files = [Path(fold_folder) / name for name in CHECKPOINTS]
    return next((file for file in files if file.is_file()), None)


def fresh_start_is_allowed() -> bool:
    """Whether ``--c`` may start a new training where there is nothing to continue (``--c_or_start``)."""
    return os.environ.get(ALLOW_FRESH_START, "0") == "1"
