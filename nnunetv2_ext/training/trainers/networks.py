"""Which network a trainer builds: short entries that trainers name as their class attribute ``architecture``.

An entry turns nnU-Net's managers into an ``nn.Module``. Adding a network to a family of trainers means adding an entry
here (or using `FromPlans` with a plans file that names the class) and a class of two lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from torch import nn

from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.extras import require_extra

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager


class NetworkEntry(Protocol):
    """What a trainer asks of its ``architecture``."""

    def build(
        self,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        deep_supervision: bool,
    ) -> nn.Module:
        """Builds the network with freshly initialised weights."""

    def deep_supervision_scales(self, configuration_manager: ConfigurationManager) -> list[list[float]]:
        """Size of each output relative to the patch, full resolution first, one factor per axis (z, y, x)."""

    def notes(self, configuration_manager: ConfigurationManager) -> list[str]:
        """Sentences for the training log about what differs from the plans."""


def scales_from_strides(strides: Sequence[Sequence[int]]) -> list[list[float]]:
    """Deep-supervision scales of a U-Net whose stages (the first included) have these strides."""
    return [list(scale) for scale in 1 / np.cumprod(np.vstack(strides), axis=0)][:-1]


@dataclass(frozen=True)
class FromPlans:
    """The network that the plans file names, with the arguments given there; its heads can be evaluated one by one.

    Attributes:
        network_class: Dotted path of a class to build instead of the one that the plans name, with their arguments.
        plans_for: How the name of the plans' class has to end for its arguments to fit ``network_class``.
    """

    network_class: str | None = None
    plans_for: str = ""

    def build(
        self,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        deep_supervision: bool,
    ) -> nn.Module:
        """Builds the network; see `NetworkEntry.build`.

        Raises:
            UserError: The plans name a class outside the packages that hold networks, or one with other arguments than
                ``network_class`` takes.
        """
        from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

        from nnunetv2_ext.architectures.unet import with_selectable_heads
        from nnunetv2_ext.checkpoints.architecture import Architecture

        planned = Architecture.from_plans(configuration_manager.configuration).class_path
        if not planned.endswith(self.plans_for):
            raise UserError(
                f"This trainer expects plans for a {self.plans_for}, but {plans_manager.plans_name!r} are for "
                f"{planned}; train with other plans (-p), or with a trainer for these."
            )
        network: nn.Module = get_network_from_plans(
            with_selectable_heads(self.network_class or planned),
            configuration_manager.network_arch_init_kwargs,
            configuration_manager.network_arch_init_kwargs_req_import,
            num_input_channels,
            num_output_channels,
            allow_init=True,
            deep_supervision=deep_supervision,
        )
        return network

    def deep_supervision_scales(self, configuration_manager: ConfigurationManager) -> list[list[float]]:
        """Scales from the strides of the plans."""
        return scales_from_strides(configuration_manager.pool_op_kernel_sizes)

    def notes(self, configuration_manager: ConfigurationManager) -> list[str]:
        """Nothing differs from the plans."""
        return []


@dataclass(frozen=True)
class STUNetFromPlans:
    """STU-Net of a published size, shaped by the strides of the plans as in the published code.

    Attributes:
        size: ``"S"``, ``"B"``, ``"L"`` or ``"H"``.
        activation_checkpointing: Recompute activations in the backward pass; needed for L and H on small GPUs.
    """

    size: str
    activation_checkpointing: bool = False

    def build(
        self,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        deep_supervision: bool,
    ) -> nn.Module:
        """Builds the network; see `NetworkEntry.build`."""
        from nnunetv2_ext.architectures.stunet import STUNET_SIZES, STUNet

        network = STUNet(
            num_input_channels,
            num_output_channels,
            **STUNET_SIZES[self.size].arguments,
            strides=self.strides(configuration_manager)[0],
            deep_supervision=deep_supervision,
            activation_checkpointing=self.activation_checkpointing,
        )
        network.apply(network.initialize)
        return network

    def deep_supervision_scales(self, configuration_manager: ConfigurationManager) -> list[list[float]]:
        """Scales from the strides that the network really has, which are not always those of the plans."""
        return scales_from_strides(self.strides(configuration_manager)[0])

    def notes(self, configuration_manager: ConfigurationManager) -> list[str]:
        """Says where the strides differ from the plans."""
        return self.strides(configuration_manager)[1]

    def strides(self, configuration_manager: ConfigurationManager) -> tuple[list[list[int]], list[str]]:
        """Strides of the six stages (the first is all ones) and a note for each departure from the plans."""
        from nnunetv2_ext.architectures.stunet import strides_that_fit, stunet_strides

        planned = configuration_manager.pool_op_kernel_sizes
        strides = stunet_strides(planned)
        notes = []
        if len(planned) != len(strides):
            notes.append(
                f"The plans have {len(planned)} stages and STU-Net has {len(strides)}: its strides are {strides}."
            )
        # Instance normalisation cannot normalise a single voxel; the published code crashes here.
        fitting = strides_that_fit(strides, configuration_manager.patch_size)
        for stage in (stage for stage, stride in enumerate(fitting) if stride != strides[stage]):
            notes.append(
                f"A patch of {list(configuration_manager.patch_size)} would shrink to a single voxel: stage {stage} "
                f"has stride {fitting[stage]} instead of {strides[stage]}."
            )
        return fitting, notes


#: nnU-Net's default U-Net, from plans made for it.
PLAIN_UNET = FromPlans("nnunetv2_ext.architectures.unet.PlainConvUNet", plans_for="PlainConvUNet")

#: The residual encoder of the published MultiTalent, from its own plans or those of nnU-Net's ResEnc presets.
MULTITALENT_RESENC = FromPlans(
    "nnunetv2_ext.architectures.resenc.StridedSkipResidualEncoderUNet", plans_for="ResidualEncoderUNet"
)


@dataclass(frozen=True)
class SwinUNETRForPlans:
    """MONAI's SwinUNETR in its default topology; the plans only say whether images have two or three dimensions.

    Attributes:
        feature_size: Channels of the first stage, a multiple of 12.
        activation_checkpointing: Recompute the transformer's activations in the backward pass.
    """

    feature_size: int = 48
    activation_checkpointing: bool = True

    def build(
        self,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        deep_supervision: bool,
    ) -> nn.Module:
        """Builds the network; see `NetworkEntry.build`. There is no deep supervision.

        Raises:
            UserError: MONAI is not installed, or the patch size of the plans does not suit the network.
        """
        patch_size = configuration_manager.patch_size
        if any(extent % 32 for extent in patch_size):
            raise UserError(
                f"SwinUNETR expects a patch size of multiples of 32, but the plans have {list(patch_size)}; change "
                "patch_size in a copy of the plans and train with it (-p)."
            )
        require_extra("monai", "SwinUNETR")
        from nnunetv2_ext.architectures.swinunetr import SwinUNETR

        return SwinUNETR(
            num_input_channels,
            num_output_channels,
            feature_size=self.feature_size,
            dimensions=len(patch_size),
            activation_checkpointing=self.activation_checkpointing,
        )

    def deep_supervision_scales(self, configuration_manager: ConfigurationManager) -> list[list[float]]:
        """One output, as large as the patch."""
        return [[1.0] * len(configuration_manager.patch_size)]

    def notes(self, configuration_manager: ConfigurationManager) -> list[str]:
        """Says that the network of the plans is not used."""
        return [f"SwinUNETR ignores the network of the plans ({configuration_manager.network_arch_class_name})."]


@dataclass(frozen=True)
class WithLabelTree:
    """Another entry's network with a label tree, which comes with the weights or from the dataset.

    Attributes:
        backbone: The entry whose network gets the tree.
    """

    backbone: NetworkEntry

    def build(
        self,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        deep_supervision: bool,
    ) -> nn.Module:
        """Builds the network; see `NetworkEntry.build`."""
        from nnunetv2_ext.architectures.label_tree_network import give_label_tree

        network = self.backbone.build(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, deep_supervision
        )
        # nnU-Net builds networks without their dataset: the tree is a placeholder until it is set or loaded.
        return give_label_tree(network, [-1] * num_output_channels)

    def deep_supervision_scales(self, configuration_manager: ConfigurationManager) -> list[list[float]]:
        """Those of the backbone."""
        return self.backbone.deep_supervision_scales(configuration_manager)

    def notes(self, configuration_manager: ConfigurationManager) -> list[str]:
        """Those of the backbone."""
        return self.backbone.notes(configuration_manager)
