"""Segmentation heads from the classes of one network to those of another, and from one kind of outputs to another.

A sigmoid network says "class" where its logit exceeds 0, a softmax network compares with the logit of the background.
The rows of a softmax network, less that of its background, are therefore those of a sigmoid network; and a sigmoid
network with a row of zeros for the background is a softmax network. Siblings of a label tree share a softmax, which
differences to the background do not change.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from nnunetv2_ext.checkpoints.checkpoint import Checkpoint
from nnunetv2_ext.labels.channels import BACKGROUND, channel_names
from nnunetv2_ext.labels.synonyms import synonym
from nnunetv2_ext.utilities.errors import UserError

Classes = Mapping[str, Any] | Sequence[str]

#: What is left of the random rows of new classes: enough to tell them apart, too little to paint over others.
_SMALL = 0.01


@dataclass(frozen=True)
class Outputs:
    """The outputs of a network.

    Attributes:
        names: Class of each channel; None where unknown.
        kind: How the channels compete.
    """

    names: tuple[str, ...] | None
    kind: Literal["softmax", "sigmoid", "tree"]

    @classmethod
    def of(cls, classes: Classes | None, has_tree: bool) -> Outputs:
        """From the ``labels`` of a dataset.json, or the names of the channels."""
        names = channel_names(classes) if isinstance(classes, Mapping) else None if classes is None else tuple(classes)
        return cls(names, "tree" if has_tree else "softmax" if names and names[0] == BACKGROUND else "sigmoid")

    def rows(self, own: Tensor, theirs: Tensor, source: Outputs, pairs: Mapping[int, int]) -> Tensor:
        """Rows of a head with these outputs.

        Args:
            own: The freshly initialised rows.
            theirs: Rows of the source.
            source: The outputs of these.
            pairs: Channel to the source's channel, of the classes that both have.
        """
        if source.kind == "softmax" != self.kind:
            theirs = theirs - theirs[:1]
        rows = own * _SMALL
        if self.kind == "softmax" and source.kind == "sigmoid":
            rows[0] = 0
        elif self.kind == source.kind == "softmax" and 0 in pairs:
            # Only differences of logits count: a new class begins as the background does.
            rows += theirs[pairs[0]]
        for channel, counterpart in pairs.items():
            rows[channel] = theirs[counterpart]
        return rows


def pair_classes(
    checkpoint: Checkpoint, source: Outputs, target: Outputs, mapping: Mapping[str, str]
) -> dict[int, int] | str:
    """Target channel -> source channel of each class that both have, or the reason why there are none.

    Raises:
        UserError: The mapping names an unknown class, or the names are not as many as the outputs.
    """
    if mapping:
        _check_mapping(checkpoint, mapping, target.names, source.names)
    if source.names is None:
        return "the checkpoint's class names are not known"
    if len(source.names) != checkpoint.num_classes:
        raise UserError(
            f"Expected {checkpoint.num_classes} names for the outputs of {checkpoint.path}, but got "
            f"{len(source.names)}."
        )
    if target.names is None:
        return "the network's class names are not known"
    channel_of = {name: channel for channel, name in enumerate(source.names)}
    counterparts = [
        mapping.get(name) or (name if name in channel_of else synonym(name, source.names)) for name in target.names
    ]
    return {channel: channel_of[name] for channel, name in enumerate(counterparts) if name is not None}


def check_class_mapping(checkpoint: Checkpoint, class_mapping: Mapping[str, str], target_classes: Classes) -> None:
    """Raises a `UserError` when `transfer_weights` could not follow a mapping of classes.

    Args:
        checkpoint: From `read_checkpoint`.
        class_mapping: Target class to source class.
        target_classes: As for `transfer_weights`.
    """
    targets = Outputs.of(target_classes, has_tree=False).names
    _check_mapping(checkpoint, class_mapping, targets, checkpoint.class_names)


def _check_mapping(
    checkpoint: Checkpoint,
    mapping: Mapping[str, str],
    targets: Sequence[str] | None,
    sources: Sequence[str] | None,
) -> None:
    if targets is None or sources is None:
        nameless = "the network" if sources is not None else checkpoint.path.name
        raise UserError(
            f"Expected the names of all classes for a class mapping, but those of {nameless} are not known; give the "
            "model folder with its dataset.json, or leave the mapping out."
        )
    wrong = [f"{name} (no class of the dataset)" for name in mapping if name not in targets]
    wrong += [
        f"{name} (no class of {checkpoint.path.name})"
        for name in dict.fromkeys(mapping.values())
        if name not in sources
    ]
    if wrong:
        raise UserError(
            f"Expected a class mapping from classes of the dataset to classes of the checkpoint, but found "
            f"{', '.join(wrong)}; choose from the dataset's {', '.join(targets)} and from the checkpoint's "
            f"{', '.join(sources)}."
        )


def name_hints(new: Sequence[str], sources: Sequence[str]) -> list[str]:
    """What ``<source>/<class>`` of a collection a class of the same name might want to start from.

    Protocols differ between sources, so that the choice is left to the user.
    """
    hints, single = [], []
    for name in new:
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
