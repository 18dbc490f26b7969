"""Stock nnU-Net commands in processes of their own, on a real CT.

The plugin is found without any variable set by hand. One epoch of two iterations says nothing about accuracy; the point
is that every step accepts what the step before it wrote.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunetv2_ext.architectures.stunet import PUBLISHED_STRIDES, STUNET_SIZES, STUNet
from nnunetv2_ext.labels.label_order import LabelOrder

DATASET = "Dataset061_RealCT"
SHORT = {"num_epochs": 1, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1}


def run(*command: str, **variables: str) -> str:
    """Runs an installed command; fails with its output when it fails."""
    environment = {key: value for key, value in os.environ.items() if key != "nnUNet_extTrainer"}
    program, *arguments = command
    result = subprocess.run(
        [str(Path(sys.executable).with_name(program)), *arguments],
        env={**environment, "nnUNet_n_proc_DA": "1", **variables},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout


@pytest.mark.slow
def test_plan_train_and_predict_with_stock_commands(real_dataset, nnunet_folders):
    run("nnUNetv2_plan_and_preprocess", "-d", "61", "-c", "3d_fullres", "-np", "1", "-npfp", "1")
    run(
        "nnUNetv2_train", "61", "3d_fullres", "0", "-tr", "STUNetTrainer_small", "-device", "cpu",
        nnUNetv2_ext_settings=json.dumps(SHORT),
    )  # fmt: skip
    output = nnunet_folders / "prediction"
    run(
        "nnUNetv2_predict", "-i", str(real_dataset / "imagesTr"), "-o", str(output), "-d", "61", "-c", "3d_fullres",
        "-tr", "STUNetTrainer_small", "-f", "0", "-device", "cpu", "--disable_tta", "-npp", "1", "-nps", "1",
    )  # fmt: skip
    for index in range(5):
        prediction = sitk.ReadImage(str(output / f"slab_{index}.nii.gz"))
        image = sitk.ReadImage(str(real_dataset / "imagesTr" / f"slab_{index}_0000.nii.gz"))
        assert prediction.GetSize() == image.GetSize()
        assert prediction.GetDirection() == image.GetDirection()
        assert sitk.GetArrayViewFromImage(prediction).max() <= 61


def write_published_checkpoint(
    path: Path, published_names: Callable[[torch.nn.Module], dict[str, torch.Tensor]]
) -> None:
    """A STU-Net S with random weights in the layout of ``small_ep4k.model``."""
    size = STUNET_SIZES["S"]
    network = STUNet(
        1,
        105,
        features_per_stage=size.features_per_stage,
        n_blocks_per_stage=size.n_blocks_per_stage,
        strides=PUBLISHED_STRIDES,
    )
    state = published_names(network)
    torch.save({"epoch": 4000, "state_dict": state, "plot_stuff": [np.zeros(3)], "best_stuff": None}, path)


def _labels_of(raw: Path) -> list[str]:
    return list(json.loads((raw / "dataset.json").read_text())["labels"])


@pytest.mark.slow
def test_import_and_fine_tune_a_published_checkpoint(real_dataset, nnunet_folders, published_names):
    checkpoint = nnunet_folders / "small_ep4k.model"
    write_published_checkpoint(checkpoint, published_names)
    printed = run("nnUNetv2_ext_import_weights", str(checkpoint), "-d", "Dataset101_TotalSegmentator")
    assert "nnUNetv2_predict" in printed
    model = nnunet_folders / "nnUNet_results" / "Dataset101_TotalSegmentator"
    assert next(model.glob("STUNetTrainer_small__*__3d_fullres/fold_0/checkpoint_final.pth")).is_file()

    run(
        "nnUNetv2_ext_plan", "-d", "61", "-t", "stunet_totalsegmentator", "--name", "small_windows",
        "--spacing", "3", "3", "3", "--patch_size", "32", "64", "64", "-np", "1",
    )  # fmt: skip
    run(
        "nnUNetv2_ext_finetune", "61", "3d_fullres", "0", "-pretrained_weights", str(checkpoint), "-device", "cpu",
        "-p", "small_windows",
        "--num_epochs", "1", "--iterations_per_epoch", "1", "--val_iterations_per_epoch", "1", "--num_workers", "0",
        "--batch_size", "1", "-np", "1",
    )  # fmt: skip
    (folder,) = (nnunet_folders / "nnUNet_results" / DATASET).glob("STUNetTrainer_small_ft__*__3d_fullres/fold_0")
    assert (folder / "validation" / "summary.json").is_file()
    log = next(folder.glob("training_log_*.txt")).read_text()
    (line,) = [line for line in log.splitlines() if "classes with pretrained heads: " in line]
    names = line.split(": ")[1].split(", ")
    # The published weights know the 104 classes of TotalSegmentator v1 under the same names, in another order.
    common = set(LabelOrder.read("stunet_totalsegmentator").labels) & set(_labels_of(real_dataset))
    assert len(common) > 30
    assert {name.split(" (")[0] for name in names} == common | {"background"}
