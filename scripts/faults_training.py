"""Kills trainings with SIGKILL at random moments and lets them go on, to the weights of an undisturbed run.

    python scripts/faults_training.py --kills 20

A tiny network on synthetic cases, on the CPU, with ``--seed`` and ``--num_workers 0``: then what continues is the last
finished epoch, and every bit of the final weights is determined. The moments are spread evenly over the time from the
first epoch to the end of the final validation, one of them drawn from each part; a training that dies before it has
written a checkpoint begins anew. Prints each kill, and at last how many were tried and how many ended equal; the exit
code is 0 if all did.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK
import torch

DATASET = "Dataset007_Faults"
TRAINER = "FineTuneTrainer_unet"
EDGE = 24
WORDS = ("7", "3d_fullres", "0", "-tr", TRAINER, "-device", "cpu", "--quiet")
OPTIONS = (
    "--num_epochs", "5", "--iterations_per_epoch", "3", "--val_iterations_per_epoch", "1", "--batch_size", "2",
    "--warmup_heads", "1", "--warmup_network", "1", "--save_every", "1", "--seed", "4", "--num_workers", "0",
)  # fmt: skip


def main() -> int:
    """Runs the undisturbed training, then the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how many trainings are killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    moments = random.Random(arguments.seed)
    equal = 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        _prepare(root)
        expected, seconds = _undisturbed(root)
        print(f"An undisturbed training takes {seconds:.1f} s from its first epoch on.", flush=True)
        for number in range(arguments.kills):
            delay = seconds * (number + moments.random()) / arguments.kills
            found, what = _disturbed(root, delay)
            same = found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)
            equal += same
            print(
                f"killed {delay:.1f} s after the first epoch began, {what}: {'equal' if same else 'UNLIKE'}", flush=True
            )
    print(f"tried {arguments.kills}, equal {equal}")
    return 0 if equal == arguments.kills else 1


def _environment(root: Path) -> dict[str, str]:
    folders = {name: str(root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    return {**os.environ, **folders, "OMP_NUM_THREADS": "1", "nnUNet_n_proc_DA": "1"}


def _prepare(root: Path) -> None:
    """Writes, plans and preprocesses six cases with a sphere each; the network becomes a few channels wide."""
    raw = root / "nnUNet_raw" / DATASET
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(EDGE)] * 3, indexing="ij"), -1)
    for index in range(6):
        label_map = (np.linalg.norm(grid - rng.integers(7, 17, 3), axis=-1) < 5).astype(np.uint8)
        image = (label_map * 100 + rng.normal(0, 10, label_map.shape)).astype(np.float32)
        for array, path in ((image, f"imagesTr/case_{index}_0000"), (label_map, f"labelsTr/case_{index}")):
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(raw / f"{path}.nii.gz"))
    labels = {"background": 0, "sphere": 1}
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 6, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    steps = (
        ("nnUNetv2_plan_and_preprocess", "-d", "7", "-npfp", "1", "--no_pp"),
        ("nnUNetv2_preprocess", "-d", "7", "-c", "3d_fullres", "-np", "1"),
    )
    plans_file = root / "nnUNet_preprocessed" / DATASET / "nnUNetPlans.json"
    for program, *words in steps:
        command = [_program(program), *words]
        subprocess.run(command, env=_environment(root), check=True, stdout=subprocess.DEVNULL)
        plans = json.loads(plans_file.read_text(encoding="utf-8"))
        for configuration in plans["configurations"].values():
            network = configuration["architecture"]["arch_kwargs"]
            network["features_per_stage"] = [4 + 2 * stage for stage in range(len(network["features_per_stage"]))]
        plans_file.write_text(json.dumps(plans), encoding="utf-8")


def _fold(root: Path) -> Path:
    return root / "nnUNet_results" / DATASET / f"{TRAINER}__nnUNetPlans__3d_fullres" / "fold_0"


def _undisturbed(root: Path) -> tuple[dict[str, torch.Tensor], float]:
    """The final weights, and the seconds from the first epoch to the end."""
    process = _start(root, OPTIONS)
    _wait_for_first_epoch(root, process)
    began = time.monotonic()
    if process.wait():
        raise SystemExit("The undisturbed training has failed.")
    return _weights(root), time.monotonic() - began


def _disturbed(root: Path, delay: float) -> tuple[dict[str, torch.Tensor], str]:
    """The final weights of a training that was killed and went on, and what it had come to by then."""
    shutil.rmtree(root / "nnUNet_results")
    process = _start(root, OPTIONS)
    _wait_for_first_epoch(root, process)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = sorted(file.name for file in _fold(root).glob("checkpoint_*.pth"))
    if _start(root, ("--c",) if left else OPTIONS).wait():
        raise SystemExit(f"The training did not go on from {left}.")
    return _weights(root), "leaving " + (", ".join(left) or "no checkpoint")


def _start(root: Path, flags: tuple[str, ...]) -> subprocess.Popen[bytes]:
    command = [_program("nnUNetv2_ext_train"), *WORDS, *flags]
    return subprocess.Popen(command, env=_environment(root), stdout=subprocess.DEVNULL)


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _wait_for_first_epoch(root: Path, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        logs = _fold(root).glob("training_log_*.txt")
        if any("Epoch 0" in file.read_text(encoding="utf-8", errors="replace") for file in logs):
            return
        time.sleep(0.02)
    raise SystemExit("The training has ended before its first epoch.")


def _weights(root: Path) -> dict[str, torch.Tensor]:
    content = torch.load(_fold(root) / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    return dict(content["network_weights"])


if __name__ == "__main__":
    sys.exit(main())
