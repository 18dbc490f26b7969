"""Stock nnU-Net commands, in processes of their own, on a real CT: the plugin is found without any variable set by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

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
        text=True,
    )
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout


@pytest.fixture
def real_dataset(real_ct_folder, nnunet_folders):
    """The thorax-abdomen CT cut along z into five cases with consecutive labels, as an nnU-Net raw dataset."""
    image = sitk.ReadImage(str(real_ct_folder / "ct_thorax_abdomen_3mm" / "ct.nii.gz"))
    labels = sitk.ReadImage(str(real_ct_folder / "ct_thorax_abdomen_3mm" / "totalsegmentator_v2_labels.nii.gz"))
    present = np.unique(sitk.GetArrayViewFromImage(labels))
    lookup = np.zeros(present.max() + 1, np.uint8)
    lookup[present] = np.arange(len(present))
    consecutive = sitk.GetImageFromArray(lookup[sitk.GetArrayFromImage(labels)])
    consecutive.CopyInformation(labels)
    raw = nnunet_folders / "nnUNet_raw" / DATASET
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    for index in range(5):
        planes = slice(index * 22, index * 22 + 22)
        sitk.WriteImage(image[:, :, planes], str(raw / "imagesTr" / f"slab_{index}_0000.nii.gz"))
        sitk.WriteImage(consecutive[:, :, planes], str(raw / "labelsTr" / f"slab_{index}.nii.gz"))
    names = {"background": 0, **{f"structure_{value}": index for index, value in enumerate(present) if value}}
    (raw / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT"}, "labels": names, "numTraining": 5, "file_ending": ".nii.gz"})
    )
    return raw


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
