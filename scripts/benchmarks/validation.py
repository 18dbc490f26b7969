"""The final validation of a training, stock nnU-Net's against ours, each in a process of its own.

One preprocessed CT with 105 classes, a tiny network with random weights (noise, which is the worst case for deciding
labels). ``network`` is the sliding window, windows added up included; ``after`` is what follows it until the label map
is written; ``evaluation`` is nnU-Net's own metrics in both. Memory is that of the process with its workers, above what
it took before the validation.

Least work after the network: 105 x n logits at the network's spacing must be read once, and one label per voxel of the
file written.

    python scripts/benchmarks/validation.py [CT] [--classes 105]

Without a CT a phantom is made.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
import torch
from _measure import report
from _models import CONFIGURATION, architecture_of, dataset_json_of, plans_of, resample_in_plane
from _tiny_training import DATASET, nnunet_folders
from long_scan import peak_of

CASE = "case"


def main() -> None:
    """Prints one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path, nargs="?", help="a CT as a file")
    parser.add_argument("--classes", type=int, default=105, help="outputs, background included")
    parser.add_argument("--in_plane", type=float, default=0.8, help="spacing in plane that the CT is resampled to, mm")
    parser.add_argument("--spacing", type=float, default=1.5, help="spacing of the network, mm")
    parser.add_argument("--patch", type=int, default=96, help="edge of a window, voxels")
    parser.add_argument("--size", default="tiny", help="size of the STU-Net")
    parser.add_argument("--side", choices=("stock", "ours"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        _validate(arguments.side, arguments)
        return
    # nnU-Net's workers: as many as the published figures had cores.
    os.environ["nnUNet_def_n_proc"] = "2"
    with nnunet_folders() as folder:
        _prepare(folder, arguments)
        sides = {side: _run(side, folder) for side in ("stock", "ours")}
    stock, ours = sides["stock"], sides["ours"]
    report(
        "validation",
        shape=list(stock["labels"].shape),
        classes=arguments.classes,
        ours_s=ours["after_s"],
        peer_s=stock["after_s"],
        ratio=ours["after_s"] / stock["after_s"],
        ours_peak_mb=ours["peak_mb"],
        peer_peak_mb=stock["peak_mb"],
        memory_ratio=ours["peak_mb"] / stock["peak_mb"],
        **{f"{name}_{key}": side[f"{key}_s"] for name, side in sides.items() for key in ("network", "evaluation")},
        agreement=float((ours["labels"] == stock["labels"]).mean()),
        equal_summaries=ours["summary"] == stock["summary"],
    )


def _prepare(folder: Path, arguments: argparse.Namespace) -> None:
    """What nnU-Net's preprocessing leaves of one case, with blocks of all classes as its label map."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    image, preprocessed = folder / f"{CASE}_0000.nii.gz", folder / "nnUNet_preprocessed" / DATASET
    _write_scan(image, arguments)
    scan = SimpleITK.ReadImage(str(image))
    shape = scan.GetSize()[::-1]
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    labels = SimpleITK.GetImageFromArray(((z // 16 + 7 * (y // 16) + 13 * (x // 16)) % arguments.classes).astype("u1"))
    labels.CopyInformation(scan)
    (preprocessed / "gt_segmentations").mkdir()
    reference = preprocessed / "gt_segmentations" / f"{CASE}.nii.gz"
    SimpleITK.WriteImage(labels, str(reference))
    plans = _plans(arguments)
    dataset_json = {**dataset_json_of(arguments.classes - 1), "numTraining": 1}
    (preprocessed / CONFIGURATION).mkdir()
    manager = PlansManager(plans)
    with contextlib.redirect_stdout(io.StringIO()):
        DefaultPreprocessor(verbose=False).run_case_save(
            str(preprocessed / CONFIGURATION / CASE),
            [str(image)],
            str(reference),
            manager,
            manager.get_configuration(CONFIGURATION),
            dataset_json,
        )
    (folder / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
    (folder / "dataset.json").write_text(json.dumps(dataset_json), encoding="utf-8")


def _write_scan(target: Path, arguments: argparse.Namespace) -> None:
    if arguments.scan is not None:
        resample_in_plane(arguments.scan, target, arguments.in_plane)
        return
    from nnunetv2_ext.demo.phantoms import make_phantom

    phantom = make_phantom(0)
    image = SimpleITK.GetImageFromArray(phantom.image)
    image.SetSpacing(phantom.spacing[::-1])
    SimpleITK.WriteImage(image, str(target))
    resample_in_plane(target, target, arguments.in_plane)


def _plans(arguments: argparse.Namespace) -> dict[str, Any]:
    plans = plans_of([arguments.patch] * 3, [arguments.spacing] * 3, architecture_of(arguments.size))
    plans["configurations"][CONFIGURATION] |= {"data_identifier": CONFIGURATION, "batch_size": 2, "batch_dice": False}
    return {**plans, "continue_training": False}


def _run(side: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, str(folder), "--side", side]
    code, _, peak_gb, messages = peak_of(command)
    if code:
        raise subprocess.CalledProcessError(code, command, messages)
    figures = json.loads((folder / f"{side}.json").read_text(encoding="utf-8"))
    labels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / side / f"{CASE}.nii.gz")))
    summary = json.loads((folder / side / "summary.json").read_text(encoding="utf-8"))
    return {**figures, "peak_mb": peak_gb * 1e3 - figures["before_mb"], "labels": labels, "summary": summary["mean"]}


def _validate(side: str, arguments: argparse.Namespace) -> None:
    """What one of the two processes does; its figures go to a file."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as stock

    from nnunetv2_ext.inference.windows.sliding_window import StreamingSlidingWindow
    from nnunetv2_ext.training import validation
    from nnunetv2_ext.training.trainers.base import ExtTrainer

    folder, seconds = arguments.scan, {"network": 0.0, "evaluation": 0.0}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any, **named: Any) -> Any:
            start = time.perf_counter()
            result = function(*values, **named)
            seconds[name] += time.perf_counter() - start
            return result

        return call

    def timed_slabs(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def slabs(*values: Any, **named: Any) -> Iterator[Any]:
            found, following = function(*values, **named), timed("network", next)
            while (slab := following(found, None)) is not None:
                yield slab

        return slabs

    plans, dataset_json = (json.loads((folder / name).read_text()) for name in ("plans.json", "dataset.json"))
    torch.manual_seed(0)
    trainer = ExtTrainer(plans, CONFIGURATION, "all", dataset_json, torch.device("cpu"))
    trainer.initialize()
    trainer.inference_allowed_mirroring_axes = None
    modules: tuple[Any, ...] = (stock, validation)
    for module in modules:
        module.compute_metrics_on_folder = timed("evaluation", module.compute_metrics_on_folder)
    window: Any = StreamingSlidingWindow
    window.slabs = timed_slabs(window.slabs)
    method = nnUNetPredictor.predict_sliding_window_return_logits
    nnUNetPredictor.predict_sliding_window_return_logits = timed("network", method)
    validate = stock.nnUNetTrainer if side == "stock" else ExtTrainer
    before, start = _resident_mb(), time.perf_counter()
    validate.perform_actual_validation(trainer)
    total = time.perf_counter() - start
    figures = {
        "before_mb": before,
        "after_s": total - sum(seconds.values()),
        "network_s": seconds["network"],
        "evaluation_s": seconds["evaluation"],
    }
    Path(trainer.output_folder, "validation").rename(folder / side)
    (folder / f"{side}.json").write_text(json.dumps(figures), encoding="utf-8")


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * 4096 / 1e6


if __name__ == "__main__":
    main()
