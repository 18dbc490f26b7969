"""Trainers that differ by a size, a number of epochs or a learning rate: one entry each.

Imports neither torch nor nnU-Net, so that trainers are listed within a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nnunetv2_ext.architectures.mednext_sizes import MEDNEXT_KERNELS, MEDNEXT_SIZES


@dataclass(frozen=True)
class Variant:
    """A trainer.

    Attributes:
        name: Of the class.
        bases: Names of the classes that it is derived from.
        description: First line of its docstring.
        settings: Class attributes.
    """

    name: str
    bases: tuple[str, ...]
    description: str
    settings: Mapping[str, Any] = field(default_factory=dict)


_SIZES = {"small": ("S", "14.6 M"), "base": ("B", "58.3 M"), "large": ("L", "440 M"), "huge": ("H", "1.46 G")}


def _stunet() -> Iterator[Variant]:
    for size, (letter, parameters) in _SIZES.items():
        name, network = f"STUNetTrainer_{size}", f"STU-Net {letter}"
        fine_tuning = f"{network}, fine-tuning"
        yield Variant(name, ("ExtTrainer",), f"{network} ({parameters} parameters).")
        yield Variant(f"{name}_ft", (name,), f"{fine_tuning}.", {"initial_lr": 1e-3})
        after = f"{fine_tuning} after a warm-up of heads and network."
        yield Variant(f"{name}_ft_warmup", (f"{name}_ft", "WarmUpTrainer"), after)
        for thousands in (2, 4):
            epochs = thousands * 1000
            yield Variant(f"{name}_ep{thousands}k", (name,), f"{network}, {epochs} epochs.", {"num_epochs": epochs})
    published = "STU-Net B under the name that the published code gives its base trainer."
    yield Variant("STUNetTrainer", ("STUNetTrainer_base",), published)


def _stunet_sizes(family: str, base: str) -> Iterator[Variant]:
    for size, (letter, _) in _SIZES.items():
        yield Variant(f"{family}_stunet_{size}", (base,), f"STU-Net {letter}.")


def _mednext_sizes(base: str) -> Iterator[Variant]:
    for letter, size in MEDNEXT_SIZES.items():
        for kernel, suffix in MEDNEXT_KERNELS.items():
            parameters = f" ({size.parameters} parameters)" if kernel == 3 else ""
            description = f"MedNeXt {letter}{parameters}, kernels of {kernel}."
            yield Variant(f"{base}_{size.name}{suffix}", (base,), description)


def _multitalent() -> Iterator[Variant]:
    family, base = "MultiTalentTrainer", "PartialLabelTrainer"
    plain = [
        Variant(family, (base,), "The network that the plans name."),
        Variant(f"{family}_unet", (base,), "nnU-Net's default U-Net."),
        Variant(f"{family}_resenc", (base,), "The residual-encoder U-Net of the published checkpoints."),
        *_stunet_sizes(family, base),
    ]
    yield from plain
    yield from _mednext_sizes(f"{family}_mednext")
    networks = {variant.name: variant.description[:-1] for variant in plain}
    monai = {f"{family}_swinunetr": "MONAI's SwinUNETR", f"{family}_mednext": "The MedNeXt that the plans name"}
    for name, network in {**networks, **monai}.items():
        yield Variant(f"{name}_2000ep", (name,), f"{network}, 2000 epochs as in the paper.", {"num_epochs": 2000})


def _label_tree() -> Iterator[Variant]:
    family = "LabelTreeTrainer"
    by_plans = "The network of the plans, nnU-Net's U-Net by default (and SALT's with the plans ``salt``)."
    yield Variant(f"{family}_unet", (family,), by_plans)
    residual = "The residual-encoder U-Net of the published MultiTalent checkpoints."
    yield Variant(f"{family}_resenc", (family,), residual)
    yield from _stunet_sizes(family, family)


def _source_heads() -> Iterator[Variant]:
    family = "MultiTalentV2Trainer"
    for suffix, what, settings in (
        ("", "a softmax head per source", {}),
        ("_multistems", "a softmax head and a stem per source", {"separate_stems": True}),
    ):
        name, network = f"{family}{suffix}", f"The network of the plans with {what}"
        yield Variant(name, ("SourceHeadsTrainer",), f"{network}.", settings)
        yield Variant(f"{name}_4000ep", (name,), f"{network}, 4000 epochs as published.", {"num_epochs": 4000})


#: Module of ``trainers/`` -> the variants that it defines.
VARIANTS = {
    "stunet": tuple(_stunet()),
    "mednext": tuple(_mednext_sizes("MedNeXtTrainer")),
    "multitalent": tuple(_multitalent()),
    "label_tree": tuple(_label_tree()),
    "source_heads": tuple(_source_heads()),
}


def define_variants(module: dict[str, Any]) -> list[str]:
    """Defines the trainers of a module, each with the network that `network_of_trainer` knows for its name.

    Args:
        module: ``globals()`` of the module, with the classes that variants are derived from.

    Returns:
        Their names.
    """
    from nnunetv2_ext.architectures.planned import network_of_trainer

    variants = VARIANTS[module["__name__"].rpartition(".")[2]]
    for variant in variants:
        content = {"__module__": module["__name__"], "__doc__": variant.description, **variant.settings}
        content["architecture"] = network_of_trainer(variant.name)
        module[variant.name] = type(variant.name, tuple(module[base] for base in variant.bases), content)
    return [variant.name for variant in variants]
