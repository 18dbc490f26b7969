"""Writes a model folder as a MONAI bundle, which ``python -m monai.bundle run``, MONAI Label and 3D Slicer open.

The network is a TorchScript file in the bundle's order of axes (x, y, z): running it needs MONAI and torch, not this
package. The bundle's transforms come close to nnU-Net's preprocessing without equalling it: they normalise after
resampling instead of before, and bring the label map to the image's grid by nearest neighbour. A model that was
imported from a MONAI bundle becomes a bundle again that does what the first one did.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from nnunetv2_ext.inference.bundles.profile import BundleProfile, read_profile
from nnunetv2_ext.inference.model.folder import Model
from nnunetv2_ext.inference.preparing.nnunet import orientation_of
from nnunetv2_ext.model_export.formats import (
    CITATIONS,
    Plain,
    check_agreement,
    describe_model,
    example_window,
    read_single_fold,
    trace,
    window_shape,
)
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.extras import require_extra
from nnunetv2_ext.utilities.files import write_json
from nnunetv2_ext.utilities.folders import folder_under_construction

_SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
_METADATA, _INFERENCE, _NETWORK = _FILES = ("configs/metadata.json", "configs/inference.json", "models/model.ts")


def export_monai_bundle(
    model_folder: Path | str,
    target: Path | str,
    *,
    fold: str | int | None = None,
    checkpoint_name: str = "checkpoint_final.pth",
    overwrite: bool = False,
) -> Path:
    """Writes ``configs/metadata.json``, ``configs/inference.json`` and ``models/model.ts``.

    Args:
        model_folder: As nnU-Net and this package write them; 3D.
        target: The bundle's folder.
        fold: Which fold; the first one by default.
        checkpoint_name: Which checkpoint of the fold.
        overwrite: Replace an existing bundle.

    Returns:
        The folder.

    Raises:
        UserError: The model cannot be read or has no equivalent as a bundle, the folder exists, or the exported network
            does not agree with the original one.
    """
    target = Path(target)
    own = {target / name for name in _FILES}
    others = [file for file in target.rglob("*") if file not in own and not (file.is_dir() and not file.is_symlink())]
    if others:
        raise UserError(
            f"Expected an exported bundle or nothing at {target}, but it also holds {others[0].relative_to(target)}, "
            "which would be lost; choose another place."
        )
    with folder_under_construction(target, overwrite=overwrite, sources=[model_folder]) as new:
        require_extra("monai", "The format monai_bundle")
        model = read_single_fold(model_folder, fold, checkpoint_name)
        _refuse_what_a_bundle_cannot_say(model)
        metadata = _metadata(model)
        _refuse_expressions(metadata)
        window = example_window(model)
        (new / _NETWORK).parent.mkdir()
        traced = trace(InMonaisOrder(model.networks[0]), window.permute(0, 1, 4, 3, 2), new / _NETWORK)
        check_agreement(
            lambda image: traced(image.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2),
            model.networks[0],
            example_window(model, seed=1),
            target,
        )
        write_json(metadata, new / _METADATA)
        write_json(_inference(model), new / _INFERENCE)
    return target


class InMonaisOrder(Plain):
    """A network whose windows and logits have the axes (x, y, z)."""

    def forward(self, image: Tensor) -> Tensor:
        """Logits of a window."""
        logits: Tensor = self.network(image.permute(0, 1, 4, 3, 2))
        return logits.permute(0, 1, 4, 3, 2)


def _refuse_what_a_bundle_cannot_say(model: Model) -> None:
    problem = None
    if model.is_2d:
        problem = "a 2D network"
    elif list(model.plans.transpose_forward) != [0, 1, 2]:
        problem = f"plans that transpose axes ({model.plans.transpose_forward})"
    elif model.configuration.previous_stage_name:
        problem = "a second stage of a cascade"
    elif any(name not in ("CTNormalization", "ZScoreNormalization") for name in _schemes(model)):
        problem = f"the normalisation {', '.join(_schemes(model))}"
    elif model.image_channels > 1 and read_profile(model.folder) is not None:
        problem = f"the preprocessing of another bundle for {model.image_channels} image channels"
    if problem:
        raise UserError(
            f"Expected a 3D model in one stage for a MONAI bundle, but this one has {problem}; export it with --format "
            "torch_export."
        )


def _refuse_expressions(metadata: dict[str, Any]) -> None:
    """The metadata hold all that a model folder brings along; MONAI would evaluate ``$...`` and read ``%file``."""
    waiting: list[Any] = [metadata]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str) and value.startswith(("$", "@", "%", "_target_")):
            raise UserError(
                f"Expected plain text in the files of the model, but found {value!r:.100}, which MONAI would execute; "
                "correct it there."
            )
        waiting += (
            [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        )


def _schemes(model: Model) -> list[str]:
    return list(model.configuration.normalization_schemes)


def _preprocessing(model: Model, profile: BundleProfile | None) -> list[dict[str, Any]]:
    transforms: list[dict[str, Any]] = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureTyped", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
    ]
    spacing = model.configuration.spacing if profile is None else profile.spacing
    orientation = orientation_of(model) if profile is None else profile.orientation
    if orientation is not None:
        transforms.append({"_target_": "Orientationd", "keys": "image", "axcodes": orientation})
    if spacing is not None:
        pixdim = [float(value) for value in spacing][::-1]
        transforms.append({"_target_": "Spacingd", "keys": "image", "pixdim": pixdim, "mode": "bilinear"})
    if profile is not None:
        return transforms + [_intensity(rule) for rule in profile.intensity]
    if model.image_channels == 1:
        return [*transforms, _normalisation(model, 0, "image")]
    keys = [f"image_{channel}" for channel in range(model.image_channels)]
    return [
        *transforms,
        {"_target_": "SplitDimd", "keys": "image"},
        *(_normalisation(model, channel, key) for channel, key in enumerate(keys)),
        {"_target_": "ConcatItemsd", "keys": keys, "name": "image"},
        {"_target_": "DeleteItemsd", "keys": keys},
    ]


def _normalisation(model: Model, channel: int, key: str) -> dict[str, Any]:
    if _schemes(model)[channel] == "ZScoreNormalization":
        inside = bool(model.configuration.use_mask_for_norm[channel])
        return {"_target_": "NormalizeIntensityd", "keys": key, "nonzero": inside}
    statistics = model.plans.foreground_intensity_properties_per_channel[str(channel)]
    low, high = float(statistics["percentile_00_5"]), float(statistics["percentile_99_5"])
    mean, deviation = float(statistics["mean"]), max(float(statistics["std"]), 1e-8)
    return _clip_and_scale(low, high, (low - mean) / deviation, (high - mean) / deviation, key)


def _intensity(rule: Any) -> dict[str, Any]:
    if rule["name"] == "normalize_nonzero":
        return {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True}
    if rule["name"] == "scale":
        return {"_target_": "ScaleIntensityd", "keys": "image", "minv": rule["minimum"], "maxv": rule["maximum"]}
    return _clip_and_scale(*rule["from"], *rule["to"])


def _clip_and_scale(low: float, high: float, new_low: float, new_high: float, key: str = "image") -> dict[str, Any]:
    return {
        "_target_": "ScaleIntensityRanged",
        "keys": key,
        "a_min": low,
        "a_max": high,
        "b_min": new_low,
        "b_max": new_high,
        "clip": True,
    }


def _back_to_the_image(model: Model, profile: BundleProfile | None) -> list[dict[str, Any]]:
    """The decision, and the way to the image's grid; where a profile says so, probabilities go there first."""
    of_labels = profile is None or profile.inversion == "nearest_labels"
    decide: dict[str, Any] = {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}
    if model.labels.has_regions:
        # As nnU-Net decides: the classes that have a voxel are painted one over the other.
        values = list(map(int, model.labels.regions_class_order))
        paint = (
            "$functools.partial(lambda functools, torch, values, logits: functools.reduce("
            "lambda labels, one: torch.where(logits[one[0] : one[0] + 1] > 0, one[1], labels), enumerate(values), "
            f"torch.zeros_like(logits[:1])), functools, torch, {values})"
        )
        decide = {"_target_": "Lambdad", "keys": "pred", "func": paint}
    invert = {
        "_target_": "Invertd",
        "keys": "pred",
        "transform": "@preprocessing",
        "orig_keys": "image",
        "nearest_interp": of_labels,
        "to_tensor": True,
    }
    if of_labels:
        return [decide, invert]
    return [{"_target_": "Activationsd", "keys": "pred", "softmax": True}, invert, decide]


def _inference(model: Model) -> dict[str, Any]:
    profile = read_profile(model.folder)
    cases = "glob.glob(@dataset_dir + '/*.nii.gz')"
    if model.image_channels > 1:
        # nnU-Net's naming: case_0000.nii.gz, case_0001.nii.gz, ...
        files = f"[first[:-11] + format(channel, '04d') + '.nii.gz' for channel in range({model.image_channels})]"
        cases = f"[{files} for first in glob.glob(@dataset_dir + '/*_0000.nii.gz')]"
    return {
        "imports": ["$import functools", "$import glob", "$import numpy", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": f"$list(sorted({cases}))",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": "$torch.jit.load(@bundle_root + '/models/model.ts', map_location=@device)",
        "network": "$@network_def.eval()",
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(model, profile)},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': i} for i in @datalist]",
            "transform": "@preprocessing",
        },
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(window_shape(model)[:0:-1]),
            "sw_batch_size": 1,
            "overlap": profile.overlap if profile else 0.5,
            "mode": profile.blend if profile else "gaussian",
            "padding_mode": profile.padding if profile else "constant",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                *_back_to_the_image(model, profile),
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_postfix": "seg",
                    "output_dtype": "$numpy.uint16",
                    "separate_folder": False,
                },
            ],
        },
        # Instead of the engines of MONAI, which need pytorch-ignite.
        "segmentation": {
            "_target_": "Lambdad",
            "keys": "image",
            "func": (
                "$functools.partial(lambda inferer, network, device, image: "
                "inferer(image[None].to(device), network)[0], @inferer, @network, @device)"
            ),
            "overwrite": "pred",
        },
        "prediction": {"_target_": "Compose", "transforms": ["@segmentation", "@postprocessing"]},
        "run": ["$[None for _ in map(@prediction, @dataset)]"],
    }


def _metadata(model: Model) -> dict[str, Any]:
    import monai
    import numpy
    import torch

    description = describe_model(model)
    channels, of_ct = description["channel_names"], "CT" in description["channel_names"].values()
    size = list(window_shape(model)[:0:-1])
    tensor = {"type": "image", "spatial_shape": size, "dtype": "float32", "is_patch_data": True}
    return {
        "schema": _SCHEMA,
        "version": description["version"],
        "changelog": {description["version"]: "exported by nnUNetv2_ext_export"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": numpy.__version__,
        "required_packages_version": {"nibabel": "4.0.0"},
        "name": description["name"],
        "task": "CT segmentation" if of_ct else "image segmentation",
        "description": f"{description['name']}, trained with nnU-Net v2",
        "authors": "",
        "copyright": description["license"],
        "license": description["license"],
        "references": list(CITATIONS),
        "intended_use": "Research only.",
        "labels": description["labels"],
        "network_data_format": {
            "inputs": {
                "image": {
                    **tensor,
                    "format": "hounsfield" if of_ct else "magnitude",
                    "modality": "CT" if of_ct else "n/a",
                    "num_channels": model.image_channels,
                    "value_range": [],
                    "channel_def": channels,
                }
            },
            "outputs": {
                "pred": {
                    **tensor,
                    "format": "segmentation",
                    "num_channels": len(model.class_names),
                    "value_range": [],
                    "channel_def": {str(channel): name for channel, name in enumerate(model.class_names)},
                }
            },
        },
        "nnunetv2_ext": description,
    }
