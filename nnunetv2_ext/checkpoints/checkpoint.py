"""What `read_checkpoint` returns, whatever the format of the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nnunetv2_ext.architectures.architecture import Architecture
from nnunetv2_ext.architectures.label_tree_network import PARENTS_NAME, give_label_tree
from nnunetv2_ext.labels.channels import channel_names
from nnunetv2_ext.labels.dataset_json import kind_of_dataset
from nnunetv2_ext.utilities.errors import UserError


@dataclass(frozen=True)
class Publication:
    """Where weights come from, and on what terms.

    Attributes:
        name: What their authors call them.
        source: Address of the authors' page.
        licence: Of the weights, and what it means for commercial use.
        citation: What their authors ask to be cited.
    """

    name: str
    source: str
    licence: str
    citation: str


@dataclass
class Checkpoint:
    """Trained weights, what network they belong to, and what is known about how to use them.

    Attributes:
        path: The file that was read.
        format: Name of the format, an entry of `nnunetv2_ext.checkpoints.formats.FORMATS`.
        network_state: Parameter name in nnU-Net v2's naming to tensor (CPU). Second names of the same tensor
            (``all_modules.*``, ``decoder.encoder.*``) are left out.
        architecture: Class and arguments of the network.
        input_channels: Image channels.
        num_classes: Output channels, background included for softmax networks.
        normalization: ``normalization_schemes``, ``use_mask_for_norm`` and
            ``foreground_intensity_properties_per_channel`` as in nnU-Net v2 plans; None where unknown.
        labels: ``labels`` of a dataset.json (with background; lists for regions); None where unknown.
        plans: nnU-Net v2 plans whose configuration ``configuration`` names this very architecture: the file's own, or
            the published ones of the format; None where there are neither.
        configuration: Name of the configuration, such as ``3d_fullres``.
        dataset_json: Content of the training dataset's dataset.json; None where unknown.
        trainer_name: The trainer that wrote the file; None where unknown.
        inference_allowed_mirroring_axes: Axes that were mirrored in training, None for no mirroring.
        plans_template: Name of the shipped plan template with the published setting of this format, if there is one.
        preprocessing_profile: How the published inference prepares images, where nnU-Net's plans cannot say it.
        notes: Sentences for the user about what the format implies.
        head_plans: Of networks with several heads: head to the plans that its images are preprocessed by, where these
            are its own.
        absent: What the names of tensors begin with that the network has and the file has not, such as the decoder of a
            self-supervised one; ``num_classes`` is 0 then.
        publication: Where the weights come from, and on what terms; None where anybody may have written the file.
        orientation: What x, y and z of the training's images ran towards, where that is published.
    """

    path: Path
    format: str
    network_state: dict[str, Tensor]
    architecture: Architecture
    input_channels: int
    num_classes: int
    normalization: dict[str, Any] | None = None
    labels: dict[str, Any] | None = None
    plans: dict[str, Any] | None = None
    configuration: str = "3d_fullres"
    dataset_json: dict[str, Any] | None = None
    trainer_name: str | None = None
    inference_allowed_mirroring_axes: tuple[int, ...] | None = None
    plans_template: str | None = None
    preprocessing_profile: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    head_plans: dict[str, dict[str, Any]] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    publication: Publication | None = None
    orientation: str | None = None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Class of each output channel, ``background`` first in softmax networks; None where unknown."""
        return None if self.labels is None else channel_names(self.labels)

    @property
    def fitting_trainer(self) -> str:
        """A trainer that builds this network, for datasets such as it was trained on."""
        return self.architecture.family.trainers[kind_of_dataset(self.dataset_json or {})]

    def build_network(self, deep_supervision: bool = False) -> nn.Module:
        """Builds the network and loads the weights strictly; what the file does not have keeps its initialisation.

        Args:
            deep_supervision: Whether `forward` returns all levels.

        Raises:
            UserError: Names or shapes of the weights do not fit the architecture.
        """
        network = self.architecture.build(self.input_channels, max(self.num_classes, 1), deep_supervision)
        if PARENTS_NAME in self.network_state:
            give_label_tree(network, self.network_state[PARENTS_NAME])
        fresh = {name: value for name, value in network.state_dict().items() if self.lacks([name])}
        load_strictly(network, {**fresh, **self.network_state}, f"{self.path} ({self.architecture})")
        return network.eval()

    def lacks(self, names: Iterable[str]) -> bool:
        """Whether the file is of a part of the network that has no tensor of these names."""
        return any(name.startswith(self.absent) for name in names)

    def require_heads(self) -> None:
        """Raises a `UserError` where the file is of a part of the network, which predicts nothing."""
        if self.absent:
            raise UserError(
                f"Expected a whole network in {self.path}, but the file has no {', '.join(self.absent)}: it is there "
                "to be fine-tuned; give it to nnUNetv2_ext_finetune as -pretrained_weights."
            )

    def describe(self) -> str:
        """One line: file, format, network, channels and classes."""
        outputs = f"{self.num_classes} outputs" if self.num_classes else "no segmentation heads"
        return (
            f"{self.path.name}: {self.architecture}, {self.input_channels} input channel(s), {outputs}, format "
            f"{self.format}"
        )

    def terms(self) -> list[str]:
        """Sentences about where the weights come from and on what terms, as far as that is known."""
        if (published := self.publication) is None:
            return []
        return [
            f"The weights are taken to be {published.name} ({published.source}). Licence: {published.licence}.",
            f"Cite: {published.citation}.",
        ]


def tensor_names(network: nn.Module) -> dict[str, list[str]]:
    """First name of each tensor of a network's state dict to all its names.

    nnU-Net's networks register many modules twice, so that their state dicts hold tensors under several names.
    """
    first_name: dict[int, str] = {}
    names: dict[str, list[str]] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        first = first_name.setdefault(id(tensor), name)
        names.setdefault(first, []).append(name)
    return names


def match_state(network: nn.Module, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Pairs the tensors of a network with those of a state dict by any of their names.

    Returns:
        First name to the state's tensor; first names of tensors that the state lacks; names in the state that the
        network does not have.
    """
    matched: dict[str, Tensor] = {}
    missing: list[str] = []
    known: set[str] = set()
    for first, names in tensor_names(network).items():
        known.update(names)
        found = next((name for name in names if name in state), None)
        if found is None:
            missing.append(first)
        else:
            matched[first] = state[found]
    return matched, missing, [name for name in state if name not in known]


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copies a state into a network after checking that every name and shape agrees.

    Args:
        network: Changed in place, and only if everything fits.
        state: Name to tensor; one name per tensor is enough.
        source: Where the state comes from, for the error message.

    Raises:
        UserError: Something is missing, superfluous or of another shape.
    """
    matched, missing, unexpected = match_state(network, state)
    tensors = network.state_dict(keep_vars=True)
    different = [name for name, value in matched.items() if value.shape != tensors[name].shape]
    if missing or unexpected or different:
        problems = []
        if missing:
            problems.append(f"{len(missing)} tensors are missing (first: {missing[0]})")
        if unexpected:
            problems.append(f"{len(unexpected)} are unknown to the network (first: {unexpected[0]})")
        if different:
            name = different[0]
            problems.append(
                f"{len(different)} have another shape (first: {name}, {tuple(matched[name].shape)} in the checkpoint, "
                f"{tuple(tensors[name].shape)} in the network)"
            )
        raise UserError(
            f"The weights of {source} do not fit the network: {'; '.join(problems)}; give the plans that the "
            "checkpoint was trained with."
        )
    # Under every name, because load_state_dict asks for all of them and tells the modules that hold derived values.
    network.load_state_dict({name: matched[first] for first, names in tensor_names(network).items() for name in names})
