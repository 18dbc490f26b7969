"""Moves the weights of a checkpoint into a network with other input channels or other classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_ext.architectures.architecture import describe
from nnunetv2_ext.architectures.families import NetworkFamily
from nnunetv2_ext.architectures.label_tree_network import PARENTS_NAME, label_tree_of
from nnunetv2_ext.architectures.parts import belongs_to
from nnunetv2_ext.architectures.stunet_sizes import STUNET_SIZES
from nnunetv2_ext.checkpoints.checkpoint import Checkpoint, match_state, tensor_names
from nnunetv2_ext.checkpoints.heads import Classes, Outputs, name_hints, pair_classes
from nnunetv2_ext.checkpoints.resizing import resized
from nnunetv2_ext.checkpoints.stem import adapt_stem
from nnunetv2_ext.labels.dataset_json import image_channels
from nnunetv2_ext.utilities.errors import UserError

Outcome = Literal["loaded", "adapted", "reinitialised"]


@dataclass(frozen=True)
class TensorTransfer:
    """What happened to one tensor of the network.

    Attributes:
        name: Its (first) name in the network.
        outcome: ``loaded`` unchanged, ``adapted`` or ``reinitialised``.
        detail: How it was adapted, or why it was reinitialised; empty for ``loaded``.
    """

    name: str
    outcome: Outcome
    detail: str = ""


@dataclass
class TransferReport:
    """What `transfer_weights` did, tensor by tensor; ``str`` gives a short table.

    Attributes:
        source: The checkpoint in words.
        tensors: One entry per tensor of the network, in its order.
        transferred_classes: Target classes whose heads come from the checkpoint, to the source class.
        reinitialised_classes: Target classes whose heads keep the network's initialisation, to the reason.
        notes: What else differs between pretraining and this network.
    """

    source: str
    tensors: list[TensorTransfer] = field(default_factory=list)
    transferred_classes: dict[str, str] = field(default_factory=dict)
    reinitialised_classes: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def names(self, outcome: Outcome) -> list[str]:
        """Names of the tensors with an outcome."""
        return [entry.name for entry in self.tensors if entry.outcome == outcome]

    def __str__(self) -> str:
        """The table that commands print."""
        groups: dict[tuple[str, str], int] = {}
        for entry in self.tensors:
            key = entry.outcome, entry.detail
            groups[key] = groups.get(key, 0) + 1
        lines = [f"Weights from {self.source}", f"  {'tensors':>7}  outcome"]
        for (outcome, detail), number in groups.items():
            lines.append(f"  {number:>7}  {outcome}{': ' + detail if detail else ''}")
        if self.transferred_classes:
            pairs = (a if a == b else f"{a} (from {b})" for a, b in self.transferred_classes.items())
            lines.append(f"  classes with pretrained heads: {', '.join(pairs)}")
        for reason, names in _by_reason(self.reinitialised_classes).items():
            lines.append(f"  classes with new heads: {', '.join(names)} ({reason})")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def transfer_weights(
    network: nn.Module,
    checkpoint: Checkpoint,
    *,
    target_classes: Classes | None = None,
    source_classes: Classes | None = None,
    class_mapping: Mapping[str, str] | None = None,
    target_channels: Sequence[str] | None = None,
    part: Literal["all", "backbone", "encoder"] = "all",
) -> TransferReport:
    """Copies the weights of a checkpoint into a network: backbone strictly, heads by class name.

    - Backbone: every tensor must be there with the same shape.
    - Input stem: image channels that the checkpoint knows by name get its weights for them. Otherwise the weights of
      its N channels are added up, repeated for M and divided by M, so that a network that sees the same image in all
      its channels computes what it did before.
    - Kernels of MedNeXt and embeddings of Primus are resized (`nnunetv2_ext.checkpoints.resizing`).
    - Heads: the rows of classes with the same name, or another name that a label order knows for the same structure,
      are copied at every level, translated where softmax, sigmoid and label tree meet
      (`nnunetv2_ext.checkpoints.heads`); those of other classes start small.

    Nothing is written unless everything fits.

    Args:
        network: Freshly initialised; changed in place. Wrappers of torch.compile and of distributed training are seen
            through.
        checkpoint: From `read_checkpoint`.
        target_classes: Classes of the network's output channels: ``labels`` of a dataset.json, or names in the order
            of the channels (with ``background`` for softmax). Unknown classes have no pretrained heads.
        source_classes: The same for the checkpoint; those that it knows by default.
        class_mapping: Target class to source class, for structures that have another name in the checkpoint.
        target_channels: Names of the network's image channels, where known.
        part: What is copied; the rest, which may have any shape then, keeps its initialisation.

    Returns:
        What happened to each tensor.

    Raises:
        UserError: The network differs from the checkpoint's in size, class or dimension; the number of classes does
            not fit; ``class_mapping`` names an unknown class.
    """
    network = _bare(network)
    family = checkpoint.architecture.family
    state = {name: value for name, value in checkpoint.network_state.items() if name != PARENTS_NAME}
    matched, missing, unexpected = match_state(network, state)
    names_of = tensor_names(network)
    tensors = network.state_dict(keep_vars=True)
    heads = [first for first, names in names_of.items() if any(name.startswith(family.heads) for name in names)]
    if not heads:
        raise UserError(
            f"Expected a network with segmentation heads at {family.heads.rstrip('.')}, but {type(network).__name__} "
            "has none."
        )
    stem = _stem_tensors(network)
    report = TransferReport(checkpoint.describe())

    def is_wanted(name: str) -> bool:
        return part == "all" or any(belongs_to(each, part, family) for each in names_of.get(name, [name]))

    values: dict[str, Tensor] = {}
    absent = {name for name in missing if checkpoint.lacks(names_of[name])} - {PARENTS_NAME}
    unmatched = [name for name in (*missing, *unexpected) if name not in absent]
    different = [name for name in unmatched if name != PARENTS_NAME and is_wanted(name)]
    trained_on = checkpoint.dataset_json or {}
    their_channels = image_channels(trained_on) if {"channel_names", "modality"} & trained_on.keys() else None
    for name in names_of:
        if name in absent:
            report.tensors.append(TensorTransfer(name, "reinitialised", "not in the checkpoint"))
            continue
        target = tensors[name]
        if not is_wanted(name) and name not in heads:
            if name != PARENTS_NAME:
                report.tensors.append(TensorTransfer(name, "reinitialised", f"left out by --transfer {part}"))
            continue
        if name not in matched or (name in heads and (part != "all" or _has_rows_of(family, matched[name], target))):
            continue
        source, detail = matched[name], ""
        if id(target) in stem and source[:, :1].shape == target[:, :1].shape:
            source, detail = adapt_stem(source, target.shape[1], target_channels, their_channels)
        if source.shape == target.shape:
            values[name] = source
            report.tensors.append(TensorTransfer(name, "adapted" if detail else "loaded", detail))
        elif (adapted := resized(name, source, target, checkpoint, network)) is not None:
            values[name], how = adapted
            report.tensors.append(TensorTransfer(name, "adapted", how))
        else:
            different.append(name)
    if different:
        raise UserError(_mismatch(network, checkpoint, different[0], matched, tensors))

    own = Outputs.of(target_classes, label_tree_of(network) is not None)
    theirs = Outputs.of(source_classes or checkpoint.labels, PARENTS_NAME in checkpoint.network_state)
    pairs = (
        pair_classes(checkpoint, theirs, own, class_mapping or {})
        if part == "all"
        else f"left out by --transfer {part}"
    )
    _note_classes(report, pairs, own, theirs)
    for name in [head for head in heads if head not in absent]:
        if part != "all":
            report.tensors.append(TensorTransfer(name, "reinitialised", f"heads: {pairs}"))
            continue
        target, source = tensors[name].detach(), matched[name]
        if not isinstance(pairs, str) and family.has_rows and len(own.names or ()) != len(target):
            raise UserError(
                f"Expected {len(target)} class names for the network's outputs, but got {len(own.names or ())}."
            )
        same = not isinstance(pairs, str) and list(pairs.items()) == [(n, n) for n in range(checkpoint.num_classes)]
        if same and own.kind == theirs.kind and source.shape == target.shape:
            values[name] = source
            report.tensors.append(TensorTransfer(name, "loaded"))
        elif isinstance(pairs, str) or not pairs or not family.has_rows:
            reason = pairs if isinstance(pairs, str) else "no class is in the checkpoint"
            if pairs and not family.has_rows:
                reason = "they are one block for all classes, which differ"
            report.tensors.append(TensorTransfer(name, "reinitialised", f"heads: {reason}"))
        else:
            values[name] = own.rows(target, source, theirs, pairs)
            detail = f"heads: {len(pairs)} of {len(target)} classes loaded by name"
            if own.kind != theirs.kind:
                detail += f", {theirs.kind} to {own.kind}"
            report.tensors.append(TensorTransfer(name, "adapted", detail))
    if PARENTS_NAME in tensors:
        report.tensors.append(TensorTransfer(PARENTS_NAME, "reinitialised", "the label tree is the dataset's"))
    with torch.no_grad():
        for name, value in values.items():
            tensors[name].copy_(value)
    place = {name: number for number, name in enumerate(names_of)}
    report.tensors.sort(key=lambda entry: place[entry.name])
    _note_strides(report, checkpoint, network)
    return report


def _note_classes(report: TransferReport, pairs: Mapping[int, int] | str, own: Outputs, theirs: Outputs) -> None:
    if isinstance(pairs, str) or own.names is None or theirs.names is None:
        return
    for channel, name in enumerate(own.names):
        if channel in pairs:
            report.transferred_classes[name] = theirs.names[pairs[channel]]
        else:
            report.reinitialised_classes[name] = "not in the checkpoint"
    report.notes += name_hints(list(report.reinitialised_classes), theirs.names)


def _bare(network: nn.Module) -> nn.Module:
    while True:
        if isinstance(network, DistributedDataParallel):
            network = network.module
        elif isinstance(inner := getattr(network, "_orig_mod", None), nn.Module):
            network = inner
        else:
            return network


def _stem_tensors(network: nn.Module) -> set[int]:
    """Weights whose shape depends on the number of input channels, under the names that nnU-Net's networks declare."""
    return {id(network.get_parameter(f"{key}.weight")) for key in getattr(network, "keys_to_in_proj", ())}


def _has_rows_of(family: NetworkFamily, source: Tensor, target: Tensor) -> bool:
    """Whether a tensor of the heads is for `Outputs.rows` to translate, or is no matter of single classes at all."""
    return source.shape[1:] == target.shape[1:] or not family.has_rows


def _mismatch(
    network: nn.Module, checkpoint: Checkpoint, first: str, matched: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> str:
    theirs, ours = str(checkpoint.architecture), describe_network(network)
    if checkpoint.architecture.stunet_size:
        advice = f"use {checkpoint.architecture.family.trainers['finetuning']}"
        if checkpoint.architecture.dimensions != _dimensions(network):
            advice += f" with a {checkpoint.architecture.dimensions}D configuration"
    else:
        advice = "use the plans and the trainer that the checkpoint was trained with"
    sentence = f"The checkpoint {checkpoint.path.name} is {theirs}, but the trainer builds {ours}: {advice}"
    if theirs != ours:
        return f"{sentence}."
    found = f"{tuple(matched[first].shape)} in the checkpoint" if first in matched else "in only one of them"
    expected = f", {tuple(tensors[first].shape)} in the network" if first in matched else ""
    return f"{sentence} (first difference: {first}, {found}{expected})."


def describe_network(network: nn.Module) -> str:
    """A network in the words in which `Architecture` describes one, such as ``3D STU-Net S (features 16..256)``."""
    name = type(network).__name__.replace("STUNet", "STU-Net")
    encoder: Any = getattr(network, "encoder", None)
    features = getattr(encoder, "output_channels", None)
    if name == "STU-Net" and features is not None:
        blocks = tuple(len(list(stage.children())) for stage in encoder.stages)
        for letter, size in STUNET_SIZES.items():
            if (tuple(features), blocks) == (size.features_per_stage, size.n_blocks_per_stage):
                name = f"{name} {letter}"
    return describe(name, _dimensions(network), features)


def _dimensions(network: nn.Module) -> int:
    return next((parameter.ndim - 2 for parameter in network.parameters() if parameter.ndim >= 4), 0)


def _note_strides(report: TransferReport, checkpoint: Checkpoint, network: nn.Module) -> None:
    """Convolutions do not tell the strides they were trained with, so that other ones load without complaint."""
    theirs = checkpoint.architecture.arguments.get("strides")
    ours = getattr(getattr(network, "encoder", None), "strides", None)
    if theirs is None or ours is None:
        return
    theirs, ours = [list(stride) for stride in theirs], [list(stride) for stride in ours]
    if theirs != ours:
        report.notes.append(f"the checkpoint was trained with strides {theirs}, this network has {ours}")


def _by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        grouped.setdefault(reason, []).append(name)
    return grouped
