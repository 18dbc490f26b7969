"""Annotation protocols, and phantoms as nnU-Net raw datasets."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK

from nnunetv2_ext.demo.phantom_datasets import Protocol, write_raw_dataset
from nnunetv2_ext.demo.phantoms import LABEL_VALUES, make_phantom

NESTED = Protocol(31, "Nested", {"liver": ("liver", "liver_tumour"), "tumour": ("liver_tumour",)})
PLAIN = Protocol(32, "Plain", {"liver": ("liver", "liver_tumour"), "spleen": ("spleen",)})


def test_nested_classes_become_regions():
    content = NESTED.dataset_json(4)
    assert content["labels"] == {"background": 0, "liver": [1, 2], "tumour": 2}
    assert content["regions_class_order"] == [1, 2]
    assert content["numTraining"] == 4


def test_classes_that_share_nothing_stay_plain():
    content = PLAIN.dataset_json(4)
    assert content["labels"] == {"background": 0, "liver": 1, "spleen": 2}
    assert "regions_class_order" not in content


@pytest.mark.parametrize("protocol", [NESTED, PLAIN])
def test_annotation_is_the_union_of_structures(protocol):
    phantom = make_phantom(0)
    label_map = protocol.annotate(phantom)
    for name, structures in protocol.classes.items():
        expected = np.isin(phantom.labels, [LABEL_VALUES[structure] for structure in structures])
        np.testing.assert_array_equal(np.isin(label_map, protocol.class_values[name]), expected)
    covered = {structure for structures in protocol.classes.values() for structure in structures}
    others = [value for name, value in LABEL_VALUES.items() if name not in covered]
    assert not label_map[np.isin(phantom.labels, others)].any()


def test_label_manager_of_nnunet_understands_regions():
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    content = NESTED.dataset_json(1)
    manager = LabelManager(content["labels"], content["regions_class_order"])
    assert manager.has_regions
    assert manager.foreground_regions == [(1, 2), 2]


def test_written_dataset_is_complete(tmp_path):
    folder = write_raw_dataset(PLAIN, tmp_path, num_training=2, num_test=1, first_seed=40)
    assert folder == tmp_path / "Dataset032_Plain"
    content = json.loads((folder / "dataset.json").read_text())
    assert content["numTraining"] == 2
    assert sorted(file.name for file in folder.rglob("*.nii.gz")) == [
        "Plain_000.nii.gz",
        "Plain_000_0000.nii.gz",
        "Plain_001.nii.gz",
        "Plain_001_0000.nii.gz",
        "Plain_002.nii.gz",
        "Plain_002_0000.nii.gz",
    ]
    phantom = make_phantom(42)
    image = SimpleITK.ReadImage(str(folder / "imagesTs" / "Plain_002_0000.nii.gz"))
    label = SimpleITK.ReadImage(str(folder / "labelsTs" / "Plain_002.nii.gz"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), phantom.image)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(label), PLAIN.annotate(phantom))
    assert image.GetSpacing() == pytest.approx(phantom.spacing[::-1])
    assert image.GetOrigin() == pytest.approx(phantom.origin[::-1], abs=1e-4)
    assert image.GetDirection() == label.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
