"""The whole report of other kinds of datasets."""

from __future__ import annotations

import json

import matplotlib.image
import numpy as np

from nnunetv2_ext.dataset_report.cases import read_raw_dataset
from nnunetv2_ext.dataset_report.report import report_dataset


def test_images_of_several_channels_have_a_range_each(make_raw_dataset, tmp_path):
    rng = np.random.default_rng(0)
    channels = [rng.integers(low, low + 50, (8, 9, 10)).astype(np.int16) for low in (0, 1000)]
    label = rng.integers(0, 2, (8, 9, 10)).astype(np.uint8)
    folder = make_raw_dataset(
        "Dataset006_MR", {"background": 0, "a": 1}, {"x": (channels, label)}, channels=("T2", "ADC")
    )
    (found,) = report_dataset(read_raw_dataset(str(folder)), tmp_path, progress=False).measures
    assert found.ranges == tuple((channel.min(), channel.max()) for channel in channels)
    assert found.intensities["a"] == channels[0][label == 1].mean(dtype=np.float64)


def test_two_dimensional_images_are_shown(nnunet_folders, tmp_path):
    folder = nnunet_folders / "nnUNet_raw" / "Dataset007_Photos"
    rng = np.random.default_rng(0)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    import SimpleITK

    label = rng.integers(0, 2, (20, 30)).astype(np.uint8)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(label * 100), str(folder / "imagesTr" / "a_0000.png"))
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(label), str(folder / "labelsTr" / "a.png"))
    content = {"channel_names": {"0": "grey"}, "labels": {"background": 0, "spot": 1}, "file_ending": ".png"}
    (folder / "dataset.json").write_text(json.dumps(content | {"numTraining": 1}), encoding="utf-8")
    report = report_dataset(read_raw_dataset("7"), tmp_path, progress=False)
    assert report.problems == ()
    (found,) = report.measures
    assert found.size == (30, 20)
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(found.picture)
    assert matplotlib.image.imread(picture).shape == (160, 160, 3)


def test_worker_processes_find_the_same(raw_dataset, tmp_path):
    dataset = read_raw_dataset(str(raw_dataset()))
    alone = report_dataset(dataset, tmp_path / "alone", progress=False)
    workers = report_dataset(dataset, tmp_path / "workers", processes=2, progress=False)
    assert alone.measures == workers.measures
    assert alone.page.read_bytes() == workers.page.read_bytes()
