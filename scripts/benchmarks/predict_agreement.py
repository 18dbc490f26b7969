"""Label maps of ``--mode accurate`` against stock nnU-Net's on real CTs, voxel by voxel.

Small STU-Nets, randomly initialised and trained for a short time, with softmax and with region outputs, one and two
folds, 3d_fullres and 2d; each predicts every CT with stock's ``nnUNetPredictor`` and with `Predictor`. ``agreement`` is
what a user sees: both as they are, with windows added up in float16. ``agreement_float32`` compares ``--sums float32``
with stock whose sums are in float32, ``agreement_of_float32_with_stock`` with stock as it is.

    python scripts/benchmarks/predict_agreement.py FOLDER_WITH_CTS

The folder holds ``*/ct.nii.gz`` with label maps ``*/totalsegmentator_v2_labels.nii.gz`` for at least one of them.
"""

from __future__ import annotations

import argparse
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
from _models import CONFIGURATION, dataset_json_of, plans_of, stock_predictor, write_model_folder
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_ext.inference import Predictor
from nnunetv2_ext.inference.model.folder import Model, read_model
from nnunetv2_ext.labels.channels import has_regions

_CLASSES = 8
_PATCH = 48
_SPACING_MM = 4.0


def main() -> None:
    """Prints one line per kind of model and CT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="holds */ct.nii.gz")
    parser.add_argument("--iterations", type=int, default=60, help="training iterations of the trained models")
    parser.add_argument("--cases", type=int, default=3, help="how many CTs, the smallest first")
    parser.add_argument("--kinds", nargs="+", help="only these kinds of models, such as regions_2d_trained")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    scans = sorted(arguments.folder.rglob("ct.nii.gz"), key=lambda file: file.stat().st_size)
    labelled = next(scan for scan in scans if (scan.parent / "totalsegmentator_v2_labels.nii.gz").is_file())
    scans = scans[: arguments.cases]
    worst = 1.0
    with tempfile.TemporaryDirectory() as folder:
        for regions, dimension, trained in product((False, True), (3, 2), (False, True)):
            kind = f"{'regions' if regions else 'softmax'}_{dimension}d_{'trained' if trained else 'random'}"
            if arguments.kinds and kind not in arguments.kinds:
                continue
            model = _write_models(
                Path(folder) / kind, regions, dimension, labelled if trained else None, arguments.iterations
            )
            for folds in ((0,), (0, 1)):
                for scan in scans:
                    worst = min(worst, _compare(model, folds, scan, kind, arguments.device))
    report("predict_agreement_worst", agreement=worst)


def _compare(folder: Path, folds: Sequence[int], scan: Path, kind: str, device: str) -> float:
    start = time.perf_counter()
    ours = _ours(folder, folds, scan, "float16", device)
    ours_seconds = time.perf_counter() - start
    ours_exact = _ours(folder, folds, scan, "float32", device)
    model = read_model(folder, folds)
    start = time.perf_counter()
    stock = _stock(model, scan, device)
    stock_seconds = time.perf_counter() - start
    with mock.patch.object(torch, "half", torch.float32):
        exact = _stock(model, scan, device)
    agreement = float((ours == stock).mean())
    report(
        "predict_agreement",
        model=kind,
        folds=len(folds),
        case=scan.parent.name,
        device=device,
        classes_found=len(np.unique(ours)),
        ours_s=ours_seconds,
        peer_s=stock_seconds,
        agreement=agreement,
        different_voxels=int((ours != stock).sum()),
        agreement_float32=float((ours_exact == exact).mean()),
        agreement_of_float32_with_stock=float((ours_exact == stock).mean()),
    )
    return agreement


def _ours(folder: Path, folds: Sequence[int], scan: Path, sums: str, device: str) -> np.ndarray:
    predictor = Predictor.from_model_folder(folder, folds=folds, device=device, sums=sums)
    return SimpleITK.GetArrayFromImage(predictor.predict(scan))


def _stock(model: Model, scan: Path, device: str) -> np.ndarray:
    preprocessor = model.configuration.preprocessor_class(verbose=False)
    data, _, properties = preprocessor.run_case([str(scan)], None, model.plans, model.configuration, model.dataset_json)
    predictor = stock_predictor(model, torch.device(device))
    logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).cpu()
    return convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, model.plans, model.configuration, model.labels, properties
    )


def _write_models(folder: Path, regions: bool, dimension: int, labelled: Path | None, iterations: int) -> Path:
    """A model folder with two folds of a small STU-Net, trained where a labelled CT is given."""
    architecture = {
        "features_per_stage": [8, 16, 32],
        "n_blocks_per_stage": [1, 1, 1],
        "strides": [[1] * dimension, [2] * dimension, [2] * dimension],
    }
    plans = plans_of([_PATCH] * dimension, [_SPACING_MM] * dimension, architecture)
    dataset_json = dataset_json_of(_CLASSES, regions=regions)

    def train(network: torch.nn.Module) -> None:
        if labelled is not None:
            _train(network, PlansManager(plans), dataset_json, labelled, iterations)

    return write_model_folder(folder, plans, dataset_json, folds=(0, 1), prepare=train)


def _train(
    network: torch.nn.Module, manager: PlansManager, dataset_json: dict[str, Any], scan: Path, iterations: int
) -> None:
    """Cross-entropy on random patches of one CT, its labels dealt out to a few classes."""
    configuration = manager.get_configuration(CONFIGURATION)
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
        where = [
            slice(start, start + _PATCH)
            for start in (generator.integers(0, size - _PATCH + 1) for size in classes.shape)
        ]
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
