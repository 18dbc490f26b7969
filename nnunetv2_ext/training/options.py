"""Hyper-parameters from the command line or the environment; a checkpoint remembers what was set.

Each field of `TrainingOptions` is a flag of ``nnUNetv2_ext_train`` and an entry of the variable that stock
``nnUNetv2_train`` heeds. Imports neither torch nor nnU-Net, so that ``--help`` is quick.
"""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import parse_json
from nnunetv2_ext.utilities.validation import Shape, check, choice, either, entries, flag, integer, number, text

SETTINGS_VARIABLE = "nnUNetv2_ext_settings"
"""A JSON object with the names of `SETTINGS`, for use with stock ``nnUNetv2_train``."""

RECORD = "training_options"
"""Entry of a checkpoint's ``init_args`` with the options that were given; name of the file with those of each run."""


def _option(
    what: str,
    shape: Shape,
    attribute: str | None = None,
    choices: tuple[str, ...] | None = None,
    lasting: bool = False,
) -> Any:
    metadata = {"help": what, "shape": shape, "attribute": attribute, "choices": choices, "lasting": lasting}
    return field(default=None, metadata=metadata)


def _choice(what: str, attribute: str, *choices: str, lasting: bool = False) -> Any:
    return _option(what, choice(*choices), attribute, choices, lasting)


@dataclass(frozen=True)
class TrainingOptions:
    """What was set; ``None`` leaves what the trainer or the plans say.

    The metadata of a field are its ``help``, the ``shape`` of its values, the ``attribute`` of the trainer that holds
    it, if one does, its ``choices`` where it is one of a few words, and whether it is ``lasting``: a training that goes
    on cannot change it.
    """

    num_epochs: int | None = _option("epochs", integer(1), "num_epochs")
    initial_lr: float | None = _option("first learning rate", number(0), "initial_lr")
    weight_decay: float | None = _option("factor of the L2 penalty", number(0), "weight_decay")
    batch_size: int | None = _option("patches per batch, over all GPUs", integer(1))
    iterations_per_epoch: int | None = _option("training batches per epoch", integer(1), "num_iterations_per_epoch")
    val_iterations_per_epoch: int | None = _option("validation batches", integer(1), "num_val_iterations_per_epoch")
    oversample_foreground: float | None = _option(
        "fraction of patches centred on foreground", number(0, 1), "oversample_foreground_percent"
    )
    deep_supervision: bool | None = _option("loss on several resolutions", flag, "enable_deep_supervision")
    save_every: int | None = _option("epochs between checkpoints", integer(1), "save_every")
    warmup_heads: int | None = _option("epochs that train the heads alone at first", integer(0), "warmup_heads")
    warmup_network: int | None = _option("epochs with a rising rate that follow", integer(0), "warmup_network")
    seed: int | None = _option("seed of all random numbers but those of --num_workers", integer(0), "seed")
    optimizer: str | None = _choice("rule of the steps", "optimizer_name", "sgd", "adamw", lasting=True)
    layer_decay: float | None = _option(
        "factor of the learning rate per stage from the heads down", number(1e-6, 1), "layer_decay", lasting=True
    )
    grad_accumulation: int | None = _option(
        "batches whose gradients one step averages", integer(1), "grad_accumulation"
    )
    precision: str | None = _choice(
        "of the networks; auto: float16 on CUDA", "precision", "auto", "float32", "bfloat16", "float16"
    )
    ema: float | None = _option(
        "decay of the moving average of the weights that is validated and saved; 0: none", number(0, 0.999999), "ema"
    )
    freeze: str | None = _choice("part of the network that does not train", "freeze", "none", "encoder", "backbone")
    freeze_epochs: int | None = _option("epochs after which it does; default: never", integer(1), "freeze_epochs")
    activation_checkpointing: bool | None = _option(
        "recompute activations in the backward pass: less memory, more time", flag, "activation_checkpointing"
    )
    mirroring: bool | None = _option("mirror images in training and prediction", flag, "mirroring")
    mirror_pairs: bool | None = _option(
        "exchange left and right classes in images that are mirrored from left to right", flag, "mirror_pairs"
    )
    tensorboard: bool | None = _option("write TensorBoard's events, too", flag, "tensorboard")
    max_hours: float | None = _option(
        "hours of training, those before --c included, within which the learning rate falls to 0",
        number(0),
        "max_hours",
    )
    case_weights: str | None = _option(
        "file (JSON, or CSV with the columns case and weight) that says how often to draw cases; 1 for the others",
        text(),
        "case_weights",
    )
    num_workers: int | str | None = _option(
        "processes that load and augment data; 0: none but the main one; auto: as many as the memory holds",
        either(integer(0), choice("auto")),
    )

    def given(self) -> dict[str, Any]:
        """The options that were set."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    @classmethod
    def from_environment(cls) -> TrainingOptions:
        """What `SETTINGS_VARIABLE` sets.

        Raises:
            UserError: The variable does not hold a JSON object, or something else than `SETTINGS`.
        """
        text = os.environ.get(SETTINGS_VARIABLE, "").strip() or "{}"
        where = f"the variable {SETTINGS_VARIABLE}"
        shape = entries({name: option.metadata["shape"] for name, option in SETTINGS.items()}, closed=True)
        found = check(parse_json(text, where), shape, where)
        return cls(**{SETTINGS[name].name: value for name, value in found.items()})

    def apply(self, trainer: Any) -> None:
        """Sets the options on a trainer that is not initialised yet, on top of those that it has.

        Raises:
            UserError: The trainer has no such setting.
        """
        given = self.given()
        for option in fields(self):
            attribute = option.metadata["attribute"]
            if option.name not in given or attribute is None:
                continue
            if not hasattr(trainer, attribute) and option.name != "seed":
                raise UserError(
                    f"{type(trainer).__name__} has no setting for --{option.name}; use a trainer that has it (this "
                    "package's have all, those with a warm-up --warmup_*, too), or leave the option out."
                )
            setattr(trainer, attribute, given[option.name])
        if self.batch_size is not None:
            trainer.configuration_manager.configuration["batch_size"] = self.batch_size
        if self.num_workers == "auto":
            if not hasattr(trainer, "fits_workers_to_memory"):
                raise UserError(f"{type(trainer).__name__} expects a number after --num_workers, but got auto.")
            trainer.fits_workers_to_memory = True
        elif self.num_workers is not None:
            os.environ["nnUNet_n_proc_DA"] = str(self.num_workers)
        if self.seed is not None:
            seed_everything(self.seed, trainer.local_rank)
        # nnU-Net writes these arguments into every checkpoint.
        trainer.my_init_kwargs[RECORD] = {**trainer.my_init_kwargs.get(RECORD, {}), **given}


#: Names in the variable -> options; those of the trainer's attributes where it has one.
SETTINGS = {option.metadata["attribute"] or option.name: option for option in fields(TrainingOptions)}


def restore_options(trainer: Any, checkpoint: Mapping[str, Any]) -> None:
    """Gives a trainer that is not initialised yet the options of its checkpoint; what is given now counts more.

    Raises:
        UserError: The checkpoint's options are none, or one that lasts is given another value now.
    """
    shape = entries({option.name: option.metadata["shape"] for option in fields(TrainingOptions)}, closed=True)
    before = check(checkpoint["init_args"].get(RECORD, {}), shape, "the options in the checkpoint")
    now = trainer.my_init_kwargs.get(RECORD, {})
    for option in fields(TrainingOptions):
        name, usual = option.name, getattr(type(trainer), option.metadata["attribute"] or option.name, None)
        if option.metadata["lasting"] and name in now and now[name] != before.get(name, usual):
            raise UserError(
                f"--{name} lasts for a whole training, which began with {before.get(name, usual)}, not {now[name]}; "
                "leave it out, or train anew."
            )
    for name in sorted(before.keys() & now.keys()):
        if before[name] != now[name]:
            trainer.print_to_log_file(f"--{name} is {now[name]} from here on; the training began with {before[name]}.")
    TrainingOptions(**{**before, **now}).apply(trainer)


def seed_everything(*seeds: int) -> None:
    """Seeds Python, numpy and torch with what several numbers determine together."""
    import numpy as np
    import torch

    seed = int(np.random.SeedSequence(seeds).generate_state(1)[0])
    random.seed(seed)
    # nnU-Net's augmentation draws from numpy's global generator.
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
