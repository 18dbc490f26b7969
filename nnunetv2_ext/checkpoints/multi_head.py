"""Networks with a head per source as what a training starts from, and as what starts from other networks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nnunetv2_ext.architectures.multi_head import MultiHead, heads_called
from nnunetv2_ext.checkpoints.checkpoint import Checkpoint
from nnunetv2_ext.checkpoints.formats.multitalent_v2 import single_architecture, weights_of_one_head
from nnunetv2_ext.checkpoints.transfer import TransferReport, transfer_weights
from nnunetv2_ext.labels.channels import BACKGROUND
from nnunetv2_ext.labels.partial_labels import PartialLabels
from nnunetv2_ext.labels.source_heads import SourceHead, source_heads
from nnunetv2_ext.utilities.errors import UserError


def as_one_network(
    checkpoint: Checkpoint,
    *,
    channels: int,
    stem: str | None = None,
    full: Collection[str] = (),
) -> Checkpoint:
    """nnU-Net's own network with the stem that fits and the classes of all heads, as sigmoid outputs.

    The rows of a head, less that of its background, say what its softmax said of a class against the background.

    Args:
        checkpoint: From `read_checkpoint`; returned as it is where it has one head.
        channels: Image channels of the dataset that a training is to begin on.
        stem: Head or source whose stem and preprocessing are taken, and whose classes are called as there; those of
            others are called ``<source>/<class>``. By default the first stem that has as many channels.
        full: Names ``<source>/<class>`` that stay.

    Raises:
        UserError: There is no such stem, or none with as many channels.
    """
    arguments = checkpoint.architecture.arguments
    if "heads" not in arguments:
        if stem is not None:
            raise UserError(
                f"Expected a checkpoint with a head per dataset for --stem, but {checkpoint.path.name} has one; leave "
                "--stem out."
            )
        return checkpoint
    assert checkpoint.dataset_json is not None, "the format describes its heads"
    described = source_heads(PartialLabels.from_dataset_json(checkpoint.dataset_json))
    sources = dict(zip(described, arguments["heads"], strict=True))
    chosen, note = _choose_stem(checkpoint, sources, channels, stem)
    preferred = next((source for source, head in sources.items() if stem is not None and head == chosen), None)
    rows = list(_rows(checkpoint.network_state, sources, described))
    names = [row.name if row.source == preferred and row.full_name not in full else row.full_name for row in rows]
    state = weights_of_one_head(checkpoint, chosen)
    for name in [name for name in state if name.startswith("decoder.seg_layers.")]:
        level, _, kind = name.removeprefix("decoder.seg_layers.").partition(".")
        state[name] = torch.stack([row.tensors[level, kind] for row in rows])
    architecture = single_architecture(checkpoint)
    own = checkpoint.head_plans.get(chosen) if stem is not None or arguments["stems"] is not None else None
    plans = deepcopy(own or checkpoint.plans)
    if plans is not None:
        plans["configurations"][checkpoint.configuration]["architecture"] = architecture.to_plans()
    labels = {BACKGROUND: 0, **{name: [value, value] for value, name in enumerate(names, 1)}}
    return replace(
        checkpoint,
        network_state=state,
        architecture=architecture,
        input_channels=(arguments["stems"] or {}).get(chosen, checkpoint.input_channels),
        num_classes=len(names),
        plans=plans,
        labels=labels,
        dataset_json={"labels": labels, "regions_class_order": list(range(1, len(labels)))},
        head_plans={},
        notes=[*checkpoint.notes, *note],
    )


def transfer_to_heads(
    network: MultiHead,
    checkpoint: Checkpoint,
    heads: Mapping[str, SourceHead],
    *,
    class_mapping: Mapping[str, str] | None = None,
    stem: str | None = None,
    part: Any = "all",
) -> list[TransferReport]:
    """Copies the weights of a checkpoint into a network with a head per source, one head after the other.

    Args:
        network: Freshly initialised; changed in place.
        checkpoint: Of any format.
        heads: Sources in the order of the network's heads.
        class_mapping: As for `transfer_weights`, over the classes of all sources.
        stem: As for `as_one_network`.
        part: As for `transfer_weights`.

    Returns:
        What happened, per source.

    Raises:
        UserError: As for `transfer_weights`.
    """
    mapping = dict(class_mapping or {})
    known = {name for head in heads.values() for name in head.labels}
    if unknown := sorted(set(mapping) - known):
        raise UserError(
            f"Expected classes of the dataset in the class mapping, but got {', '.join(unknown)}; choose from "
            f"{', '.join(sorted(known))}."
        )
    reports = []
    for name, head in zip(network.heads, heads.values(), strict=True):
        single: Any = network.single(name)
        channels = single.get_parameter(f"{single.keys_to_in_proj[0]}.weight").shape[1]
        own = {target: source for target, source in mapping.items() if target in head.labels}
        theirs = as_one_network(checkpoint, channels=channels, stem=stem, full=[*own.values(), *head.labels])
        reports.append(transfer_weights(single, theirs, target_classes=head.labels, class_mapping=own, part=part))
    return reports


@dataclass(frozen=True)
class _Row:
    """A class of a head, and its row of every tensor of the heads, less that of the background."""

    source: str
    name: str
    tensors: Mapping[tuple[str, str], Tensor]

    @property
    def full_name(self) -> str:
        return f"{self.source}/{self.name}"


def _rows(
    state: Mapping[str, Tensor], sources: Mapping[str, str], described: Mapping[str, SourceHead]
) -> Iterator[_Row]:
    for source, head in sources.items():
        prefix = f"decoder.seg_layers.{head}."
        tensors = {
            tuple(name.removeprefix(prefix).split(".")): tensor
            for name, tensor in state.items()
            if name.startswith(prefix)
        }
        for name, output in described[source].labels.items():
            if output:
                own = {(level, kind): tensor[output] - tensor[0] for (level, kind), tensor in tensors.items()}
                yield _Row(source, name.removeprefix(f"{source}/"), own)


def _choose_stem(
    checkpoint: Checkpoint, sources: Mapping[str, str], channels: int, wanted: str | None
) -> tuple[str, list[str]]:
    """The head whose stem is taken, and what is to be said of it."""
    stems = checkpoint.architecture.arguments["stems"]
    if wanted is not None:
        found = heads_called(wanted, sources)
        if len(found) != 1:
            raise UserError(
                f"Expected one of {', '.join(found or sources)} for --stem, but got {wanted!r:.100}; choose one."
            )
        return found[0], []
    if stems is None:
        return next(iter(sources.values())), []
    for number in (channels, 1):  # one channel can be spread over several
        fitting = [source for source, head in sources.items() if stems[head] == number]
        if fitting:
            others = f"; --stem chooses another of {', '.join(fitting)}" if len(fitting) > 1 else ""
            return sources[fitting[0]], [f"the stem is that of {fitting[0]}, for {number} channel(s){others}"]
    listed = ", ".join(f"{source} ({stems[head]})" for source, head in sources.items())
    raise UserError(
        f"Expected a stem for {channels} image channel(s) in {checkpoint.path.name}, but its stems are {listed}; use "
        "images with as many channels."
    )
