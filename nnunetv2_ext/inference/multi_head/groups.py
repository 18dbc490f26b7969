"""The heads of a model, and which of them one pass of the network serves: those of equal stem and preprocessing."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_ext.architectures.multi_head import MultiHead, heads_called
from nnunetv2_ext.checkpoints.model_folder import head_plans_name
from nnunetv2_ext.checkpoints.plans import check_plans, trained_configuration
from nnunetv2_ext.inference.deciding.outputs import OutputMap, OutputPlan
from nnunetv2_ext.inference.model.folder import Model
from nnunetv2_ext.labels.dataset_json import image_channels
from nnunetv2_ext.labels.partial_labels import PartialLabels
from nnunetv2_ext.labels.source_heads import SourceHead, source_heads
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json

#: Schemes that look at nothing but the image itself.
_SELF_CONTAINED = {"ZScoreNormalization", "NoNormalization", "RescaleTo01Normalization", "RGBTo01Normalization"}


@dataclass(frozen=True)
class HeadGroup:
    """Heads that see the same input.

    Attributes:
        heads: Names, in the order of the network.
        outputs: Outputs of each.
        model: Networks of these heads, with the plans that their images are preprocessed by.
    """

    heads: tuple[str, ...]
    outputs: tuple[int, ...]
    model: Model


def has_heads(model: Model) -> bool:
    """Whether the networks have a head per source."""
    return isinstance(model.networks[0], MultiHead)


def heads_of_sources(model: Model) -> dict[str, tuple[str, SourceHead]]:
    """Source to the name of its head and what its outputs stand for, in the order of both.

    Raises:
        UserError: The dataset.json does not describe the heads of the network.
    """
    network: Any = model.networks[0]
    described = source_heads(PartialLabels.from_dataset_json(model.dataset_json))
    outputs = [head.outputs for head in described.values()]
    if outputs != list(network.heads.values()):
        raise UserError(
            f"Expected sources with {', '.join(map(str, network.heads.values()))} exclusive classes (with background) "
            f"in {model.folder / 'dataset.json'}, as the heads have, but found {', '.join(map(str, outputs))}; the "
            "folder mixes two models."
        )
    return {source: (name, head) for name, (source, head) in zip(network.heads, described.items(), strict=True)}


def chosen_sources(model: Model, wanted: Iterable[str] | None) -> list[str]:
    """The sources whose heads are to be predicted, in the order of the network.

    Args:
        model: With a head per source.
        wanted: Names of sources or heads, or IDs of datasets, which may have several heads; None for all.

    Raises:
        UserError: There is no such head, or the heads see images of different numbers of channels.
    """
    names = {source: head for source, (head, _) in heads_of_sources(model).items()}
    chosen = set(names.values())
    if wanted is not None:
        found = {each: heads_called(each, names) for each in wanted}
        unknown = [each for each, heads in found.items() if not heads]
        if unknown or not found:
            raise UserError(
                f"Expected heads of the model ({', '.join(names)}), but got {', '.join(unknown) or 'none'}; choose "
                "others with --heads."
            )
        chosen = {head for heads in found.values() for head in heads}
    network: Any = model.networks[0]
    channels: dict[int, list[str]] = {}
    for source, head in names.items():
        if head in chosen and network.stems is not None:
            channels.setdefault(network.stems[head], []).append(source)
    if len(channels) > 1:
        kinds = "; ".join(f"{number} of {', '.join(sources)}" for number, sources in sorted(channels.items()))
        raise UserError(
            f"Expected heads that see images of one number of channels, but they have {kinds}; choose some with "
            "--heads."
        )
    return [source for source, head in names.items() if head in chosen]


def model_of_sources(model: Model, sources: Collection[str]) -> Model:
    """The model, with a dataset.json of the image channels that these sources see."""
    network: Any = model.networks[0]
    if network.stems is None:
        return model
    heads = heads_of_sources(model)
    return replace(model, dataset_json=_with_channels(model, network.stems[heads[next(iter(sources))][0]]))


def group_heads(model: Model, heads: Collection[str]) -> list[HeadGroup]:
    """Puts heads of equal stem and preprocessing together.

    Args:
        model: With a head per source.
        heads: Names of those that are needed.

    Raises:
        UserError: The plans of a head do not fit its stem.
    """
    groups: dict[str, list[str]] = {}
    models: dict[str, Model] = {}
    network: Any = model.networks[0]
    for head in (name for name in network.heads if name in heads):
        own = _preprocessed_for(model, head)
        key = json.dumps([None if network.stems is None else head, _preprocessing(own)], sort_keys=True)
        groups.setdefault(key, []).append(head)
        models[key] = own
    return [
        HeadGroup(
            tuple(names),
            tuple(network.heads[name] for name in names),
            replace(models[key], networks=[each.single(*names) for each in _multi_head(model)]),
        )
        for key, names in groups.items()
    ]


def head_of_classes(model: Model, classes: Iterable[str]) -> tuple[Model, OutputPlan, tuple[int]]:
    """The head that has these classes, and a map of them in the values of the collection.

    Args:
        model: With a head per source.
        classes: Of one source.

    Returns:
        The model with this head alone, the map, and the outputs of the head.

    Raises:
        UserError: No source has them all.
    """
    wanted = set(classes)
    for name, head in heads_of_sources(model).values():
        if wanted <= set(head.regions):
            painted = {label: model.painted_values[label] for label in wanted}
            paint = tuple((output, value) for output, value in enumerate(head.painted(painted)) if value)
            plan = OutputPlan("merged", None, (OutputMap("", {v: label for label, v in painted.items()}, paint),))
            return (
                replace(model, networks=[network.single(name) for network in _multi_head(model)]),
                plan,
                (head.outputs,),
            )
    raise UserError(f"Expected classes of one source of the model, but got {', '.join(sorted(wanted))}.")


def _multi_head(model: Model) -> list[MultiHead]:
    return [network for network in model.networks if isinstance(network, MultiHead)]


def _preprocessed_for(model: Model, head: str) -> Model:
    """The model with the plans of a head, where it has its own, and a dataset.json of its channels."""
    stems = _multi_head(model)[0].stems
    dataset_json = model.dataset_json if stems is None else _with_channels(model, stems[head])
    file = model.folder / head_plans_name(head)
    if not file.is_file():
        return replace(model, dataset_json=dataset_json)
    content = read_json(file)
    check_plans(content, file)
    if len(content["configurations"]) != 1:
        raise UserError(f"Expected one configuration in {file}, but found {', '.join(content['configurations'])}.")
    (name,) = content["configurations"]
    trained_configuration(content, name, dataset_json, file)
    plans = PlansManager(content)
    return replace(
        model,
        plans=plans,
        configuration=plans.get_configuration(name),
        dataset_json=dataset_json,
        labels=plans.get_label_manager(dataset_json),
    )


def _with_channels(model: Model, number: int) -> dict[str, Any]:
    names = image_channels(model.dataset_json)
    return {**model.dataset_json, "channel_names": dict(zip(map(str, range(number)), names, strict=False))}


def _preprocessing(model: Model) -> Mapping[str, Any]:
    """All that decides about what the network sees, and about the way back."""
    plans, configuration = model.plans.plans, model.configuration.configuration
    keys = [key for key in configuration if key.startswith("resampling_fn")]
    keys += ["spacing", "patch_size", "normalization_schemes", "use_mask_for_norm", "preprocessor_name"]
    what = {key: configuration.get(key) for key in keys}
    what |= {key: plans[key] for key in ("image_reader_writer", "transpose_forward", "transpose_backward")}
    if not set(configuration["normalization_schemes"]) <= _SELF_CONTAINED:
        what["statistics"] = plans.get("foreground_intensity_properties_per_channel")
    return what
