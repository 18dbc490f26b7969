"""Whole predictions, from file to file, against stock nnU-Net in the same process.

Real CTs, resampled in plane as large clinical scans are, are predicted by a STU-Net with 118 outputs with random
weights: by stock's ``nnUNetPredictor`` (``nnUNetv2_predict`` without its processes) and by each mode of
``nnUNetv2_ext_predict``. One JSON line per CT and mode; ``rest`` is all but the network.

Least work beside the network, for one CT of n voxels at 1.5 mm and m voxels in the file: reading and writing m voxels,
resampling the image once (about 64 multiply-adds per voxel for cubic splines), and deciding one label per voxel of the
file from 118 x n logits, which must be read once.

    python scripts/benchmarks/predict_end_to_end.py FOLDER_WITH_CTS [--size S|tiny] [--device cuda] [--compile]

On a CPU the network dominates; ``--size tiny`` shows the rest without waiting for it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
import torch
from _measure import report
from _models import (
    architecture_of,
    dataset_json_of,
    plans_of,
    resample_in_plane,
    stock_predictor,
    write_model_folder,
)
from nnunetv2.inference.export_prediction import export_prediction_from_logits

from nnunetv2_ext.architectures.stunet import STUNET_SIZES
from nnunetv2_ext.inference.model.folder import read_model
from nnunetv2_ext.inference.prediction_run import PredictionOptions, PredictionRun
from nnunetv2_ext.inference.predictor import Predictor
from nnunetv2_ext.inference.reporting.report import StageClock, resident_memory_mb


def main() -> None:
    """Prints one line per CT and mode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="holds */ct.nii.gz")
    parser.add_argument("--size", choices=(*STUNET_SIZES, "tiny"), default="S", help="size of the STU-Net")
    parser.add_argument("--classes", type=int, default=118, help="outputs, background included")
    parser.add_argument("--in_plane", type=float, default=0.8, help="spacing in plane that CTs are resampled to, mm")
    parser.add_argument("--spacing", type=float, default=1.5, help="spacing of the network, mm")
    parser.add_argument("--patch", type=int, default=96, help="edge of a window, voxels")
    parser.add_argument("--modes", nargs="+", default=["accurate", "fast", "fastest"])
    parser.add_argument("--mirroring", action="store_true", help="mirror in accurate and stock (eight passes)")
    parser.add_argument("--cases", type=int, default=3, help="how many CTs")
    parser.add_argument("--backend", default="torch", help="backend of the modes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile in both")
    arguments = parser.parse_args()
    if arguments.compile:
        os.environ["nnUNet_compile"] = "true"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = write_model_folder(
            folder / "model",
            plans_of([arguments.patch] * 3, [arguments.spacing] * 3, architecture_of(arguments.size)),
            dataset_json_of(arguments.classes - 1),
            mirror_axes=(0, 1, 2) if arguments.mirroring else None,
        )
        for scan in sorted(arguments.folder.rglob("ct.nii.gz"))[: arguments.cases]:
            image = folder / f"{scan.parent.name}_0000.nii.gz"
            resample_in_plane(scan, image, arguments.in_plane)
            _compare(model, image, folder, arguments)


def _compare(model: Path, image: Path, folder: Path, arguments: argparse.Namespace) -> None:
    device = torch.device(arguments.device)
    of_stock = folder / f"stock_{image.name.removesuffix('_0000.nii.gz')}"
    peer, peer_mb = _measured(lambda clock: _stock(model, image, of_stock, device, clock), device)
    stock = _voxels(of_stock / "case.nii.gz")
    for mode in arguments.modes:
        target = folder / mode / image.name
        predictor = Predictor.from_model_folder(model, mode=mode, device=arguments.device, backend=arguments.backend)

        def ours(clock: StageClock, predictor: Predictor = predictor, target: Path = target) -> None:
            options = PredictionOptions(preparing_workers=0, finishing_workers=0, progress_bar=False)
            PredictionRun(predictor, image, target, options, clock).run()

        seconds, ours_mb = _measured(ours, device)
        peer_rest, ours_rest = peer["total"] - peer["network"], seconds["total"] - seconds["network"]
        report(
            "predict_end_to_end",
            case=image.name.removesuffix("_0000.nii.gz"),
            shape=list(stock.shape),
            size=arguments.size,
            mode=mode,
            backend=predictor.backend,
            ours_s=seconds["total"],
            peer_s=peer["total"],
            ratio=seconds["total"] / peer["total"],
            ours_rest_s=ours_rest,
            peer_rest_s=peer_rest,
            rest_ratio=ours_rest / peer_rest,
            ours_stages=seconds,
            peer_stages=peer,
            ours_peak_mb=ours_mb,
            peer_peak_mb=peer_mb,
            agreement=float((_voxels(target) == stock).mean()),
        )


def _stock(model: Path, image: Path, target: Path, device: torch.device, clock: StageClock) -> None:
    target.mkdir()
    parts = read_model(model)
    predictor = stock_predictor(parts, device)
    preprocessor = parts.configuration.preprocessor_class(verbose=False)
    with clock:
        with clock.stage("preprocessing", "case"):
            data, _, properties = preprocessor.run_case(
                [str(image)], None, parts.plans, parts.configuration, parts.dataset_json
            )
        with clock.stage("network", "case"):
            logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).cpu().numpy()
        with clock.stage("export", "case"):
            export_prediction_from_logits(
                logits, properties, parts.configuration, parts.plans, parts.dataset_json, str(target / "case")
            )


def _measured(function: Callable[[StageClock], Any], device: torch.device) -> tuple[dict[str, float], float]:
    """Seconds per stage and in total, and the peak memory above the start in MB (of the GPU, on a GPU)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = resident_memory_mb()
    start = time.perf_counter()
    clock = StageClock()
    function(clock)
    stages = clock.totals()
    seconds = {name: figures["seconds"] for name, figures in stages.items()}
    seconds["total"] = round(time.perf_counter() - start, 3)
    peak = max(figures["peak_memory_mb"] for figures in stages.values()) - before
    return seconds, torch.cuda.max_memory_allocated() / 1e6 if device.type == "cuda" else peak


def _voxels(file: Path) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file)))


if __name__ == "__main__":
    main()
