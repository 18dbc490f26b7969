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


def _batches(*loaders):
    """A batch of each loader, drawn with the same random numbers."""
    batches = []
    for loader in loaders:
        np.random.seed(3)  # noqa: NPY002  nnU-Net draws from the global state
        batches.append(next(loader))
    return batches


def test_a_batch_is_nnunets_with_the_mask_of_annotated_classes(parts):
    dataset, labels, manager = parts
    cases = AnnotatedCases(dataset, labels, manager.foreground_regions)
    patch = (3, (8, 8, 8), (8, 8, 8), manager)
    ours, stock = _batches(LabelMapDataLoader(cases, *patch), nnUNetDataLoader(dataset, *patch))
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


class Pipeline:
    """The end of nnU-Net's transforms: -1 becomes background, and a second level is half as large."""

    def __init__(self, change=lambda label_map: label_map):
        self.change = change

    def __call__(self, image, segmentation):
        label_map = self.change(segmentation.clamp_min(0))
        return {"image": image, "segmentation": [label_map, label_map[:, ::2, ::2, ::2]]}


class Labels:
    """A label manager whose ignore label can be chosen."""

    def __init__(self, manager, ignore_label):
        self._manager, self.ignore_label = manager, ignore_label

    def __getattr__(self, name):
        return getattr(self._manager, name)


@pytest.mark.parametrize(
    ("ignore_label", "dtype"), [(None, torch.uint8), (255, torch.uint8), (256, torch.int16)], ids=str
)
def test_label_maps_take_one_byte_per_voxel_where_all_values_fit(parts, ignore_label, dtype):
    dataset, labels, manager = parts
    cases = AnnotatedCases(dataset, labels, manager.foreground_regions)

    def ignore_much(label_map):
        return label_map if ignore_label is None else label_map.masked_fill(label_map == 0, ignore_label)

    patch, transforms = (3, (16, 16, 16), (16, 16, 16)), Pipeline(ignore_much)
    ours, stock = _batches(
        LabelMapDataLoader(cases, *patch, Labels(manager, ignore_label), transforms=transforms),
        nnUNetDataLoader(cases, *patch, manager, transforms=transforms),
    )
    assert [level.dtype for level in ours["target"]] == [dtype] * 2
    for level, expected in zip(ours["target"], stock["target"], strict=True):
        assert expected.dtype == torch.int16
        assert torch.equal(level.long(), expected.long())
    if ignore_label is not None:
        assert (ours["target"][0] == ignore_label).any()


@pytest.mark.parametrize("value", [-1, 5, 260])
def test_values_that_the_collection_does_not_know_are_refused(parts, value):
    """In one byte, -1 and 260 would turn into classes."""
    dataset, labels, manager = parts
    loader = LabelMapDataLoader(
        AnnotatedCases(dataset, labels, manager.foreground_regions),
        2,
        (8, 8, 8),
        (8, 8, 8),
        manager,
        transforms=Pipeline(lambda label_map: torch.full_like(label_map, value)),
    )
    with pytest.raises(ValueError, match=rf"from 0 to 4 in the cases [AB]_\d, [AB]_\d, but found {value};"):
        next(loader)
