"""What a checkpoint format is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from nnunetv2_ext.architectures.architecture import Architecture
from nnunetv2_ext.checkpoints.checkpoint import Publication
from nnunetv2_ext.checkpoints.raw import RawCheckpoint
from nnunetv2_ext.utilities.errors import UserError

#: The images of the TotalSegmentator dataset are stored so, and its own program turns scans so before its models.
TOTALSEGMENTATOR_ORIENTATION = "RAS"


@dataclass
class Translation:
    """Weights under nnU-Net v2 names and the network they belong to.

    Attributes:
        state: Name to tensor.
        architecture: Class and arguments of the network.
        input_channels: Image channels.
        num_classes: Output channels.
        label_order: Shipped label order that the outputs of the published network follow, if they do.
        sigmoid: Whether its outputs are sigmoids, though the classes of the label order do not overlap.
        plans_template: Shipped plan template of the published setting.
        plans: nnU-Net v2 plans of this very network, where they are others than those of the file.
        preprocessing_profile: How the published inference prepares images, where nnU-Net's plans cannot say it.
        notes: Sentences for the user about what the format implies.
        dataset_json: The dataset.json of this very network, where it is another one than that of the file.
        head_plans: See `Checkpoint`.
        absent: What the names of tensors begin with that the network has and the file has not; heads among them, which
            `num_classes` does not count then.
        publication: Where the weights come from; None where anybody may have written such a file.
        orientation: What x, y and z of the training's images ran towards, where that is published.
    """

    state: dict[str, Tensor]
    architecture: Architecture
    input_channels: int
    num_classes: int
    label_order: str | None = None
    sigmoid: bool = False
    plans_template: str | None = None
    plans: dict[str, Any] | None = None
    preprocessing_profile: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    dataset_json: dict[str, Any] | None = None
    head_plans: dict[str, dict[str, Any]] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    publication: Publication | None = None
    orientation: str | None = None


@dataclass(frozen=True)
class CheckpointFormat:
    """How to recognise one format and translate it.

    Attributes:
        name: Identifier, `Checkpoint.format`.
        description: One line for listings.
        recognises: Whether a raw checkpoint is of this format.
        translate: Names, architecture and sizes, inferred from the tensors.
    """

    name: str
    description: str
    recognises: Callable[[RawCheckpoint], bool]
    translate: Callable[[RawCheckpoint], Translation]


def monai_profile(**changes: Any) -> dict[str, Any]:
    """How MONAI's published pipelines prepare images, in nnU-Net's order of axes (z, y, x).

    Args:
        **changes: ``overlap`` of the windows; ``hounsfield``, the window of HU that is clipped and scaled to 0..1, or
            ``intensity``; and what differs from most of them.
    """
    if window := changes.pop("hounsfield", None):
        changes["intensity"] = [{"name": "clip_and_scale", "from": list(window), "to": [0.0, 1.0]}]
    return {
        "orientation": "RAS",
        "spacing": [1.5, 1.5, 1.5],
        "window_size": [96, 96, 96],
        "blend": "gaussian",
        "padding": "constant",
        "inversion": "nearest_labels",
        **changes,
    }


def says_orientation(network: str) -> str:
    """The sentence for users of a network that sees images in the order right, anterior, superior."""
    return (
        f"{network} sees images in the order right-anterior-superior, which nnU-Net's plans cannot say: "
        "nnUNetv2_ext_predict turns them, stock nnUNetv2_predict does not."
    )


def without_aliases(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leaves out the second names that nnU-Net v2's networks give to their tensors."""
    return {
        name: tensor
        for name, tensor in state.items()
        if not (name.startswith("decoder.encoder.") or ".all_modules." in name)
    }


def rename(state: Mapping[str, Tensor], rules: Sequence[tuple[str, str]], source: str) -> dict[str, Tensor]:
    """Renames every tensor by the first regular expression that matches its whole name.

    Args:
        state: Name to tensor.
        rules: (pattern, replacement); an empty replacement leaves the tensor out.
        source: For the error message.

    Raises:
        UserError: No pattern matches a name.
    """
    renamed = {}
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    for name, tensor in state.items():
        for pattern, replacement in compiled:
            if match := pattern.fullmatch(name):
                if replacement:
                    renamed[match.expand(replacement)] = tensor
                break
        else:
            raise UserError(f"The weights {name!r} in {source} do not belong to this format; is the file complete?")
    return renamed


def unet_arguments(dimensions: int, conv_bias: bool, **arguments: Any) -> Architecture:
    """Architecture of nnU-Net's U-Nets with instance norm and leaky ReLU.

    Args:
        dimensions: 2 or 3.
        conv_bias: Whether convolutions before a norm have a bias.
        **arguments: ``class_path`` and the sizes.
    """
    class_path = arguments.pop("class_path")
    return Architecture(
        class_path,
        {
            **arguments,
            "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
            "conv_bias": conv_bias,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        ("conv_op", "norm_op", "dropout_op", "nonlin"),
    )
