from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_ext.labels.partial_labels import PartialLabels
from nnunetv2_ext.training.dataloading.annotated_cases import AnnotatedCases
from nnunetv2_ext.training.dataloading.label_map_loader import LabelMapDataLoader
from nnunetv2_ext.utilities.files import read_json


@pytest.fixture
def parts(tiny_collection):
    """Dataset, collection and label manager of the tiny collection."""
    folder = Path(os.environ["nnUNet_preprocessed"]) / tiny_collection
    dataset_json = read_json(folder / "dataset.json")
    preprocessed = str(folder / "nnUNetPlans_3d_fullres")
    dataset = infer_dataset_class(preprocessed)(preprocessed)
    manager = PlansManager(str(folder / "nnUNetPlans.json")).get_label_manager(dataset_json)
    return dataset, PartialLabels.from_dataset_json(dataset_json), manager


def test_a_batch_is_nnunets_with_the_mask_of_annotated_classes(parts):
    dataset, labels, manager = parts
    cases = AnnotatedCases(dataset, labels, manager.foreground_regions)
    size = (8, 8, 8)
    batches = []
    for loader in (
        LabelMapDataLoader(cases, 3, size, size, manager),
        nnUNetDataLoader(dataset, 3, size, size, manager),
    ):
        np.random.seed(3)  # noqa: NPY002  nnU-Net draws from the global state
        batches.append(next(loader))
    ours, stock = batches
    assert list(ours["keys"]) == list(stock["keys"])
    assert torch.equal(ours["data"], stock["data"])
    assert torch.equal(ours["target"], stock["target"])
    assert ours["annotated"].dtype == torch.bool
    assert ours["annotated"].tolist() == [labels.annotated(case).tolist() for case in ours["keys"]]


def test_oversampled_patches_contain_a_class_that_the_case_annotates(parts):
    dataset, labels, manager = parts
    loader = LabelMapDataLoader(
        AnnotatedCases(dataset, labels, manager.foreground_regions),
        4,
        (4, 4, 4),
        (4, 4, 4),
        manager,
        oversample_foreground_percent=1.0,
    )
    table = labels.region_table()
    for _ in range(5):
        batch = next(loader)
        for label_map, annotated in zip(batch["target"], batch["annotated"].numpy(), strict=True):
            present = np.unique(label_map.clamp_min(0).numpy())
            assert table[annotated][:, present].any()
