"""Moves the weights of a checkpoint into a network with other input channels or other classes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_ext.architectures.stunet import STUNET_SIZES
from nnunetv2_ext.checkpoints.architecture import describe
from nnunetv2_ext.checkpoints.checkpoint import Checkpoint, match_state, tensor_names
from nnunetv2_ext.labels.channels import channel_names
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
    target_classes: Mapping[str, Any] | Sequence[str] | None = None,
    source_classes: Mapping[str, Any] | Sequence[str] | None = None,
    class_mapping: Mapping[str, str] | None = None,
) -> TransferReport:
    """Copies the weights of a checkpoint into a network: backbone strictly, heads by class name.

    - Backbone: every tensor must be there with the same shape.
    - Input stem: weights for one input channel are repeated for N and divided by N, so that a network that sees the
      same image N times computes what it did before.
    - Heads: the rows of classes with the same name are copied at every level; the others keep the network's own
      initialisation. A logit of a softmax network is relative to the others', one of a sigmoid network is not; their
      features are the same, so their heads are transferred between the two as well.

    Nothing is written unless everything fits.

    Args:
        network: Freshly initialised; changed in place. Wrappers of torch.compile and of distributed training are seen
            through.
        checkpoint: From `read_checkpoint`.
        target_classes: Classes of the network's output channels: ``labels`` of a dataset.json, or names in the order
            of the channels (with ``background`` for softmax). Unknown classes have no pretrained heads.
        source_classes: The same for the checkpoint; those that it knows by default.
        class_mapping: Target class to source class, for structures that have another name in the checkpoint.

    Returns:
        What happened to each tensor.

    Raises:
        UserError: The network differs from the checkpoint's in size, class or dimension; the number of classes does
            not fit; ``class_mapping`` names an unknown class.
    """
    network = _bare(network)
    matched, missing, unexpected = match_state(network, checkpoint.network_state)
    tensors = network.state_dict(keep_vars=True)
    heads = _first_names(network, _head_tensors(network))
    stem = _first_names(network, _stem_tensors(network))
    report = TransferReport(checkpoint.describe())

    values: dict[str, Tensor] = {}
    different: list[str] = [*missing, *unexpected]
    for name, source in matched.items():
        target = tensors[name]
        if name in heads and source.shape[1:] == target.shape[1:]:
            continue
        if source.shape == target.shape:
            values[name] = source
        elif name in stem and _differs_in_input_channels_only(source, target):
            values[name] = _repeated(source, target.shape[1], checkpoint)
        else:
            different.append(name)
    if different:
        raise UserError(_mismatch(network, checkpoint, different[0], matched, tensors))

    pairs = _pair_classes(checkpoint, target_classes, source_classes, class_mapping or {}, report)
    for name in heads:
        values[name] = _head(tensors[name].detach(), matched[name], pairs, report, name)
    with torch.no_grad():
        for name, value in values.items():
            tensors[name].copy_(value)

    recorded = {entry.name: entry for entry in report.tensors}
    report.tensors = [
        recorded.get(name) or _record(name, matched[name], tensors[name]) for name in tensor_names(network)
    ]
    _note_strides(report, checkpoint, network)
    return report


def _bare(network: nn.Module) -> nn.Module:
    while True:
        if isinstance(network, DistributedDataParallel):
            network = network.module
        elif isinstance(inner := getattr(network, "_orig_mod", None), nn.Module):
            network = inner
        else:
            return network


def _head_tensors(network: nn.Module) -> list[Tensor]:
    decoder = getattr(network, "decoder", None)
    heads = getattr(decoder, "seg_layers", None)
    if heads is None:
        raise UserError(
            f"Expected a network with segmentation heads at decoder.seg_layers, but {type(network).__name__} has none."
        )
    return list(heads.parameters())


def _stem_tensors(network: nn.Module) -> list[Tensor]:
    """Weights whose shape depends on the number of input channels, under the names that nnU-Net's networks declare."""
    keys = getattr(network, "keys_to_in_proj", ())
    return [network.get_parameter(f"{key}.weight") for key in keys]


def _first_names(network: nn.Module, tensors: Sequence[Tensor]) -> list[str]:
    wanted = {id(tensor) for tensor in tensors}
    state = network.state_dict(keep_vars=True)
    return [name for name in tensor_names(network) if id(state[name]) in wanted]


def _differs_in_input_channels_only(source: Tensor, target: Tensor) -> bool:
    return source.ndim == target.ndim and source[:, :1].shape == target[:, :1].shape


def _repeated(source: Tensor, channels: int, checkpoint: Checkpoint) -> Tensor:
    if source.shape[1] != 1:
        raise UserError(
            f"{checkpoint.path} was trained on {source.shape[1]} input channels and the network has {channels}; only "
            "one channel can be spread over several: use images with the same channels."
        )
    return source.expand(-1, channels, *(-1,) * (source.ndim - 2)) / channels


def _record(name: str, source: Tensor, target: Tensor) -> TensorTransfer:
    if source.shape == target.shape:
        return TensorTransfer(name, "loaded")
    channels = target.shape[1]
    return TensorTransfer(
        name, "adapted", f"input channels 1 -> {channels}, weights repeated and divided by {channels}"
    )


def _pair_classes(
    checkpoint: Checkpoint,
    target_classes: Mapping[str, Any] | Sequence[str] | None,
    source_classes: Mapping[str, Any] | Sequence[str] | None,
    class_mapping: Mapping[str, str],
    report: TransferReport,
) -> list[tuple[int, int]] | str:
    """(target channel, source channel) of each class in both, or the reason why there are none."""
    sources = checkpoint.class_names if source_classes is None else _names(source_classes)
    targets = None if target_classes is None else _names(target_classes)
    if class_mapping:
        _check_mapping(checkpoint, class_mapping, targets, sources)
    if sources is None:
        return "the checkpoint's class names are not known"
    if len(sources) != checkpoint.num_classes:
        raise UserError(
            f"Expected {checkpoint.num_classes} names for the outputs of {checkpoint.path}, but got {len(sources)}."
        )
    if targets is None:
        return "the network's class names are not known"
    channel_of = {name: channel for channel, name in enumerate(sources)}
    pairs = []
    for channel, name in enumerate(targets):
        source = class_mapping.get(name, name)
        if source in channel_of:
            pairs.append((channel, channel_of[source]))
            report.transferred_classes[name] = source
        else:
            report.reinitialised_classes[name] = "not in the checkpoint"
    report.notes += _name_hints(report.reinitialised_classes, sources)
    return pairs


def check_class_mapping(
    checkpoint: Checkpoint, class_mapping: Mapping[str, str], target_classes: Mapping[str, Any] | Sequence[str]
) -> None:
    """Raises a `UserError` when `transfer_weights` could not follow a mapping of classes.

    Args:
        checkpoint: From `read_checkpoint`.
        class_mapping: Target class to source class.
        target_classes: As for `transfer_weights`.
    """
    _check_mapping(checkpoint, class_mapping, _names(target_classes), checkpoint.class_names)


def _check_mapping(
    checkpoint: Checkpoint,
    class_mapping: Mapping[str, str],
    targets: Sequence[str] | None,
    sources: Sequence[str] | None,
) -> None:
    if targets is None or sources is None:
        nameless = "the network" if sources is not None else checkpoint.path.name
        raise UserError(
            f"Expected the names of all classes for a class mapping, but those of {nameless} are not known; give the "
            "model folder with its dataset.json, or leave the mapping out."
        )
    wrong = [f"{name} (no class of the dataset)" for name in class_mapping if name not in targets]
    wrong += [
        f"{name} (no class of {checkpoint.path.name})"
        for name in dict.fromkeys(class_mapping.values())
        if name not in sources
    ]
    if wrong:
        raise UserError(
            f"Expected a class mapping from classes of the dataset to classes of the checkpoint, but found "
            f"{', '.join(wrong)}; choose from the dataset's {', '.join(targets)} and from the checkpoint's "
            f"{', '.join(sources)}."
        )


def _name_hints(reinitialised: Mapping[str, str], sources: Sequence[str]) -> list[str]:
    """What ``<source>/<class>`` of a collection a class of the same name might want to start from.

    Protocols differ between sources, so that the choice is left to the user.
    """
    hints, single = [], []
    for name in reinitialised:
        candidates = [source for source in sources if source.endswith(f"/{name}")]
        if len(candidates) == 1:
            single.append(f"{name}={candidates[0]}")
        elif candidates:
            hints.append(
                f"the checkpoint has {len(candidates)} classes called {name} ({', '.join(candidates)}); to start from "
                f"one of them, choose it with --class_mapping {shlex.quote(f'{name}={candidates[0]}')}"
            )
    if single:
        hints.insert(0, f"to start from classes of similar name, add --class_mapping {shlex.join(single)}")
    return hints


def _names(classes: Mapping[str, Any] | Sequence[str]) -> tuple[str, ...]:
    return channel_names(classes) if isinstance(classes, Mapping) else tuple(classes)


def _head(
    target: Tensor, source: Tensor, pairs: list[tuple[int, int]] | str, report: TransferReport, name: str
) -> Tensor:
    if isinstance(pairs, str):
        report.tensors.append(TensorTransfer(name, "reinitialised", f"heads: {pairs}"))
        return target
    names = len(report.transferred_classes) + len(report.reinitialised_classes)
    if names != target.shape[0]:
        raise UserError(f"Expected {target.shape[0]} class names for the network's outputs, but got {names}.")
    rows = target.clone()
    for to_channel, from_channel in pairs:
        rows[to_channel] = source[from_channel]
    if not pairs:
        report.tensors.append(TensorTransfer(name, "reinitialised", "heads: no class is in the checkpoint"))
    elif rows.shape == source.shape and pairs == [(channel, channel) for channel in range(len(rows))]:
        report.tensors.append(TensorTransfer(name, "loaded"))
    else:
        detail = f"heads: {len(pairs)} of {len(rows)} classes loaded by name"
        report.tensors.append(TensorTransfer(name, "adapted", detail))
    return rows


def _mismatch(
    network: nn.Module, checkpoint: Checkpoint, first: str, matched: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> str:
    theirs, ours = str(checkpoint.architecture), describe_network(network)
    size = checkpoint.architecture.stunet_size
    if size:
        advice = f"use STUNetTrainer_{STUNET_SIZES[size].name}_ft"
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
