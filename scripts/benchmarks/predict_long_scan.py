"""Memory of predicting a long scan: 600 planes of 512 x 512 with 105 classes, from file to file, by a tiny network.

Least memory: the image in float32 (630 MB) as it is read, and once more as the network sees it; a label map (157 MB);
and the logits of one window's depth of planes (105 x 16 x 512 x 512 x 4 bytes = 1.8 GB at a depth of 16). Stock nnU-Net
holds all logits in float16, 105 x 600 x 512 x 512 x 2 bytes = 33 GB, and as much again where it converts them.
``--stock`` runs it too, on machines that have this; otherwise ``peer_peak_mb`` is those 33 GB. (With ``--step 1``, the
default here to save time, stock's float16 weights vanish in the corners of windows, so its labels differ there.)

    python scripts/benchmarks/predict_long_scan.py [--planes 600] [--edge 512] [--stock]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK
import torch
from _measure import report
from _models import dataset_json_of, plans_of, stock_predictor, write_model_folder
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from scipy.ndimage import zoom

from nnunetv2_ext.inference.batch import Batch, BatchOptions
from nnunetv2_ext.inference.model import read_model
from nnunetv2_ext.inference.predictor import Predictor
from nnunetv2_ext.inference.report import StageClock

_CLASSES = 105
_PATCH = (16, 128, 128)


def main() -> None:
    """Prints one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--planes", type=int, default=600)
    parser.add_argument("--edge", type=int, default=512, help="voxels along x and y")
    parser.add_argument("--step", type=float, default=1.0, help="step of the windows")
    parser.add_argument("--stock", action="store_true", help="run stock nnU-Net too")
    arguments = parser.parse_args()
    architecture = {
        "features_per_stage": [4, 4],
        "n_blocks_per_stage": [1, 1],
        "strides": [[1, 1, 1], [2, 2, 2]],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plans = plans_of(_PATCH, (1.0, 0.8, 0.8), architecture)
        model = write_model_folder(folder / "model", plans, dataset_json_of(_CLASSES - 1))
        image = folder / "long_0000.nii.gz"
        _write_scan(image, (arguments.planes, arguments.edge, arguments.edge))
        clock = StageClock()
        start = time.perf_counter()
        predictor = Predictor.from_model_folder(model, device="cpu", step_size=arguments.step)
        options = BatchOptions(preparing_workers=0, finishing_workers=0, progress_bar=False)
        outcome = Batch(predictor, image, folder / "map.nii.gz", options, clock).run()
        seconds = time.perf_counter() - start
        labels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / "map.nii.gz")))
        peak = max(stage["peak_memory_mb"] for stage in clock.totals().values())
        del predictor
        stock_peak, agreement = _CLASSES * labels.size * 2 / 1e6, None
        if arguments.stock:
            stock_peak, stock = _stock(model, image, folder / "stock", arguments.step)
            agreement = float((labels == stock).mean())
        report(
            "predict_long_scan",
            shape=list(labels.shape),
            failures=len(outcome.failures),
            classes_found=len(np.unique(labels)),
            ours_s=seconds,
            ours_peak_mb=peak,
            peer_peak_mb=stock_peak,
            peer_was_run=arguments.stock,
            ratio=peak / stock_peak,
            agreement=agreement,
            stages=clock.totals(),
        )


def _stock(model: Path, image: Path, target: Path, step_size: float) -> tuple[float, np.ndarray]:
    parts = read_model(model)
    predictor = stock_predictor(parts, torch.device("cpu"))
    predictor.tile_step_size = step_size
    with StageClock() as clock, clock.stage("stock", "case"):
        preprocessor = parts.configuration.preprocessor_class(verbose=False)
        data, _, properties = preprocessor.run_case(
            [str(image)], None, parts.plans, parts.configuration, parts.dataset_json
        )
        logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).numpy()
        export_prediction_from_logits(
            logits, properties, parts.configuration, parts.plans, parts.dataset_json, str(target)
        )
    labels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(f"{target}.nii.gz"))
    return clock.totals()["stock"]["peak_memory_mb"], labels


def _write_scan(target: Path, shape: tuple[int, int, int]) -> None:
    """Smooth random tissue, made coarse and enlarged."""
    coarse = np.random.default_rng(0).normal(0, 300, [max(2, size // 16) for size in shape]).astype(np.float32)
    fine = zoom(coarse, [new / old for new, old in zip(shape, coarse.shape, strict=True)], order=1)
    image = SimpleITK.GetImageFromArray(fine.astype(np.int16))
    image.SetSpacing((0.8, 0.8, 1.0))
    SimpleITK.WriteImage(image, str(target))


if __name__ == "__main__":
    main()
