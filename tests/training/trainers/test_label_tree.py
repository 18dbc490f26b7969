from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunetv2_ext.training.options import TrainingOptions
from nnunetv2_ext.training.run_training import TrainingRun, make_trainer, run_training
from nnunetv2_ext.utilities.errors import UserError

SHORT = TrainingOptions(
    num_epochs=1, iterations_per_epoch=2, val_iterations_per_epoch=1, batch_size=2, seed=1, num_workers=0
)
LONG = TrainingOptions(
    num_epochs=10, iterations_per_epoch=60, val_iterations_per_epoch=1, batch_size=2, seed=1, num_workers=0
)
LEAVES = [0, 3, 4, 5]


def run_of(dataset, trainer="LabelTreeTrainer_unet", options=SHORT):
    return TrainingRun(dataset, "3d_fullres", 0, trainer, device="cpu", options=options)


def fold_folder(dataset, trainer="LabelTreeTrainer_unet"):
    return Path(os.environ["nnUNet_results"]) / dataset / f"{trainer}__nnUNetPlans__3d_fullres" / "fold_0"


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def test_a_dataset_without_a_tree_is_refused(tiny_dataset):
    with pytest.raises(UserError, match="-tr nnUNetTrainer, or give it a label tree"):
        make_trainer(run_of(tiny_dataset))


def test_gives_node_logits_in_training_and_leaf_log_probabilities_in_prediction(tiny_tree_collection):
    trainer = make_trainer(run_of(tiny_tree_collection))
    trainer.initialize()
    image = torch.randn(1, 1, *trainer.configuration_manager.patch_size)
    with torch.no_grad():
        in_training = trainer.network.train()(image)
        trainer.on_validation_epoch_start()
        in_validation = trainer.network(image)
        trainer.outputs.validate(trainer.network, False)
        trainer.set_deep_supervision_enabled(False)
        predicted = trainer.network(image)
    assert len(in_training) == len(in_validation)
    torch.testing.assert_close(in_training[0], in_validation[0])
    probabilities = predicted.softmax(1)
    top = in_training[0][:, [0, 1]].softmax(1)
    body = in_training[0][:, [2, 5]].softmax(1) * top[:, 1:]
    bones = in_training[0][:, [3, 4]].softmax(1) * body[:, :1]
    expected = torch.cat([top[:, :1], bones, body[:, 1:]], 1)
    torch.testing.assert_close(probabilities[:, LEAVES], expected, rtol=1e-4, atol=1e-6)
    assert set(predicted.argmax(1).unique().tolist()) <= set(LEAVES)
    # nnU-Net adds up windows times Gaussian weights of up to 10 in half precision.
    assert (predicted.abs() * 10 * 8).max() < torch.finfo(torch.float16).max


def test_validation_counts_nodes_that_the_source_determines(tiny_tree_collection):
    trainer = make_trainer(run_of(tiny_tree_collection))
    trainer.initialize()
    batch = next(trainer.get_dataloaders()[1])
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        result = trainer.validation_step(batch)
        trainer.outputs.validate(trainer.network, False)
        leaves = trainer.network(batch["data"])[0].argmax(1)
    below = {2: [2, 3, 4], 3: [3], 4: [4]}
    hits = np.zeros(6, int)
    for case, predicted, label_map in zip(batch["keys"], leaves, batch["target"][0][:, 0], strict=True):
        # B annotates both bones, so that it determines their parent as well.
        for node in (2,) if case.startswith("A") else (2, 3, 4):
            values = torch.tensor(below[node])
            hits[node] += int((torch.isin(predicted, values) & torch.isin(label_map, values)).sum())
    assert result["tp_hard"].tolist() == hits.tolist()
    assert result["fp_hard"][[0, 1, 5]].tolist() == [0, 0, 0]


@pytest.mark.slow
@pytest.mark.usefixtures("threads_instead_of_processes")
def test_tells_bones_apart_where_only_bones_were_annotated(tiny_tree_collection, tiny_tree_structures, monkeypatch):
    """Source A annotates bones, source B rib and hip: the network separates them on A's cases too."""
    import SimpleITK as sitk

    # Threads cost such a tiny network more than they give, and on a busy machine very much more.
    monkeypatch.setattr("multiprocessing.cpu_count", lambda: 1)
    run_training(run_of(tiny_tree_collection, options=LONG))
    validation = fold_folder(tiny_tree_collection) / "validation"
    scores = {"leaves on A": [], "bones on B": []}
    for case in ("A_0", "A_1", "B_0", "B_1"):
        found = sitk.GetArrayFromImage(sitk.ReadImage(str(validation / f"{case}.nii.gz")))
        truth = tiny_tree_structures[case]
        assert set(np.unique(found).tolist()) <= set(LEAVES)
        if case.startswith("A"):
            scores["leaves on A"] += [dice(found == value, truth == value) for value in (3, 4)]
        else:
            scores["bones on B"].append(dice(np.isin(found, (3, 4)), np.isin(truth, (3, 4))))
    assert np.mean(scores["leaves on A"]) >= 0.7, scores
    assert np.mean(scores["bones on B"]) >= 0.7, scores

    summary = json.loads((validation / "summary.json").read_text())
    metrics = {Path(case["prediction_file"]).name: set(case["metrics"]) for case in summary["metric_per_case"]}
    assert metrics["A_0.nii.gz"] == {"(2, 3, 4)"}
    assert metrics["B_0.nii.gz"] == {"(2, 3, 4)", "(3,)", "(4,)"}
    assert summary["class_names"]["(2, 3, 4)"] == "bones"
    assert summary["mean"]["(2, 3, 4)"]["Dice"] >= 0.7
