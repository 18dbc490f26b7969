"""A collection of synthetic cases in nnU-Net's preprocessed format, for the benchmarks of training."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from nnunetv2_ext.experiment_planning.templates import load_template
from nnunetv2_ext.labels.partial_labels import PartialLabels, Source

DATASET = "Dataset001_Benchmark"
CONFIGURATION = "3d_fullres"


@contextlib.contextmanager
def nnunet_folders() -> Iterator[Path]:
    """nnU-Net's folders in a temporary place; must be entered before nnU-Net is imported."""
    with TemporaryDirectory() as folder:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            os.environ[name] = str(Path(folder) / name)
            (Path(folder) / name / DATASET).mkdir(parents=True)
        os.environ["nnUNet_n_proc_DA"] = "0"
        yield Path(folder)


def collection(classes: int, cases: int, annotated: int) -> dict[str, Any]:
    """A dataset.json of one-value classes; the first source annotates ``annotated`` of them, a second one the rest."""
    names = [f"class_{index}" for index in range(classes)]
    sources = {"first": Source(tuple(names[:annotated]), tuple(f"case_{index}" for index in range(cases)))}
    if annotated < classes:
        sources["second"] = Source(tuple(names[annotated:]), ("other_0",))
    labels = PartialLabels({name: (index + 1,) for index, name in enumerate(names)}, sources)
    return {
        "channel_names": {"0": "CT"},
        "file_ending": ".nii.gz",
        "numTraining": cases,
        "labels": labels.labels_json(),
        "regions_class_order": list(range(1, classes + 1)),
        "partial_labels": labels.to_json(),
    }


def plans(patch_size: int, batch_size: int) -> dict[str, Any]:
    """The plans ``multitalent_stunet`` with a cubic patch."""
    content = load_template("multitalent_stunet")
    configuration = content["configurations"][CONFIGURATION]
    configuration.update(
        patch_size=[patch_size] * 3,
        batch_size=batch_size,
        data_identifier="benchmark",
        median_image_size_in_voxels=[patch_size] * 3,
    )
    return {
        **content,
        "dataset_name": DATASET,
        "plans_name": "benchmark",
        "image_reader_writer": "SimpleITKIO",
        "continue_training": False,
    }


def write_cases(dataset_json: dict[str, Any], content: dict[str, Any], size: int, seed: int = 0) -> None:
    """Preprocessed cases of the first source: smooth blobs of its classes in a cube of ``size`` voxels."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    folder = Path(os.environ["nnUNet_preprocessed"]) / DATASET / "benchmark"
    folder.mkdir(exist_ok=True)
    manager = PlansManager(content)
    regions = manager.get_label_manager(dataset_json).foreground_regions
    first = dataset_json["partial_labels"]["first"]
    rng = np.random.default_rng(seed)
    patch_size = tuple(manager.get_configuration(CONFIGURATION).patch_size)
    for case in first["cases"]:
        coarse = torch.from_numpy(rng.normal(size=(1, len(first["classes"]) + 1, 8, 8, 8)))
        label_map = torch.nn.functional.interpolate(coarse, size=(size,) * 3, mode="trilinear").argmax(1)
        seg = label_map.numpy().astype(np.int16)
        image = (seg * 0.1 + rng.normal(size=seg.shape)).astype(np.float32)
        locations = DefaultPreprocessor._sample_foreground_locations(seg, regions)
        block, chunk = comp_blosc2_params(image.shape, patch_size, 4)
        block_seg, chunk_seg = comp_blosc2_params(seg.shape, patch_size, 2)
        nnUNetDatasetBlosc2.save_case(
            image, seg, {"class_locations": locations}, str(folder / case), chunk, block, chunk_seg, block_seg
        )


def make_trainer(trainer_class: type, dataset_json: dict[str, Any], content: dict[str, Any], device: str) -> Any:
    """An initialised trainer, without nnU-Net's greetings."""
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = trainer_class(dict(content), CONFIGURATION, "all", dataset_json, torch.device(device))
        trainer.print_to_log_file = lambda *_, **__: None
        trainer.initialize()
    return trainer
