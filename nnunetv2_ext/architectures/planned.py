"""Networks from the configuration of a plans file: short entries, one for each way in which a trainer reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from nnunetv2_ext.architectures.architecture import Architecture
from nnunetv2_ext.architectures.mednext_sizes import MEDNEXT_KERNELS, MEDNEXT_SIZES
from nnunetv2_ext.architectures.stunet_sizes import STUNET_SIZES, strides_that_fit, stunet_strides
from nnunetv2_ext.architectures.unet import with_selectable_heads
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.extras import require_extra

if TYPE_CHECKING:
    Configuration = Mapping[str, Any]


@dataclass(frozen=True)
class FromPlans:
    """The network that the plans name, with the arguments given there; its heads can be evaluated one by one.

    Attributes:
        network_class: Dotted path of a class to build instead of the one that the plans name, with their arguments.
        plans_for: How the name of the plans' class has to end for its arguments to fit ``network_class``.
    """

    network_class: str | None = None
    plans_for: str = ""

    def build(
        self, configuration: Configuration, input_channels: int, num_classes: int, deep_supervision: bool
    ) -> nn.Module:
        """Builds the network with freshly initialised weights, as nnU-Net does.

        Args:
            configuration: Of the plans, with what it inherits.
            input_channels: Image channels.
            num_classes: Output channels.
            deep_supervision: Whether the network returns all its levels.

        Raises:
            UserError: The plans name a class outside the packages that hold networks, or are for another network.
        """
        planned = Architecture.from_plans(configuration)
        if not planned.class_path.endswith(self.plans_for):
            raise UserError(
                f"This trainer expects plans for a {self.plans_for}, but these are for {planned.class_path}; train "
                "with other plans (-p), or with a trainer for these."
            )
        class_path = with_selectable_heads(self.network_class or planned.class_path)
        network: Any = replace(planned, class_path=class_path).build(input_channels, num_classes, deep_supervision)
        if hasattr(network, "initialize"):
            network.apply(network.initialize)
        return network

    def strides(self, configuration: Configuration) -> list[list[int]] | None:
        """One stride per stage, the first being all ones; None for networks of a single level."""
        strides = configuration["architecture"]["arch_kwargs"].get("strides")
        ones = [1] * len(configuration["patch_size"])
        return strides if isinstance(strides, list) and list(strides[0]) == ones else None

    def deep_supervision_scales(self, configuration: Configuration) -> list[list[float]]:
        """Size of each output relative to the patch, full resolution first, one factor per axis (z, y, x)."""
        strides = self.strides(configuration)
        if strides is None:
            # MONAI's networks halve the resolution from level to level, if they have several.
            levels = configuration["architecture"]["arch_kwargs"].get("levels", 1)
            return [[0.5**level] * len(configuration["patch_size"]) for level in range(levels)]
        return [list(scale) for scale in 1 / np.cumprod(np.vstack(strides), axis=0)][:-1]

    def notes(self, configuration: Configuration) -> list[str]:
        """Sentences for the training log about what differs from the plans."""
        return []


@dataclass(frozen=True)
class STUNetFromPlans(FromPlans):
    """STU-Net of a published size, shaped by the strides of the plans as in the published code.

    Attributes:
        size: ``"S"``, ``"B"``, ``"L"`` or ``"H"``.
        activation_checkpointing: Recompute activations in the backward pass; needed for L and H on small GPUs.
    """

    size: str = "B"
    activation_checkpointing: bool = False

    def build(
        self, configuration: Configuration, input_channels: int, num_classes: int, deep_supervision: bool
    ) -> nn.Module:
        """See `FromPlans.build`."""
        from nnunetv2_ext.architectures.stunet import STUNet

        network = STUNet(
            input_channels,
            num_classes,
            **STUNET_SIZES[self.size].arguments,
            strides=self.strides(configuration),
            deep_supervision=deep_supervision,
            activation_checkpointing=self.activation_checkpointing,
        )
        network.apply(network.initialize)
        return network

    def strides(self, configuration: Configuration) -> list[list[int]]:
        """Those of the six stages that the network really has.

        Raises:
            UserError: The plans state none.
        """
        planned = super().strides(configuration)
        if planned is None:
            raise UserError(
                "STU-Net takes the strides of its stages from the plans, but these are for "
                f"{configuration['architecture']['network_class_name']}, which has none; train with other plans (-p)."
            )
        # Instance normalisation cannot normalise a single voxel; the published code crashes here.
        return strides_that_fit(stunet_strides(planned), configuration["patch_size"])

    def notes(self, configuration: Configuration) -> list[str]:
        """Says where the strides differ from the plans."""
        fitting, planned = self.strides(configuration), super().strides(configuration) or []
        strides = stunet_strides(planned)
        notes = []
        if len(planned) != len(strides):
            notes.append(
                f"The plans have {len(planned)} stages and STU-Net has {len(strides)}: its strides are {strides}."
            )
        for stage in (stage for stage, stride in enumerate(fitting) if stride != strides[stage]):
            notes.append(
                f"A patch of {list(configuration['patch_size'])} would shrink to a single voxel: stage {stage} has "
                f"stride {fitting[stage]} instead of {strides[stage]}."
            )
        return notes


@dataclass(frozen=True)
class SwinUNETRForPlans(FromPlans):
    """MONAI's SwinUNETR in its default topology; the plans only say whether images have two or three dimensions.

    Attributes:
        feature_size: Channels of the first stage, a multiple of 12, where the plans state none.
        activation_checkpointing: Recompute the transformer's activations in the backward pass.
    """

    feature_size: int = 48
    activation_checkpointing: bool = True

    def build(
        self, configuration: Configuration, input_channels: int, num_classes: int, deep_supervision: bool
    ) -> nn.Module:
        """See `FromPlans.build`; there is no deep supervision.

        Raises:
            UserError: MONAI is not installed, or the patch size of the plans does not suit the network.
        """
        patch_size = configuration["patch_size"]
        if any(extent % 32 for extent in patch_size):
            raise UserError(
                f"SwinUNETR expects a patch size of multiples of 32, but the plans have {list(patch_size)}; change "
                "patch_size in a copy of the plans and train with it (-p)."
            )
        require_extra("monai", "SwinUNETR")
        from nnunetv2_ext.architectures.swinunetr import SwinUNETR

        return SwinUNETR(
            input_channels,
            num_classes,
            feature_size=configuration["architecture"]["arch_kwargs"].get("feature_size", self.feature_size),
            dimensions=len(patch_size),
            activation_checkpointing=self.activation_checkpointing,
        )

    def strides(self, configuration: Configuration) -> None:
        """There is a single level."""

    def notes(self, configuration: Configuration) -> list[str]:
        """Says that the network of the plans is not used."""
        return [f"SwinUNETR ignores the network of the plans ({configuration['architecture']['network_class_name']})."]


@dataclass(frozen=True)
class MedNeXtFromPlans(FromPlans):
    """The MedNeXt that the plans name, or one of a published size whatever they name.

    Attributes:
        size: ``"S"``, ``"B"``, ``"M"`` or ``"L"``; None for that of the plans.
        kernel_size: Of a published size.
    """

    plans_for: str = "mednext.MedNeXt"
    size: str | None = None
    kernel_size: int = 3

    def build(
        self, configuration: Configuration, input_channels: int, num_classes: int, deep_supervision: bool
    ) -> nn.Module:
        """See `FromPlans.build`.

        Raises:
            UserError: The patch size of the plans does not suit the network.
        """
        configuration = self._with_size(configuration)
        patch_size = configuration["patch_size"]
        factor = 2 ** len(configuration["architecture"]["arch_kwargs"].get("blocks_down", [2] * 4))
        if any(extent % factor for extent in patch_size):
            raise UserError(
                f"MedNeXt expects a patch size of multiples of {factor}, but the plans have {list(patch_size)}; change "
                "patch_size in a copy of the plans and train with it (-p)."
            )
        return super().build(configuration, input_channels, num_classes, deep_supervision)

    def _with_size(self, configuration: Configuration) -> Configuration:
        if self.size is None:
            return configuration
        arguments = MEDNEXT_SIZES[self.size].arguments(self.kernel_size, len(configuration["patch_size"]))
        entry = Architecture("nnunetv2_ext.architectures.mednext.MedNeXt", arguments).to_plans()
        return {**configuration, "architecture": entry}

    def strides(self, configuration: Configuration) -> None:
        """Plans do not state them: every stage halves the resolution."""

    def deep_supervision_scales(self, configuration: Configuration) -> list[list[float]]:
        """See `FromPlans.deep_supervision_scales`."""
        return super().deep_supervision_scales(self._with_size(configuration))

    def notes(self, configuration: Configuration) -> list[str]:
        """Says where the network of the plans is not used."""
        planned = configuration["architecture"]["network_class_name"]
        if self.size is None or planned.endswith(self.plans_for):
            return []
        return [f"MedNeXt {self.size} ignores the network of the plans ({planned})."]


@dataclass(frozen=True)
class WithLabelTree(FromPlans):
    """Another entry's network with a label tree, which comes with the weights or from the dataset.

    Attributes:
        backbone: The entry whose network gets the tree.
    """

    backbone: FromPlans = FromPlans()

    def build(
        self, configuration: Configuration, input_channels: int, num_classes: int, deep_supervision: bool
    ) -> nn.Module:
        """See `FromPlans.build`."""
        from nnunetv2_ext.architectures.label_tree_network import give_label_tree

        network = self.backbone.build(configuration, input_channels, num_classes, deep_supervision)
        # nnU-Net builds networks without their dataset: the tree is a placeholder until it is set or loaded.
        return give_label_tree(network, [-1] * num_classes)

    def strides(self, configuration: Configuration) -> list[list[int]] | None:
        """Those of the backbone."""
        return self.backbone.strides(configuration)

    def deep_supervision_scales(self, configuration: Configuration) -> list[list[float]]:
        """Those of the backbone."""
        return self.backbone.deep_supervision_scales(configuration)

    def notes(self, configuration: Configuration) -> list[str]:
        """Those of the backbone."""
        return self.backbone.notes(configuration)


_RESENC = FromPlans("nnunetv2_ext.architectures.resenc.StridedSkipResidualEncoderUNet", plans_for="ResidualEncoderUNet")
_MEDNEXTS = {
    f"{size.name}{suffix}": MedNeXtFromPlans(size=letter, kernel_size=kernel_size)
    for letter, size in MEDNEXT_SIZES.items()
    for kernel_size, suffix in MEDNEXT_KERNELS.items()
}
_STUNETS = {f"stunet_{size.name}": STUNetFromPlans(size=letter) for letter, size in STUNET_SIZES.items()}

#: Name of a trainer, without what says how it trains -> the network that it builds.
_BUILT_BY: dict[str, FromPlans] = {
    **dict.fromkeys(("nnUNetTrainer", "MultiTalentTrainer", "FineTuneTrainer"), FromPlans()),
    **dict.fromkeys(("FineTuneTrainer_unet", "FineTuneTrainer_resenc"), FromPlans()),
    **dict.fromkeys(("FineTuneTrainer_swinunetr", "MultiTalentTrainer_swinunetr"), SwinUNETRForPlans()),
    "SegResNetTrainer": FromPlans(plans_for="monai_networks.SegResNet"),
    "MonaiUNetTrainer": FromPlans(plans_for="monai_networks.UNet"),
    "MultiTalentTrainer_unet": FromPlans("nnunetv2_ext.architectures.unet.PlainConvUNet", plans_for="PlainConvUNet"),
    "MultiTalentTrainer_resenc": _RESENC,
    **dict.fromkeys(("MultiTalentV2Trainer", "MultiTalentV2Trainer_multistems"), FromPlans()),
    "LabelTreeTrainer_unet": WithLabelTree(),
    "LabelTreeTrainer_resenc": WithLabelTree(backbone=_RESENC),
    **dict.fromkeys(("MedNeXtTrainer", "FineTuneTrainer_mednext", "MultiTalentTrainer_mednext"), MedNeXtFromPlans()),
    "PrimusTrainer": FromPlans(plans_for="primus.Primus"),
    "LabelTreeTrainer_mednext": WithLabelTree(backbone=MedNeXtFromPlans()),
    **{f"MedNeXtTrainer_{name}": network for name, network in _MEDNEXTS.items()},
    **{f"MultiTalentTrainer_mednext_{name}": network for name, network in _MEDNEXTS.items()},
    "STUNetTrainer": _STUNETS["stunet_base"],
    **{f"STUNetTrainer_{size.name}": STUNetFromPlans(size=letter) for letter, size in STUNET_SIZES.items()},
    **{f"MultiTalentTrainer_{key}": network for key, network in _STUNETS.items()},
    **{f"LabelTreeTrainer_{key}": WithLabelTree(backbone=network) for key, network in _STUNETS.items()},
}


def network_of_trainer(name: str) -> FromPlans | None:
    """The network that a trainer of this package, or nnU-Net's own, builds; None for other trainers."""
    built = re.sub(r"(_ft)?(_warmup)?(_[24]000ep|_ep[24]k)?$", "", name)
    return None if built == "nnUNetTrainer" != name else _BUILT_BY.get(built)
