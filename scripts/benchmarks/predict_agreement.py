"""Label maps of ``--mode accurate`` against stock nnU-Net's on real CTs, voxel by voxel.

Small STU-Nets, randomly initialised and trained for a short time, with softmax and with region outputs, one and two
folds, 3d_fullres and 2d; each predicts every CT with stock's ``nnUNetPredictor`` and with `Predictor`. Stock adds
windows up in float16, so voxels where two classes tie within its rounding may differ; ``agreement`` is what a user
would see, ``agreement_float32`` the same with stock's sums in float32.

    python scripts/benchmarks/predict_agreement.py FOLDER_WITH_CTS

The folder holds ``*/ct.nii.gz`` with label maps ``*/totalsegmentator_v2_labels.nii.gz`` for at least one of them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import SimpleITK
import torch
from _measure import report
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_ext.inference import Predictor
from nnunetv2_ext.inference.model import Model, read_model
from nnunetv2_ext.labels.channels import channel_names, has_regions

_CLASSES = 8
_SPACING = [4.0, 4.0, 4.0]
_CT = {"mean": 0.0, "std": 400.0, "percentile_00_5": -1000.0, "percentile_99_5": 1200.0}


def main() -> None:
    """Prints one line per kind of model and CT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="holds */ct.nii.gz")
    parser.add_argument("--iterations", type=int, default=60, help="training iterations of the trained models")
    arguments = parser.parse_args()
    scans = sorted(arguments.folder.rglob("ct.nii.gz"))
    labelled = next(scan for scan in scans if (scan.parent / "totalsegmentator_v2_labels.nii.gz").is_file())
    worst = 1.0
    with tempfile.TemporaryDirectory() as folder:
        for regions, dimension, trained in product((False, True), (3, 2), (False, True)):
            kind = f"{'regions' if regions else 'softmax'}_{dimension}d_{'trained' if trained else 'random'}"
            model = _write_models(Path(folder) / kind, regions, dimension, labelled if trained else None, arguments)
            for folds in ((0,), (0, 1)):
                for scan in scans:
                    worst = min(worst, _compare(model, folds, scan, kind))
    report("predict_agreement_worst", agreement=worst)


def _compare(folder: Path, folds: Sequence[int], scan: Path, kind: str) -> float:
    start = time.perf_counter()
    predictor = Predictor.from_model_folder(folder, folds=folds, device="cpu")
    ours = SimpleITK.GetArrayFromImage(predictor.predict(scan))
    ours_seconds = time.perf_counter() - start
    model = read_model(folder, folds)
    start = time.perf_counter()
    stock = _stock(model, scan)
    stock_seconds = time.perf_counter() - start
    with mock.patch.object(torch, "half", torch.float32):
        exact = _stock(model, scan)
    agreement = float((ours == stock).mean())
    report(
        "predict_agreement",
        model=kind,
        folds=len(folds),
        case=scan.parent.name,
        classes_found=len(np.unique(ours)),
        ours_s=ours_seconds,
        peer_s=stock_seconds,
        agreement=agreement,
        agreement_float32=float((ours == exact).mean()),
    )
    return agreement


def _stock(model: Model, scan: Path) -> np.ndarray:
    predictor = nnUNetPredictor(0.5, True, True, False, torch.device("cpu"), allow_tqdm=False)
    states = [network.state_dict() for network in model.networks]
    predictor.manual_initialization(
        get_network(model), model.plans, model.configuration, states, model.dataset_json, "", model.mirror_axes
    )
    preprocessor = model.configuration.preprocessor_class(verbose=False)
    data, _, properties = preprocessor.run_case([str(scan)], None, model.plans, model.configuration, model.dataset_json)
    logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data))
    return convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, model.plans, model.configuration, model.labels, properties
    )


def get_network(model: Model) -> torch.nn.Module:
    """A network of the model's architecture."""
    return get_network_from_plans(
        model.configuration.network_arch_class_name,
        model.configuration.network_arch_init_kwargs,
        model.configuration.network_arch_init_kwargs_req_import,
        1,
        model.labels.num_segmentation_heads,
        deep_supervision=False,
    )


def _write_models(
    folder: Path, regions: bool, dimension: int, labelled: Path | None, arguments: argparse.Namespace
) -> Path:
    """A model folder with two folds of a small STU-Net, trained where a labelled CT is given."""
    plans, dataset_json = _plans(dimension), _dataset_json(regions)
    folder.mkdir()
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    manager = PlansManager(plans)
    configuration = manager.get_configuration("tiny")
    for fold in (0, 1):
        torch.manual_seed(fold)
        network = get_network_from_plans(
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            [],
            1,
            len(channel_names(dataset_json["labels"])),
            deep_supervision=False,
        )
        if labelled is not None:
            _train(network, manager, dataset_json, labelled, arguments.iterations)
        (folder / f"fold_{fold}").mkdir()
        content = {
            "network_weights": network.state_dict(),
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": "tiny", "fold": fold},
            "inference_allowed_mirroring_axes": None,
        }
        torch.save(content, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def _dataset_json(regions: bool) -> dict[str, Any]:
    names = [f"class {value}" for value in range(1, _CLASSES + 1)]
    values = {name: [value, value] if regions else value for value, name in enumerate(names, 1)}
    return {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **values},
        "regions_class_order": list(range(1, _CLASSES + 1)),
        "file_ending": ".nii.gz",
    }


def _plans(dimension: int) -> dict[str, Any]:
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    return {
        "plans_name": "tiny",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": _CT},
        "configurations": {
            "tiny": {
                "preprocessor_name": "DefaultPreprocessor",
                "patch_size": [48] * dimension,
                "spacing": _SPACING[-dimension:],
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
                    "arch_kwargs": {
                        "features_per_stage": [8, 16, 32],
                        "n_blocks_per_stage": [1, 1, 1],
                        "strides": [[1] * dimension, [2] * dimension, [2] * dimension],
                    },
                    "_kw_requires_import": [],
                },
            }
        },
    }


def _train(
    network: torch.nn.Module, manager: PlansManager, dataset_json: dict[str, Any], scan: Path, iterations: int
) -> None:
    """Cross-entropy on random patches of one CT, its labels dealt out to a few classes."""
    configuration = manager.get_configuration("tiny")
    preprocessor = configuration.preprocessor_class(verbose=False)
    labels = scan.parent / "totalsegmentator_v2_labels.nii.gz"
    data, target, _ = preprocessor.run_case([str(scan)], str(labels), manager, configuration, dataset_json)
    image = torch.from_numpy(data)
    classes = torch.from_numpy(target[0].astype(np.int64)).clamp(min=0)
    classes = torch.where(classes > 0, (classes - 1) % _CLASSES + 1, 0)
    regions = has_regions(dataset_json["labels"])
    flat = len(configuration.patch_size) == 2
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    generator = np.random.default_rng(0)
    for _ in range(iterations):
        where = [slice(start, start + 48) for start in (generator.integers(0, size - 47) for size in classes.shape)]
        inputs, wanted = image[:, where[0], where[1], where[2]], classes[where[0], where[1], where[2]]
        if flat:
            inputs, wanted = inputs[0, ::8, None], wanted[::8]
        else:
            inputs, wanted = inputs[None], wanted[None]
        logits = network(inputs)
        if regions:
            masks = torch.stack([wanted == value for value in range(1, _CLASSES + 1)], 1).float()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, masks)
        else:
            loss = torch.nn.functional.cross_entropy(logits, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main()
