from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

pytest.importorskip("monai", reason="the extra 'monai' is not installed")

from nnunetv2_ext.training.options import TrainingOptions
from nnunetv2_ext.training.run_training import TrainingRun, make_trainer, run_training
from nnunetv2_ext.utilities.errors import UserError

SHORT = TrainingOptions(num_epochs=1, iterations_per_epoch=1, val_iterations_per_epoch=1, seed=1, num_workers=0)
NETWORKS = {
    "SegResNetTrainer": ("SegResNet", {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}),
    "MonaiUNetTrainer": ("UNet", {"channels": [4, 8], "strides": [[2, 2, 2]]}),
}


@pytest.fixture(params=NETWORKS)
def run(request, tiny_dataset, monkeypatch):
    """A run of the trainer with plans that name its network."""
    monkeypatch.setattr("multiprocessing.cpu_count", lambda: 1)
    name, arguments = NETWORKS[request.param]
    file = Path(os.environ["nnUNet_preprocessed"]) / tiny_dataset / "nnUNetPlans.json"
    plans = json.loads(file.read_text())
    plans["configurations"]["3d_fullres"]["architecture"] = {
        "network_class_name": f"nnunetv2_ext.architectures.monai_networks.{name}",
        "arch_kwargs": arguments,
        "_kw_requires_import": [],
    }
    file.write_text(json.dumps(plans))
    return TrainingRun(tiny_dataset, "3d_fullres", 0, request.param, device="cpu", options=SHORT)


@pytest.mark.slow
@pytest.mark.usefixtures("threads_instead_of_processes")
def test_trains_validates_and_has_the_bundles_settings(run):
    run_training(run)
    trainer = make_trainer(run)
    trainer.initialize()
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    assert trainer.optimizer.param_groups[0]["lr"] == 1e-4
    assert trainer.optimizer.param_groups[0]["weight_decay"] == 1e-5
    trainer.set_deep_supervision_enabled(True)
    assert trainer.network.decoder.deep_supervision is False
    results = Path(os.environ["nnUNet_results"]) / run.dataset / f"{run.trainer}__nnUNetPlans__3d_fullres" / "fold_0"
    assert (results / "validation" / "summary.json").is_file()


def test_other_plans_are_refused(tiny_dataset):
    trainer = make_trainer(TrainingRun(tiny_dataset, "3d_fullres", 0, "SegResNetTrainer", device="cpu", options=SHORT))
    with pytest.raises(UserError, match=r"expects plans for a monai_networks\.SegResNet"):
        trainer.initialize()
