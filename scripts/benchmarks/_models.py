"""Model folders with small or full networks, for the benchmarks of prediction beside this file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import SimpleITK
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunetv2_ext.architectures.stunet import STUNET_SIZES
from nnunetv2_ext.inference.model.folder import Model
from nnunetv2_ext.labels.channels import channel_names

CONFIGURATION = "benchmark"
_CT = {"mean": 0.0, "std": 400.0, "percentile_00_5": -1000.0, "percentile_99_5": 1200.0}


def plans_of(patch_size: Sequence[int], spacing: Sequence[float], architecture: dict[str, Any]) -> dict[str, Any]:
    """Plans as nnU-Net makes them for CT, for a STU-Net with the arguments given."""
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch_size),
        "spacing": list(spacing),
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "architecture": {
            "network_class_name": "nnunetv2_ext.architectures.stunet.STUNet",
            "arch_kwargs": architecture,
            "_kw_requires_import": [],
        },
    }
    return {
        "dataset_name": "Dataset001_Benchmark",
        "plans_name": CONFIGURATION,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": _CT},
        "configurations": {CONFIGURATION: configuration},
    }


def dataset_json_of(classes: int, *, regions: bool = False) -> dict[str, Any]:
    """A dataset.json with classes beside the background, as softmax labels or as regions."""
    values = {f"class {value}": [value, value] if regions else value for value in range(1, classes + 1)}
    return {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **values},
        "regions_class_order": list(range(1, classes + 1)),
        "file_ending": ".nii.gz",
    }


def write_model_folder(
    folder: Path,
    plans: dict[str, Any],
    dataset_json: dict[str, Any],
    *,
    folds: Sequence[int] = (0,),
    prepare: Callable[[nn.Module], None] = lambda network: None,
    mirror_axes: Sequence[int] | None = None,
) -> Path:
    """Writes what stock nnU-Net writes after a training; ``prepare`` may train the network before it is saved."""
    folder.mkdir()
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    configuration = PlansManager(plans).get_configuration(CONFIGURATION)
    for fold in folds:
        torch.manual_seed(fold)
        network = build_network(configuration, len(channel_names(dataset_json["labels"])))
        prepare(network)
        (folder / f"fold_{fold}").mkdir()
        content = {
            "network_weights": network.state_dict(),
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": CONFIGURATION, "fold": fold},
            "inference_allowed_mirroring_axes": mirror_axes,
        }
        torch.save(content, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def build_network(configuration: ConfigurationManager, outputs: int) -> nn.Module:
    """The network of a configuration, randomly initialised."""
    network: nn.Module = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        1,
        outputs,
        deep_supervision=False,
    )
    return network


def stock_predictor(model: Model, device: torch.device, *, mirroring: bool = True) -> nnUNetPredictor:
    """Stock nnU-Net's predictor with the weights of a model."""
    predictor = nnUNetPredictor(0.5, True, mirroring, device.type == "cuda", device, allow_tqdm=False)
    predictor.manual_initialization(
        build_network(model.configuration, model.labels.num_segmentation_heads),
        model.plans,
        model.configuration,
        [network.state_dict() for network in model.networks],
        model.dataset_json,
        "nnUNetTrainer",
        model.mirror_axes,
    )
    return predictor


def architecture_of(size: str) -> dict[str, Any]:
    """Arguments of a STU-Net of a published size, or of a ``tiny`` one."""
    strides = [[1] * 3] + [[2] * 3] * 5
    if size == "tiny":
        return {"features_per_stage": [4] * 4, "n_blocks_per_stage": [1] * 4, "strides": strides[:4]}
    published = STUNET_SIZES[size]
    return {
        "features_per_stage": list(published.features_per_stage),
        "n_blocks_per_stage": list(published.n_blocks_per_stage),
        "strides": strides,
    }


def resample_in_plane(source: Path, target: Path, spacing: float) -> None:
    """Writes an image with another spacing of its columns and rows, as large clinical scans have."""
    image = SimpleITK.ReadImage(str(source))
    x, y, z = image.GetSpacing()
    size = [round(image.GetWidth() * x / spacing), round(image.GetHeight() * y / spacing), image.GetDepth()]
    grid = SimpleITK.Image(size, image.GetPixelID())
    grid.SetSpacing((spacing, spacing, z))
    grid.SetOrigin(image.GetOrigin())
    grid.SetDirection(image.GetDirection())
    SimpleITK.WriteImage(SimpleITK.Resample(image, grid, SimpleITK.Transform(), SimpleITK.sitkLinear), str(target))
