"""A maker of tiny nnU-Net raw datasets."""

from __future__ import annotations

import json

import numpy as np
import pytest


@pytest.fixture
def make_raw_dataset(nnunet_folders):
    """Writes nnUNet_raw/<name> and returns its folder; images and label maps are arrays (z, y, x)."""
    import SimpleITK

    def make(name, labels, cases, *, order=None, channels=("CT",), ending=".nii.gz", extra=None, spacing=(1.5, 1, 1)):
        folder = nnunet_folders / "nnUNet_raw" / name
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True)

        def write(array, path):
            image = SimpleITK.GetImageFromArray(array)
            image.SetSpacing([float(value) for value in spacing[::-1]])
            SimpleITK.WriteImage(image, str(path))

        for case, (images, label) in cases.items():
            for channel, image in enumerate(images if isinstance(images, list) else [images]):
                write(image, folder / "imagesTr" / f"{case}_{channel:04d}{ending}")
            write(label, folder / "labelsTr" / f"{case}{ending}")
        dataset_json = {
            "channel_names": {str(index): channel for index, channel in enumerate(channels)},
            "labels": labels,
            "numTraining": len(cases),
            "file_ending": ending,
            **({"regions_class_order": order} if order else {}),
            **(extra or {}),
        }
        (folder / "dataset.json").write_text(json.dumps(dataset_json))
        return folder

    return make


@pytest.fixture
def tiny_case():
    """Makes an image of noise and a label map with the given values in random places."""

    def make(seed, values, shape=(8, 10, 9), dtype=np.uint8):
        rng = np.random.default_rng(seed)
        image = rng.normal(0, 100, shape).astype(np.float32)
        return image, rng.choice(np.array([0, *values]), shape).astype(dtype)

    return make
