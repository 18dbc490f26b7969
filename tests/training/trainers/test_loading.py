from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_ext.training.dataloading import processes
from nnunetv2_ext.training.options import TrainingOptions, seed_everything
from nnunetv2_ext.training.run_training import TrainingRun, make_trainer
from nnunetv2_ext.utilities.errors import UserError


def _trainer(dataset, name="STUNetTrainer_small", **options):
    run = TrainingRun(dataset, "3d_fullres", 0, name, device="cpu", options=TrainingOptions(batch_size=2, **options))
    trainer = make_trainer(run)
    trainer.initialize()
    return trainer


@pytest.mark.parametrize("regions", [False, True], ids=["softmax", "regions"])
def test_batches_are_those_of_nnunets_loaders(tiny_dataset, regions):
    if regions:
        file = Path(os.environ["nnUNet_preprocessed"]) / tiny_dataset / "dataset.json"
        labels = {"background": 0, "both": [1, 2], "spleen": [2, 2]}
        content = {**json.loads(file.read_text()), "labels": labels, "regions_class_order": [1, 2]}
        file.write_text(json.dumps(content), encoding="utf-8")
    trainer = _trainer(tiny_dataset, num_workers=0, seed=1)
    batches = []
    for get in (nnUNetTrainer.get_dataloaders, type(trainer).get_dataloaders):
        seed_everything(1)
        batches.append([next(loader) for loader in get(trainer)])
    for expected, found in zip(*batches, strict=True):
        assert list(found["keys"]) == list(expected["keys"])
        assert torch.equal(found["data"], expected["data"])
        for level, other in zip(found["target"], expected["target"], strict=True):
            assert torch.equal(level, other)
            assert level.dtype == other.dtype


def test_no_more_processes_load_than_the_memory_holds(tiny_dataset, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_n_proc_DA", "4")
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr(processes, "free_memory", lambda: 10**12)
    trainer = _trainer(tiny_dataset, num_workers="auto")
    monkeypatch.setattr(processes, "free_shared_memory", lambda: 10**12)
    assert trainer._processes([32, 32, 32]) == 4
    # A batch of 24^3 voxels of one channel takes 166 kB with its target; 16 of them and a few more travel at once.
    monkeypatch.setattr(processes, "free_shared_memory", lambda: 4_250_000)
    assert trainer._processes([32, 32, 32]) == 1
    assert "The memory holds 1 processes that load data, of 4 wanted." in capsys.readouterr().out


def test_trainers_that_cannot_fit_processes_to_memory_say_so(tiny_dataset):
    with pytest.raises(UserError, match="expects a number after --num_workers, but got auto"):
        _trainer(tiny_dataset, "nnUNetTrainer", num_workers="auto")


def test_weights_of_cases_count_beside_those_of_a_collection(tiny_collection, tmp_path):
    file = tmp_path / "weights.json"
    file.write_text('{"A_1": 0, "A_2": 3}', encoding="utf-8")
    loader, validation = _trainer(
        tiny_collection, "MultiTalentTrainer_unet", num_workers=0, case_weights=str(file)
    ).get_dataloaders()
    drawn = dict(zip(loader.data_loader.indices, loader.data_loader.sampling_probabilities, strict=True))
    # Three training cases of A and one of B: 1 / sqrt(3) each and 1, times the weights.
    weights = {"A_1": 0, "A_2": 3 / np.sqrt(3), "A_3": 1 / np.sqrt(3), "B_2": 1}
    assert drawn == pytest.approx({case: weight / sum(weights.values()) for case, weight in weights.items()})
    assert len(set(np.round(validation.data_loader.sampling_probabilities, 9))) == 2
