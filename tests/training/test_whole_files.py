"""What folds that train side by side read of each other."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet_module

from nnunetv2_ext.training.options import TrainingOptions
from nnunetv2_ext.training.run_training import TrainingRun, make_trainer
from nnunetv2_ext.training.whole_files import whole_files

FILES = ("splits_final.json", "plans.json", "dataset.json", "dataset_fingerprint.json")


def _read_all_the_time(files, ended):
    """Reads files until they are no longer written; returns how often, and the first that was not whole."""
    count = 0
    while not ended.is_set():
        for file in files:
            try:
                content = file.read_text(encoding="utf-8")
                json.loads(content)
            except FileNotFoundError:
                continue
            except ValueError:
                return count, f"{file.name}: {content[:40]!r}"
            count += 1
    return count, None


@pytest.mark.parametrize("trainer", ["FineTuneTrainer_unet", "nnUNetTrainer"])
def test_five_folds_that_start_at_once_read_whole_files(tiny_dataset, monkeypatch, trainer):
    """The folds are threads, each of which starts several times."""
    preprocessed = Path(os.environ["nnUNet_preprocessed"]) / tiny_dataset
    options = TrainingOptions(batch_size=2, num_workers=0)
    trainers = [
        make_trainer(TrainingRun("7", "3d_fullres", fold, trainer, device="cpu", options=options)) for fold in range(5)
    ]
    base = Path(trainers[0].output_folder_base)
    files = [preprocessed / FILES[0], *(base / name for name in FILES[1:])]
    for name in ("get_dataloaders", "print_plans", "plot_network_architecture"):
        monkeypatch.setattr(trainers[0].__class__, name, lambda self: (None, None))
    for name in ("set_deep_supervision_enabled", "resume_optimizer", "_save_debug_information"):
        monkeypatch.setattr(trainers[0].__class__, name, lambda *_: None, raising=False)

    starts = threading.Barrier(5, lambda: (preprocessed / FILES[0]).unlink(missing_ok=True), timeout=60)

    def start(fold):
        for _ in range(10):
            starts.wait()
            fold.was_initialized, fold.dataset_class = True, fold.dataset_class or _dataset_class(fold)
            fold.do_split()
            fold.on_train_start()

    ended = threading.Event()
    with ThreadPoolExecutor(6) as threads, whole_files():
        reading = threads.submit(_read_all_the_time, files, ended)
        folds = [threads.submit(start, fold) for fold in trainers]
        try:
            for fold in folds:
                fold.result()
        finally:
            ended.set()
        count, broken = reading.result()
    assert broken is None
    assert count > 50
    assert not list(base.glob(".*")) + list(preprocessed.glob(".splits*"))
    assert json.loads(files[0].read_text(encoding="utf-8"))[0].keys() == {"train", "val"}
    assert json.loads(files[1].read_text(encoding="utf-8"))["plans_name"] == "nnUNetPlans"
    assert files[3].read_bytes() == (preprocessed / FILES[3]).read_bytes()


def _dataset_class(trainer):
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    return infer_dataset_class(trainer.preprocessed_dataset_folder)


def test_trainings_write_whole_files(tiny_dataset):
    """Whatever starts them: the trainer of this package by itself, and stock ones by the command."""
    before = nnunet_module.save_json, nnunet_module.shutil
    trainer = make_trainer(TrainingRun("7", "3d_fullres", 0, "FineTuneTrainer_unet", device="cpu"))
    with trainer._fold_lock():
        assert nnunet_module.save_json.__name__ == "save_json"
        assert nnunet_module.save_json is not before[0]
        assert nnunet_module.shutil is not before[1]
    assert (nnunet_module.save_json, nnunet_module.shutil) == before
