"""A trained model, read from nnU-Net's model folder."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunetv2.utilities.label_handling.label_handling import LabelManager, determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunetv2_ext.architectures.architecture import building
from nnunetv2_ext.architectures.planned import network_of_trainer
from nnunetv2_ext.checkpoints.plans import check_plans, trained_configuration
from nnunetv2_ext.checkpoints.safe_loading import load_torch_file
from nnunetv2_ext.checkpoints.shapes import MODEL_CHECKPOINT
from nnunetv2_ext.labels.channels import channel_names
from nnunetv2_ext.labels.dataset_json import ORIENTATION, check_outputs, image_channels, read_dataset_json
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json, sha256_of
from nnunetv2_ext.utilities.names import checked_ending, checked_name
from nnunetv2_ext.utilities.validation import check

_logger = logging.getLogger(__name__)


@dataclass
class Model:
    """Networks of one or several folds with the plans they were trained by.

    Attributes:
        folder: The model folder (``<trainer>__<plans>__<configuration>``).
        checkpoints: One file per fold.
        plans: nnU-Net's view of plans.json.
        configuration: The configuration that was trained.
        dataset_json: Content of dataset.json.
        labels: nnU-Net's view of its ``labels``.
        networks: One network per fold, in evaluation mode, on the CPU.
        mirror_axes: Spatial axes that the training mirrored, for test-time augmentation; None if it did not.
    """

    folder: Path
    checkpoints: list[Path]
    plans: PlansManager
    configuration: ConfigurationManager
    dataset_json: dict[str, Any]
    labels: LabelManager
    networks: list[nn.Module]
    mirror_axes: tuple[int, ...] | None

    @property
    def folds(self) -> tuple[str, ...]:
        """Names of the folds, such as ``"0"``."""
        return tuple(file.parent.name.removeprefix("fold_") for file in self.checkpoints)

    @property
    def image_channels(self) -> int:
        """How many image channels a case has; a cascade's second stage reads more than the image."""
        return len(image_channels(self.dataset_json))

    @property
    def orientation(self) -> str | None:
        """What x, y and z of all images of the training ran towards, such as ``"RAS"``; None where nobody noted it."""
        return self.dataset_json.get(ORIENTATION)

    @property
    def is_2d(self) -> bool:
        """Whether the network sees single slices."""
        return len(self.configuration.patch_size) == 2

    @property
    def file_ending(self) -> str:
        """Ending of the model's own dataset, such as ``.nii.gz``."""
        return str(self.dataset_json["file_ending"])

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes in the order of the output channels; those of a softmax model begin with the background."""
        return channel_names(self.dataset_json["labels"])

    @property
    def painted_values(self) -> dict[str, int]:
        """Class name to its integer in the stock label map, without background."""
        if self.labels.has_regions:
            return dict(zip(self.class_names, map(int, self.labels.regions_class_order), strict=True))
        return {name: value for value, name in enumerate(self.class_names) if value}

    @cached_property
    def sha256(self) -> dict[str, str]:
        """SHA-256 of every checkpoint, by its path within the model folder."""
        return {str(file.relative_to(self.folder)): sha256_of(file) for file in self.checkpoints}


def read_model(
    folder: Path | str, folds: Sequence[str | int] | None = None, checkpoint_name: str = "checkpoint_final.pth"
) -> Model:
    """Reads a model folder of this package or of stock nnU-Net, without executing anything that it carries.

    Args:
        folder: Holds plans.json, dataset.json and ``fold_*/<checkpoint_name>``.
        folds: Which folds to average; all that are there by default.
        checkpoint_name: For example ``checkpoint_best.pth``.

    Raises:
        UserError: A file is missing or damaged, the plans name a class that is not a network, or the weights do not
            fit the network.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"Expected a model folder at {folder}, but there is none.")
    checkpoints = _checkpoint_files(folder, folds, checkpoint_name)
    plans_json = read_json(folder / "plans.json")
    check_plans(plans_json, folder / "plans.json")
    dataset_json = read_dataset_json(folder / "dataset.json", "file_ending")
    check_outputs(dataset_json, folder / "dataset.json")
    checked_ending(dataset_json["file_ending"], folder / "dataset.json")
    # Mapped: optimiser states, which are twice as large as the weights, stay on the disk.
    contents = [check(load_torch_file(file, mmap=True), MODEL_CHECKPOINT, file) for file in checkpoints]
    first = contents[0]
    configuration_name = first["init_args"]["configuration"]
    plans = PlansManager(plans_json)
    if configuration_name not in plans.available_configurations:
        raise UserError(
            f"{checkpoints[0]} was trained with the configuration {configuration_name!r}, but {folder / 'plans.json'} "
            f"has {', '.join(plans.available_configurations)}; the folder mixes two models."
        )
    trained_configuration(plans_json, configuration_name, dataset_json, folder / "plans.json")
    configuration = plans.get_configuration(configuration_name)
    labels = plans.get_label_manager(dataset_json)
    networks = []
    for file, content in zip(checkpoints, contents, strict=True):
        network = _build_network(str(first["trainer_name"]), plans, configuration, dataset_json, labels)
        try:
            network.load_state_dict(content["network_weights"])
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"The weights of {file} do not fit the network of its plans: {reason}") from None
        networks.append(network.eval().requires_grad_(False))
    mirror_axes = first.get("inference_allowed_mirroring_axes")
    return Model(
        folder,
        checkpoints,
        plans,
        configuration,
        dataset_json,
        labels,
        networks,
        tuple(mirror_axes) if mirror_axes else None,
    )


def _checkpoint_files(folder: Path, folds: Sequence[str | int] | None, checkpoint_name: str) -> list[Path]:
    available = sorted(file.parent.name.removeprefix("fold_") for file in folder.glob(f"fold_*/{checkpoint_name}"))
    if folds is None:
        # As nnU-Net: fold "all" only when it is asked for, or when there is nothing else.
        folds = [fold for fold in available if fold != "all"] or available
    chosen = [str(fold) for fold in folds]
    missing = [fold for fold in chosen if fold not in available]
    if missing or not chosen:
        raise UserError(
            f"Expected {checkpoint_name} for fold {', '.join(missing) or '0'} in {folder}, but found it for "
            f"{', '.join(available) or 'no fold'}; choose folds with -f and the file with -chk."
        )
    return [folder / f"fold_{fold}" / checkpoint_name for fold in chosen]


def _build_network(
    trainer_name: str,
    plans: PlansManager,
    configuration: ConfigurationManager,
    dataset_json: dict[str, Any],
    labels: LabelManager,
) -> nn.Module:
    """The network as the trainer built it, without deep supervision."""
    inputs = determine_num_input_channels(plans, configuration, dataset_json)
    outputs = labels.num_segmentation_heads
    known = network_of_trainer(trainer_name)
    if known is not None:
        with building(f"the network of {trainer_name}"):
            return known.build(configuration.configuration, inputs, outputs, deep_supervision=False)
    trainer = _find_trainer(trainer_name)
    described: tuple[Any, ...] = (plans, configuration)
    if "plans_manager" not in inspect.signature(trainer.build_network_architecture).parameters:
        _logger.warning("%s builds its network by the signature of older versions of nnU-Net.", trainer_name)
        described = (
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
        )
    with building(f"the network of {trainer_name}"):
        network: nn.Module = trainer.build_network_architecture(
            *described, inputs, outputs, enable_deep_supervision=False
        )
    return network


def _find_trainer(name: str) -> Any:
    """A trainer of another package."""
    checked_name(name, "the name of a trainer in the checkpoint")
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    try:
        return recursive_find_trainer_class_by_name(name)
    except (RuntimeError, AssertionError, TypeError):  # nothing, another class, and no class at all
        raise UserError(
            f"The model was trained with {name}, which is neither in nnU-Net nor in a folder of nnUNet_extTrainer; "
            "install the package that brings it."
        ) from None
