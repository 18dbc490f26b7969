"""Writers of tiny label maps."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def write_map():
    """Writes an array (z, y, x) as an image file, making its folder."""
    import SimpleITK

    def write(array, path, spacing=(2.0, 1.0, 1.5), origin=(0.0, 0.0, 0.0)):
        image = SimpleITK.GetImageFromArray(array)
        image.SetSpacing(spacing[::-1])
        image.SetOrigin(origin)
        path.parent.mkdir(parents=True, exist_ok=True)
        SimpleITK.WriteImage(image, str(path))

    return write


@pytest.fixture
def write_dataset_json():
    """Writes a dataset.json with the given labels beside a folder."""

    def write(folder, labels, **further):
        folder.mkdir(parents=True, exist_ok=True)
        content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
        (folder / "dataset.json").write_text(json.dumps(content | further))

    return write
