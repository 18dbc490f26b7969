"""Datasets as the planner sees them."""

from __future__ import annotations

import json

import numpy as np
import pytest


@pytest.fixture
def dataset_json():
    return {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "spleen": 2},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }


@pytest.fixture
def make_fingerprint():
    def make(shapes=((200, 300, 300),) * 3, spacings=((3.0, 1.0, 1.0),) * 3, channels=1, relative_size=1.0):
        statistics = {"mean": 40.0, "median": 50.0, "std": 60.0, "min": -200.0, "max": 900.0}
        statistics |= {"percentile_00_5": -150.0, "percentile_99_5": 300.0}
        return {
            "shapes_after_crop": [list(shape) for shape in shapes],
            "spacings": [list(spacing) for spacing in spacings],
            "foreground_intensity_properties_per_channel": {
                str(channel): {key: value + channel for key, value in statistics.items()} for channel in range(channels)
            },
            "median_relative_size_after_cropping": relative_size,
        }

    return make


@pytest.fixture
def tiny_dataset(nnunet_folders):
    """Dataset007_Tiny in nnUNet_raw: three CTs of 20 x 30 x 36 voxels (z, y, x) with a bright box as label 1."""
    import SimpleITK as sitk

    folder = nnunet_folders / "nnUNet_raw" / "Dataset007_Tiny"
    random = np.random.default_rng(0)
    for case in range(3):
        label = np.zeros((20, 30, 36), dtype=np.uint8)
        label[5:15, 8:20, 10 + case : 25] = 1
        image = (random.normal(0, 10, label.shape) + 100 * label).astype(np.float32)
        for array, subfolder, suffix in ((image, "imagesTr", "_0000"), (label, "labelsTr", "")):
            item = sitk.GetImageFromArray(array)
            item.SetSpacing((2.0, 2.0, 4.0))
            (folder / subfolder).mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(item, str(folder / subfolder / f"case{case}{suffix}.nii.gz"))
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "box": 1},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder
