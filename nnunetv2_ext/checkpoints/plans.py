"""The gate for plans: what nnU-Net will import and call by the names in them is looked at first."""

from __future__ import annotations

import inspect
import os
import re
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from nnunetv2_ext.architectures.architecture import Architecture
from nnunetv2_ext.checkpoints.shapes import CT_STATISTICS, PLANS, TRAINED_CONFIGURATION, TRAINED_PLANS
from nnunetv2_ext.labels.dataset_json import image_channels
from nnunetv2_ext.utilities.class_paths import is_class_of
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.names import checked_name
from nnunetv2_ext.utilities.validation import anything, check, entries, list_of


def check_plans(plans: Any, source: Path | str, *, to_run: bool = True, to_train: bool = False) -> None:
    """Refuses plans that name anything but networks and nnU-Net's own normalisers, preprocessors, readers and so on.

    Args:
        plans: nnU-Net v2 plans, or a plan template; those from before nnU-Net 2.4 get the entry ``architecture``.
        source: Where they come from, for the error message.
        to_run: Whether data are prepared as the plans say, so that nnU-Net has to find what they name.
        to_train: Whether it also has to find the reader, by which the final validation writes label maps.

    Raises:
        UserError: They are no plans, or they name something else.
    """
    check(plans, PLANS, source)
    _complete(plans, source)
    _check_axes(plans, source)
    kinds = _kinds()
    not_needed = {"experiment_planner_used"} if to_train else {"experiment_planner_used", "image_reader_writer"}
    for section in (plans, *(resolve_configuration(plans, name) for name in plans["configurations"])):
        if "architecture" in section:
            Architecture.from_plans(section)
        for key, (package, is_kind) in kinds.items():
            named = section.get(key, [])
            for name in named if isinstance(named, list) else [named]:
                found = _find_in_nnunet(name, package)
                may_be_missing = not to_run or key in not_needed
                if not (may_be_missing if found is None else is_kind(found)):
                    raise UserError(
                        f"Expected the name of something in {package} that serves as {key} in {source}, but found "
                        f"{name!r:.200}; correct the plans, or install what brings it."
                    )


def _complete(plans: dict[str, Any], source: Path | str) -> None:
    """Lets nnU-Net say which network plans from before its version 2.4 mean."""
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

    for name, configuration in plans["configurations"].items():
        if "architecture" not in configuration and "UNet_class_name" in configuration:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    ConfigurationManager(configuration)
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                raise UserError(
                    f"Expected the configuration {name!r} of {source} to describe its network as nnU-Net did before "
                    f"version 2.4, but that is incomplete ({type(error).__name__}: {error}); take other plans."
                ) from error
    check(plans, PLANS, source)


def _check_axes(plans: Mapping[str, Any], source: Path | str) -> None:
    """Checks that everything that has a number per axis agrees on the axes."""
    forward = list(plans.get("transpose_forward", range(3)))
    inverse = sorted(range(3), key=forward.__getitem__)
    if sorted(forward) != [0, 1, 2] or list(plans.get("transpose_backward", inverse)) != inverse:
        raise UserError(
            f"Expected transpose_forward with each of 0, 1 and 2, and its inverse as transpose_backward, in {source}, "
            f"but found {forward} and {plans.get('transpose_backward')}; correct them."
        )
    for name in plans["configurations"]:
        configuration = resolve_configuration(plans, name, source)
        arguments = configuration.get("architecture", {}).get("arch_kwargs", {})
        of_axes = {key: configuration.get(key) for key in ("patch_size", "spacing", "patch_size_divisible_by")}
        for key in ("strides", "kernel_sizes"):
            stages = arguments.get(key)
            of_axes |= {f"{key}[{i}]": stage for i, stage in enumerate(stages if isinstance(stages, list) else ())}
        axes = {key: len(value) for key, value in of_axes.items() if isinstance(value, list | tuple)}
        if len(set(axes.values())) > 1:
            raise UserError(
                f"Expected as many numbers as axes everywhere in the configuration {name!r} of {source}, but found "
                f"{', '.join(f'{number} in {key}' for key, number in axes.items())}; correct them."
            )


def trained_configuration(
    plans: Mapping[str, Any], name: str, dataset_json: Mapping[str, Any], source: Path | str
) -> dict[str, Any]:
    """A configuration that a network was or is to be trained with, which leaves nothing open.

    Raises:
        UserError: Something is missing, or the channels of the dataset are not those of the plans.
    """
    check(plans, TRAINED_PLANS, source)
    where = f"the configuration {name!r} of {source}"
    configuration = check(resolve_configuration(plans, name), TRAINED_CONFIGURATION, where)
    channels = len(image_channels(dataset_json))
    per_channel = list_of(anything, channels, channels)
    check(configuration, entries(dict.fromkeys(("normalization_schemes", "use_mask_for_norm"), per_channel)), where)
    strides = configuration["architecture"]["arch_kwargs"].get("strides")
    patch_size = configuration["patch_size"]
    if isinstance(strides, list):
        factors = np.prod([np.broadcast_to(stride, len(patch_size)) for stride in strides], axis=0)
        if np.mod(patch_size, factors).any():
            raise UserError(
                f"Expected a patch size that the strides divide ({'x'.join(map(str, factors))}) in {where}, but found "
                f"{'x'.join(map(str, patch_size))}; correct it."
            )
    statistics = plans.get("foreground_intensity_properties_per_channel", {})
    for channel, scheme in enumerate(configuration["normalization_schemes"]):
        if scheme == "CTNormalization":
            shape = entries({str(channel): CT_STATISTICS}, needed=(str(channel),))
            check(statistics, shape, f"foreground_intensity_properties_per_channel of {source}")
    return cast(dict[str, Any], configuration)


def check_plans_names(plans: Mapping[str, Any], source: Path | str) -> None:
    """Refuses plans whose names, of which nnU-Net makes paths that it writes and deletes, are none.

    Raises:
        UserError: A name has other characters than `checked_name` admits.
    """
    named = [(key, plans.get(key)) for key in ("dataset_name", "plans_name")]
    for name, configuration in plans["configurations"].items():
        stages = configuration.get("next_stage")
        named += [("configurations", name)]
        named += [(key, configuration.get(key)) for key in ("data_identifier", "previous_stage")]
        named += [("next_stage", stage) for stage in (stages if isinstance(stages, list) else [stages])]
    for key, name in named:
        if name is not None:
            checked_name(name, f"{key!r} in {source}")


def first_configuration(plans: Mapping[str, Any]) -> str:
    """``3d_fullres`` if the plans have it, otherwise their first configuration."""
    configurations = plans["configurations"]
    return "3d_fullres" if "3d_fullres" in configurations else next(iter(configurations))


def resolve_configuration(plans: Mapping[str, Any], name: str, source: Path | str = "the plans") -> dict[str, Any]:
    """A configuration with everything it inherits, as nnU-Net's ``PlansManager`` resolves it.

    Raises:
        UserError: The configuration, or one it inherits from, does not exist, or they inherit from each other.
    """
    resolved: dict[str, Any] = {}
    visited: list[str] = []
    following: str | None = name
    while following is not None:
        if following in visited:
            raise UserError(
                f"The configurations {' -> '.join([*visited, following])} of {source} inherit from each other."
            )
        if following not in plans["configurations"]:
            raise UserError(
                f"Expected one of the configurations {', '.join(plans['configurations'])} of {source}, but got "
                f"{following!r}."
            )
        visited.append(following)
        resolved = {**plans["configurations"][following], **resolved}
        following = plans["configurations"][following].get("inherits_from")
    resolved.pop("inherits_from", None)
    return resolved


def _kinds() -> dict[str, tuple[str, Callable[[Any], bool]]]:
    """Entry of plans -> the package that nnU-Net searches for what it names, and how to tell that this is it."""
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
    from nnunetv2.preprocessing.normalization.default_normalization_schemes import ImageNormalization
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    classes = {
        "label_manager": ("nnunetv2.utilities.label_handling", LabelManager),
        "image_reader_writer": ("nnunetv2.imageio", BaseReaderWriter),
        "experiment_planner_used": ("nnunetv2.experiment_planning", ExperimentPlanner),
        "preprocessor_name": ("nnunetv2.preprocessing", DefaultPreprocessor),
        "normalization_schemes": ("nnunetv2.preprocessing.normalization", ImageNormalization),
    }
    functions = [f"resampling_fn_{of}" for of in ("data", "seg", "probabilities")]
    return {
        **{
            key: (package, partial(is_class_of, base=base, packages=(package,)))
            for key, (package, base) in classes.items()
        },
        **dict.fromkeys(functions, ("nnunetv2.preprocessing.resampling", _is_resampling)),
    }


def _find_in_nnunet(name: Any, package: str) -> Any:
    """What nnU-Net finds by a name: any attribute of any module of the package; None where there is none."""
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
        return object  # of none of the kinds
    return recursive_find_python_class(os.path.join(nnunetv2.__path__[0], *package.split(".")[1:]), name, package)


def _is_resampling(found: Any) -> bool:
    return (
        inspect.isfunction(found)
        and found.__module__.startswith("nnunetv2.preprocessing.resampling.")
        and list(inspect.signature(found).parameters)[:4] == ["data", "new_shape", "current_spacing", "new_spacing"]
    )
