from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform

from nnunetv2_ext.training.dataloading.left_right_mirror import LeftRightMirrorTransform
from nnunetv2_ext.training.options import TrainingOptions
from nnunetv2_ext.training.run_training import TrainingRun, make_trainer
from nnunetv2_ext.utilities.errors import UserError


@pytest.fixture
def kidneys(tiny_dataset):
    """Names the classes of the tiny dataset after kidneys."""
    file = Path(os.environ["nnUNet_preprocessed"]) / tiny_dataset / "dataset.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["labels"] = {"background": 0, "kidney_left": 1, "kidney_right": 2}
    file.write_text(json.dumps(content), encoding="utf-8")
    return tiny_dataset


def mirrors_of(trainer):
    """The mirroring among the transforms of a training."""
    rotation, dummy_2d, _, axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    transforms = trainer.get_training_transforms([24] * 3, rotation, None, axes, dummy_2d).transforms
    return [transform for transform in transforms if isinstance(transform, MirrorTransform)]


def test_by_default_all_axes_are_mirrored_and_with_no_mirroring_none(small_trainer):
    trainer = small_trainer()
    (mirror,) = mirrors_of(trainer)
    assert type(mirror) is MirrorTransform
    assert (mirror.allowed_axes, trainer.inference_allowed_mirroring_axes) == ((0, 1, 2), (0, 1, 2))
    trainer = small_trainer(mirroring=False)
    assert mirrors_of(trainer) == []
    assert trainer.inference_allowed_mirroring_axes is None


@pytest.mark.parametrize("transposed", [False, True])
def test_pairs_change_places_and_predictions_are_not_averaged_over_that_axis(small_trainer, kidneys, transposed):
    if transposed:
        file = Path(os.environ["nnUNet_preprocessed"]) / kidneys / "nnUNetPlans.json"
        plans = json.loads(file.read_text(encoding="utf-8"))
        plans |= {"transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]}
        file.write_text(json.dumps(plans), encoding="utf-8")
    trainer = small_trainer(mirror_pairs=True)
    (mirror,) = mirrors_of(trainer)
    assert isinstance(mirror, LeftRightMirrorTransform)
    # Left and right are x, the last axis of nnU-Net's arrays.
    axis = 0 if transposed else 2
    assert mirror.allowed_axes == (0, 1, 2)
    assert trainer.inference_allowed_mirroring_axes == tuple({0, 1, 2} - {axis})
    labels = np.arange(8).reshape(1, 2, 2, 2) % 3
    mirror.get_parameters = lambda **_: {"axes": [axis]}
    found = mirror(image=torch.zeros(1, 2, 2, 2), segmentation=torch.from_numpy(labels))["segmentation"].numpy()
    np.testing.assert_array_equal(found, np.array([0, 2, 1])[np.flip(labels, axis + 1)])


def test_what_cannot_be_told_is_refused(small_trainer, kidneys, monkeypatch):
    with pytest.raises(UserError, match="mirrors images and --no_mirroring does not"):
        small_trainer(mirror_pairs=True, mirroring=False)
    trainer = small_trainer(mirror_pairs=True)
    usual = trainer.dataset_class.load_case
    turned = {"sitk_stuff": {"direction": (0.0, 1, 0, 1, 0, 0, 0, 0, 1)}}

    def load(self, case):
        return (*usual(self, case)[:-1], turned) if case == "case_3" else usual(self, case)

    monkeypatch.setattr(trainer.dataset_class, "load_case", load)
    with pytest.raises(UserError, match="in case_0 it is x and in case_3 y; bring them into one orientation"):
        mirrors_of(trainer)


def test_datasets_without_pairs_are_refused(small_trainer):
    with pytest.raises(UserError, match=r"expects classes that differ by left and right .* but found liver, spleen"):
        small_trainer(mirror_pairs=True)


def test_sources_that_annotate_one_side_are_refused(tiny_collection):
    file = Path(os.environ["nnUNet_preprocessed"]) / tiny_collection / "dataset.json"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("B/spleen", "B/kidney_left").replace('B/kidney"', 'B/kidney_right"'), encoding="utf-8")
    options = TrainingOptions(mirror_pairs=True)
    trainer = make_trainer(
        TrainingRun(tiny_collection, "3d_fullres", 0, "MultiTalentTrainer_unet", device="cpu", options=options)
    )
    with pytest.raises(UserError, match="but B_1 has B/kidney_left without B/kidney_right"):
        trainer.initialize()


def test_trees_are_mirrored_on_demand_only(tiny_tree_collection):
    for options, axes in ((TrainingOptions(), None), (TrainingOptions(mirroring=True), (0, 1, 2))):
        trainer = make_trainer(
            TrainingRun(tiny_tree_collection, "3d_fullres", 0, "LabelTreeTrainer_unet", device="cpu", options=options)
        )
        trainer.initialize()
        assert len(mirrors_of(trainer)) == (axes is not None)
        assert trainer.inference_allowed_mirroring_axes == axes
