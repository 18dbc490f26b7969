"""MultiTalent for nnU-Net v2: one backbone with a softmax head for each dataset, and one stem or a stem for each.

https://github.com/MIC-DKFZ/MultiTalent (branch ``public_MT``). What this package trains in the same way is read, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from nnunetv2_ext.architectures.architecture import Architecture
from nnunetv2_ext.architectures.multi_head import (
    HEAD,
    MultiHeadPlainConvUNet,
    MultiHeadResidualEncoderUNet,
    heads_called,
)
from nnunetv2_ext.checkpoints.checkpoint import Checkpoint
from nnunetv2_ext.checkpoints.formats.base import CheckpointFormat, Translation, without_aliases
from nnunetv2_ext.checkpoints.formats.nnunet_v1_resenc import resenc_translation
from nnunetv2_ext.checkpoints.formats.nnunet_v1_unet import unet_translation
from nnunetv2_ext.checkpoints.plans import check_plans
from nnunetv2_ext.checkpoints.raw import RawCheckpoint
from nnunetv2_ext.checkpoints.shapes import PLANS
from nnunetv2_ext.labels.channels import BACKGROUND, IGNORE, channel_names
from nnunetv2_ext.labels.dataset_json import read_dataset_json
from nnunetv2_ext.labels.partial_labels import SECTION, PartialLabels
from nnunetv2_ext.labels.source_heads import source_heads
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json

_HEADS, _STEM = "decoder.seg_layers.", "encoder.stem."
_HEAD_NAME = re.compile(rf"decoder\.seg_layers\.({HEAD})\.(\d+)\.(weight|bias)")
_STEM_NAME = re.compile(rf"encoder\.stem\.({HEAD})\.(convs\.0\..+)")
_SINGLE = "dynamic_network_architectures.architectures.unet."


def _recognises(raw: RawCheckpoint) -> bool:
    return any(_HEAD_NAME.fullmatch(name) for name in raw.state)


def _translate(raw: RawCheckpoint) -> Translation:
    raw = replace(raw, state=without_aliases(raw.state))
    heads, stems = _heads(raw), _stems(raw)
    if stems is not None and (lacking := sorted(set(heads) ^ set(stems))):
        raise UserError(
            f"Expected a head and a stem for each dataset in {raw.path}, but {', '.join(lacking)} has only one of "
            "them; is the file complete?"
        )
    is_plain = not any(name.startswith("encoder.stages.0.blocks.") for name in raw.state)
    raw = replace(raw, state=_with_shared_stem_in_first_stage(raw.state) if is_plain and not stems else raw.state)
    channels = stems or dict.fromkeys(heads, _input_channels(raw, is_plain))
    dataset_json, notes = _dataset_json(raw, heads, max(channels.values()))
    sources = dict(zip(dataset_json[SECTION], heads, strict=True))
    first = next(iter(heads))
    single = _architecture(replace(raw, state=_of_one_head(raw.state, first, is_plain)), is_plain)
    if raw.dataset is not None:
        chosen = chosen_head(raw.dataset, sources)
        state = _of_one_head(raw.state, chosen, is_plain)
        source = next(source for source, head in sources.items() if head == chosen)
        labels = source_heads(PartialLabels.from_dataset_json(dataset_json))[source].labels
        return Translation(
            state,
            single,
            channels[chosen],
            heads[chosen],
            plans=_plans_of(raw, chosen),
            dataset_json={
                **{key: value for key, value in dataset_json.items() if key not in (SECTION, "regions_class_order")},
                "channel_names": dict(list(dataset_json["channel_names"].items())[: channels[chosen]]),
                "labels": {name.removeprefix(f"{source}/"): value for name, value in labels.items()},
            },
            notes=notes,
        )
    network = MultiHeadPlainConvUNet if is_plain else MultiHeadResidualEncoderUNet
    architecture = replace(
        single,
        class_path=f"{network.__module__}.{network.__name__}",
        arguments={**single.arguments, "heads": heads, "stems": stems},
    )
    return Translation(
        raw.state,
        architecture,
        max(channels.values()),
        len(channel_names(dataset_json["labels"])),
        dataset_json=dataset_json,
        head_plans={head: plans for head in heads if (plans := _plans_of(raw, head)) is not None},
        notes=notes,
    )


def single_architecture(checkpoint: Checkpoint) -> Architecture:
    """nnU-Net's own class for the network of one head, from a checkpoint of all heads."""
    architecture = checkpoint.architecture
    is_plain = architecture.class_path.endswith(MultiHeadPlainConvUNet.__name__)
    arguments = {name: value for name, value in architecture.arguments.items() if name not in ("heads", "stems")}
    return replace(architecture, class_path=_single_class(is_plain), arguments=arguments)


def weights_of_one_head(checkpoint: Checkpoint, head: str) -> dict[str, Tensor]:
    """The weights of nnU-Net's own class with the stem and the head of one dataset, from a checkpoint of all heads."""
    is_plain = checkpoint.architecture.class_path.endswith(MultiHeadPlainConvUNet.__name__)
    return _of_one_head(checkpoint.network_state, head, is_plain)


def chosen_head(dataset: str | int, sources: Mapping[str, str]) -> str:
    """The head that is meant by its name, by that of its source, or by the ID of its dataset.

    Args:
        dataset: As given.
        sources: Name of each source to its head.

    Raises:
        UserError: There is none, or the dataset has several.
    """
    parts = heads_called(dataset, sources)
    if len(parts) != 1:
        found = f"its parts are {', '.join(parts)}" if parts else f"the heads are {', '.join(sources)}"
        raise UserError(f"Expected one head of the network for {str(dataset)!r:.100}, but {found}; choose one.")
    return parts[0]


def _heads(raw: RawCheckpoint) -> dict[str, int]:
    """Name of each head to its outputs."""
    shapes: dict[str, dict[int, dict[str, tuple[int, ...]]]] = {}
    for name in raw.state:
        if not name.startswith(_HEADS):
            continue
        match = _HEAD_NAME.fullmatch(name)
        if match is None:
            raise UserError(
                f"Expected heads of datasets with IDs of at least three digits, such as 003 or 351_0, in {raw.path}, "
                f"but found {name!r:.100}; take another file."
            )
        shapes.setdefault(match[1], {}).setdefault(int(match[2]), {})[match[3]] = raw.shape(name)
    levels = raw.indices("decoder.stages.")
    heads = {}
    for head, per_level in shapes.items():
        found = {shape[0] for parts in per_level.values() for shape in parts.values()}
        complete = sorted(per_level) == levels and all(len(parts) == 2 for parts in per_level.values())
        if not complete or len(found) != 1 or found == {1}:
            raise UserError(
                f"Expected weight and bias of {len(levels)} levels with equally many outputs, at least 2, for the head "
                f"{head} in {raw.path}, but found levels {sorted(per_level)} with {sorted(found)}; take another file."
            )
        heads[head] = found.pop()
    return heads


def _stems(raw: RawCheckpoint) -> dict[str, int] | None:
    """Name of each stem to its image channels; None for a shared one."""
    names = {name: _STEM_NAME.fullmatch(name) for name in raw.state if name.startswith(_STEM)}
    stems = {
        match[1]: raw.shape(name)[1] for name, match in names.items() if match and match[2] == "convs.0.conv.weight"
    }
    strange = [name for name, match in names.items() if match is None]
    if stems and strange:
        raise UserError(f"Expected stems of datasets in {raw.path}, but found {strange[0]!r:.100}; take another file.")
    return stems or None


def _of_one_head(state: Mapping[str, Tensor], head: str, is_plain: bool) -> dict[str, Tensor]:
    """The weights of nnU-Net's own class with one stem and one head."""
    own: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if match := _HEAD_NAME.fullmatch(name):
            if match[1] == head:
                own[f"{_HEADS}{match[2]}.{match[3]}"] = tensor
        elif match := _STEM_NAME.fullmatch(name):
            if match[1] == head:
                own[f"{_STEM}{match[2]}"] = tensor
        else:
            own[name] = tensor
    return _with_shared_stem_in_first_stage(own) if is_plain else own


def _with_shared_stem_in_first_stage(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """nnU-Net's plain encoder has no stem but the first convolution of its first stage."""
    if not any(name.startswith(f"{_STEM}convs.0.") for name in state):
        return dict(state)
    first = "encoder.stages.0.0.convs."
    renamed = {}
    for name, tensor in state.items():
        if name.startswith(first):
            number, _, rest = name.removeprefix(first).partition(".")
            name = f"{first}{int(number) + 1}.{rest}"
        renamed[name.replace(f"{_STEM}convs.0.", f"{first}0.")] = tensor
    return renamed


def _architecture(single: RawCheckpoint, is_plain: bool) -> Architecture:
    """nnU-Net's own class as the plans describe it, or as the weights do."""
    configuration = single.configuration_plans()
    if configuration is not None:
        planned = Architecture.from_plans(configuration)
        arguments = {name: value for name, value in planned.arguments.items() if name not in ("heads", "stems")}
    else:
        planned = (unet_translation if is_plain else resenc_translation)(single).architecture
        arguments = dict(planned.arguments)
    return replace(planned, class_path=_single_class(is_plain), arguments=arguments)


def _single_class(is_plain: bool) -> str:
    return _SINGLE + ("PlainConvUNet" if is_plain else "ResidualEncoderUNet")


def _input_channels(raw: RawCheckpoint, is_plain: bool) -> int:
    stem = "encoder.stages.0.0.convs.0.conv.weight" if is_plain else f"{_STEM}convs.0.conv.weight"
    return raw.shape(stem)[1]


def _plans_of(raw: RawCheckpoint, head: str) -> dict[str, Any] | None:
    """How the dataset of a head is preprocessed, where that lies beside the checkpoint."""
    file = _beside(raw, f"{head}_plans.json")
    if file is None:
        return None
    plans: dict[str, Any] = read_json(file, PLANS)
    check_plans(plans, file, to_run=False)
    return plans


def _beside(raw: RawCheckpoint, name: str) -> Path | None:
    folders = [raw.path.parent, *([raw.path.parent.parent] if raw.path.parent.name.startswith("fold_") else [])]
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _dataset_json(raw: RawCheckpoint, heads: Mapping[str, int], channels: int) -> tuple[dict[str, Any], list[str]]:
    """A collection whose sources are the heads, and what is to be said of their names."""
    if raw.dataset_json is not None and SECTION in raw.dataset_json:
        named = [head.outputs for head in source_heads(PartialLabels.from_dataset_json(raw.dataset_json)).values()]
        if named != list(heads.values()):
            raise UserError(
                f"Expected sources with {', '.join(map(str, heads.values()))} exclusive classes (with background) in "
                f"the dataset.json of {raw.path}, as the heads have, but found {', '.join(map(str, named))}."
            )
        return raw.dataset_json, []
    labels: dict[str, Any] = {BACKGROUND: 0}
    sources, endings, unnamed = {}, set(), []
    for head, outputs in heads.items():
        file = _beside(raw, f"{head}_dataset.json")
        content = read_dataset_json(file) if file is not None else None
        names = _names(content["labels"], outputs) if content is not None else None
        if names is None:
            unnamed.append(head)
            names = [str(number) for number in range(1, outputs)]
        classes = [f"{head}/{name}" for name in names]
        labels |= {name: [value, value] for value, name in enumerate(classes, len(labels))}
        sources[head] = {"classes": classes, "cases": []}
        endings.add((content or {}).get("file_ending", ".nii.gz"))
    notes = []
    if unnamed:
        notes.append(
            f"the classes of {', '.join(unnamed)} are numbered: no <ID>_dataset.json beside the file names as many as "
            "the head has"
        )
    return {
        "channel_names": {str(channel): f"channel_{channel}" for channel in range(channels)},
        "labels": labels,
        "regions_class_order": list(range(1, len(labels))),
        "numTraining": 0,
        "file_ending": endings.pop() if len(endings) == 1 else ".nii.gz",
        SECTION: sources,
    }, notes


def _names(labels: Mapping[str, Any], outputs: int) -> list[str] | None:
    """Classes in the order of the outputs; None where they are not as many.

    The published trainer counts an ignore label as one more class. Label values of a dataset that is cut into parts
    begin with any number.
    """
    if any(isinstance(value, list | tuple) for value in labels.values()):
        return None
    values = {name: value for name, value in labels.items() if value != 0}
    if len(values) > outputs - 1:
        values.pop(IGNORE, None)
    names = sorted(values, key=values.__getitem__)
    return names if len(set(values.values())) == len(names) == outputs - 1 else None


FORMAT = CheckpointFormat(
    name="multitalent_v2",
    description="MultiTalent for nnU-Net v2 (a head per dataset), and what is trained in its way",
    recognises=_recognises,
    translate=_translate,
)
