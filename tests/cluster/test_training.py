"""Trainings of one or several ranks: what they agree on before they begin, and what becomes of them together."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fixtures.training_ranks import free_port, losses

from nnunetv2_ext.cluster import training
from nnunetv2_ext.cluster.distributed import device_of
from nnunetv2_ext.cluster.meeting import Meeting
from nnunetv2_ext.cluster.ranks import Ranks
from nnunetv2_ext.training.checks import check_run, restarted
from nnunetv2_ext.training.options import TrainingOptions
from nnunetv2_ext.training.run_training import TrainingRun
from nnunetv2_ext.training.trainers.base import ALLOW_FRESH_START
from nnunetv2_ext.utilities.errors import UserError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be sent signals there")
HERE = socket.gethostname()
UNET = "FineTuneTrainer_unet"


def run_of(dataset, **changes):
    return TrainingRun(**{"dataset": dataset, "configuration": "3d_fullres", "fold": 0, "trainer": UNET,
                          "device": "cpu", "options": TrainingOptions(batch_size=2), **changes})  # fmt: skip


def fold_of(dataset, trainer=UNET, fold=0):
    return Path(os.environ["nnUNet_results"]) / dataset / f"{trainer}__nnUNetPlans__3d_fullres" / f"fold_{fold}"


# Before the training -------------------------------------------------------------------------------------------------


@pytest.fixture
def agree(monkeypatch):
    """Lets two ranks, threads of this process, agree on their runs; returns what each raised."""

    def run(of_first, of_second):
        port = free_port()

        def rank(number):
            try:
                with Meeting(Ranks(number, 2, number, 0, "127.0.0.1", port), 0.5) as meeting:
                    training._train_as_rank((of_first, of_second)[number], meeting)
            except UserError as error:
                return str(error)

        monkeypatch.setattr(training, "process_group", lambda *_: pytest.fail("the ranks agree"))
        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(rank, range(2)))

    return run


def per_rank(monkeypatch, name, values):
    """Gives each rank a function of its own in place of one of the module."""
    usual = training._train_as_rank
    here = threading.local()

    def train_as_rank(run, meeting):
        here.rank = meeting.ranks.rank
        usual(run, meeting)

    monkeypatch.setattr(training, "_train_as_rank", train_as_rank)
    monkeypatch.setattr(training, name, lambda *arguments: values[here.rank](*arguments))


def test_ranks_with_other_arguments_are_refused(tiny_dataset, agree):
    """As of a loop over folds whose commands srun takes for one training."""
    run = run_of(tiny_dataset)
    expected = f"Expected the same fold in all ranks, but rank 1 on {HERE} has 1 and rank 0 on {HERE} has 0; make"
    for error in agree(run, dataclasses.replace(run, fold=1)):
        assert expected in error
        assert "trainings that do not belong together are started one by one" in error


def test_ranks_with_other_versions_are_refused(tiny_dataset, agree, monkeypatch):
    usual = training._facts
    per_rank(
        monkeypatch, "_facts", [lambda run, torch=number: {**usual(run), "torch": torch} for number in ("2.12", "2.11")]
    )
    expected = f"the same torch in all ranks, but rank 1 on {HERE} has 2.11 and rank 0 on {HERE} has 2.12"
    assert all(expected in error for error in agree(run_of(tiny_dataset), run_of(tiny_dataset)))


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("nnUNetPlans.json", "plans"),
        ("dataset.json", "plans"),
        ("splits_final.json", "folds"),
        ("nnUNetPlans_3d_fullres/case_1.pkl", "preprocessed data (names and sizes of files)"),
    ],
)
def test_ranks_with_other_plans_or_data_are_refused(tiny_dataset, agree, monkeypatch, file, what):
    run = run_of(tiny_dataset)
    path = Path(os.environ["nnUNet_preprocessed"]) / tiny_dataset / file
    before = training._digests(run, 2)
    path.write_bytes((path.read_bytes() if path.exists() else b"[]") + b" ")
    after = training._digests(run, 2)
    per_rank(monkeypatch, "_digests", (lambda *_: before, lambda *_: after))
    for error in agree(run, run):
        assert f"Expected the same {what} in all ranks, but rank 1 on {HERE} has {after[what]}" in error


def test_results_that_are_not_shared_are_found(tiny_dataset, agree, monkeypatch, tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
    per_rank(monkeypatch, "nnunet_folder", (lambda _: tmp_path / "a", lambda _: tmp_path / "b"))
    for error in agree(run_of(tiny_dataset), run_of(tiny_dataset)):
        assert f"one folder that all ranks share, but rank 1 on {HERE} does not see in" in error
    assert not any(file for folder in "ab" for file in (tmp_path / folder).iterdir())
    assert not any(Path(os.environ["nnUNet_results"]).iterdir())


def test_ranks_that_would_go_on_from_different_checkpoints_are_refused(tiny_dataset, agree, monkeypatch):
    run = run_of(tiny_dataset, continue_training=True)
    of_second = training._digests(run, 2)
    fold_of(tiny_dataset).mkdir(parents=True)
    (fold_of(tiny_dataset) / "checkpoint_latest.pth").touch()
    of_first = training._digests(run, 2)
    per_rank(monkeypatch, "_digests", (lambda *_: of_first, lambda *_: of_second))
    for error in agree(run, run):
        assert f"the same checkpoint in all ranks, but rank 1 on {HERE} has none" in error


@pytest.mark.parametrize(("batch_size", "ranks"), [(1, 2), (3, 2), (2, 4)])
def test_a_batch_that_ranks_cannot_share_evenly_is_refused(tiny_dataset, batch_size, ranks):
    run = run_of(tiny_dataset, options=TrainingOptions(batch_size=batch_size))
    check_run(run)
    message = f"Expected a batch that {ranks} processes share evenly, but the batch size is {batch_size}"
    with pytest.raises(UserError, match=message) as refused:
        check_run(run, ranks)
    better = int(str(refused.value).rpartition("--batch_size ")[2].rstrip("."))
    check_run(run_of(tiny_dataset, options=TrainingOptions(batch_size=better)), ranks)


def test_a_rank_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert device_of(Ranks(0, 2, 0), "cuda") == "cuda:0"
    with pytest.raises(UserError, match="Expected a GPU for LOCAL_RANK 1, but torch finds 1 here"):
        device_of(Ranks(1, 2, 1), "cuda")
    # srun --gpus-per-task=1 numbers the GPU of each rank 0.
    assert device_of(Ranks(1, 2, 1, nodes="gpu01"), "cuda") == "cuda:0"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    # The second of two machines with four GPUs.
    assert device_of(Ranks(6, 8, 2), "cuda") == "cuda:2"
    with pytest.raises(UserError, match="-device mps trains in one process, but this is one of 2"):
        device_of(Ranks(0, 2), "mps")


def test_a_batch_script_without_srun_says_that_it_trains_alone(tiny_dataset, monkeypatch, caplog):
    trained = []
    monkeypatch.setattr(training, "run_training", trained.append)
    monkeypatch.setenv("SLURM_NTASKS", "2")
    with caplog.at_level(logging.WARNING):
        training.train(run_of(tiny_dataset))
    assert trained == [run_of(tiny_dataset)]
    assert "SLURM_NTASKS is 2, but this command is not started by srun" in caplog.text


def test_the_number_of_gpus_is_left_to_the_launcher(tiny_dataset, monkeypatch):
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "a",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="-num_gpus to be left out where torchrun or srun start the ranks, 4 here"):
        training.train(run_of(tiny_dataset, num_gpus=2))


def test_more_gpus_than_there_are_are_refused(tiny_dataset, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="-num_gpus 2 expects as many GPUs, but torch finds 1"):
        training.train(run_of(tiny_dataset, num_gpus=2, device="cuda"))


# Started again -------------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh_starts(monkeypatch):
    monkeypatch.setenv(ALLOW_FRESH_START, "0")


@pytest.mark.parametrize("variable", ["SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"])
def test_a_job_that_is_queued_again_goes_on(tiny_dataset, monkeypatch, fresh_starts, variable):
    trained = []
    monkeypatch.setattr(training, "run_training", trained.append)
    training.train(run_of(tiny_dataset))
    monkeypatch.setenv(variable, "1")
    training.train(run_of(tiny_dataset))
    assert [run.continue_training for run in trained] == [False, True]
    assert os.environ[ALLOW_FRESH_START] == "1"


def test_a_job_that_replaces_a_training_replaces_it_once(tiny_dataset, fresh_starts):
    run = run_of(tiny_dataset, overwrite=True)
    fold = fold_of(tiny_dataset)
    fold.mkdir(parents=True)
    (fold / "checkpoint_final.pth").touch()
    assert restarted(run) == run
    from nnunetv2_ext.training.run_training import _set_aside

    _set_aside(fold)
    assert restarted(run) == dataclasses.replace(run, overwrite=False, continue_training=True)
    validation = run_of(tiny_dataset, only_validate=True)
    assert restarted(validation) == validation


def test_ranks_that_would_go_on_at_different_places_are_refused(monkeypatch):
    from nnunetv2_ext.training.run_training import _require_equal_epochs

    def gather(places, own):
        places[:] = [own, (3, 1)]

    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    trainer = SimpleNamespace(is_ddp=True, current_epoch=3, train_outputs=[{"loss": 1.0}])
    _require_equal_epochs(trainer)
    trainer.train_outputs = None
    with pytest.raises(UserError, match="but rank 1 would in epoch 3 after step 1, and rank 0 in epoch 3 after step 0"):
        _require_equal_epochs(trainer)


# Ranks as processes --------------------------------------------------------------------------------------------------


def _weights(run, rank):
    return torch.load(run.folder / f"weights_{rank}.pt", weights_only=True)


def _same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _scores(summary):
    """Case -> metrics."""
    content = json.loads(summary.read_text(encoding="utf-8"))
    cases = {Path(case["prediction_file"]).name: json.dumps(case["metrics"]) for case in content["metric_per_case"]}
    return cases, json.dumps(content["mean"])


def _train_equally(train_as_ranks, dataset, trainer, *flags, cases=6, nodes=None):
    """Two ranks and one process train the same, and validate the same weights in the same way."""
    folder = fold_of(dataset, trainer, "all")
    words = (dataset[7:10], "3d_fullres", "all", "-tr", trainer, *flags)
    alone = train_as_ranks(1, *words)
    assert alone.codes == [0], alone.outputs
    together = train_as_ranks(2, *words, "--overwrite", nodes=nodes)
    assert together.codes == [0, 0], together.outputs
    assert _same(_weights(together, 0), _weights(together, 1))
    ours = [losses(together, rank)[0] for rank in range(2)]
    expected = losses(alone, 0)[0]
    assert sum(of_rank[0] for of_rank in ours) / 2 == pytest.approx(expected[0], abs=1e-5)
    # The gradients were those of one process, too.
    assert losses(together, 0)[1] != losses(together, 0)[0]
    for name, value in _weights(alone, 0).items():
        torch.testing.assert_close(_weights(together, 0)[name], value, rtol=0, atol=1e-3, msg=name)
    by_two = _scores(folder / "validation" / "summary.json")
    validated = train_as_ranks(1, *words, "--val")
    assert validated.codes == [0], validated.outputs
    assert _scores(folder / "validation" / "summary.json") == by_two
    assert len(by_two[0]) == cases
    return together


@pytest.mark.slow
def test_two_ranks_train_as_one_process(tiny_dataset, train_as_ranks):
    run = _train_equally(train_as_ranks, tiny_dataset, UNET, "--warmup_heads", "0", "--warmup_network", "0")
    assert "Mean Validation Dice" in run.outputs[0]
    # Nothing but warnings and errors.
    assert "epoch" not in run.outputs[1].lower()
    assert "predicting" not in run.outputs[1]


@pytest.mark.slow
def test_two_ranks_train_a_collection_as_one_process(tiny_collection, train_as_ranks):
    _train_equally(train_as_ranks, tiny_collection, "MultiTalentTrainer_unet", cases=7)


@pytest.mark.slow
def test_two_ranks_fine_tune(tiny_dataset, train_as_ranks, make_model_folder, tmp_path):
    plans = json.loads((Path(os.environ["nnUNet_preprocessed"]) / tiny_dataset / "nnUNetPlans.json").read_text())
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    model = make_model_folder(tmp_path / "pretrained", changes={"architecture": architecture}, patch_size=(24, 24, 24))
    words = ("7", "3d_fullres", "0", "-tr", UNET, "-p", "nnUNetPlans", "-pretrained_weights", str(model))
    run = train_as_ranks(2, *words, "--max_hours", "0.000001", command="finetune")
    assert run.codes == [0, 0], run.outputs
    assert "Fine-tuning" in run.outputs[0]
    assert "are up in epoch 0 after step 0 of 2" in run.outputs[0]
    assert "Fine-tuning" not in run.outputs[1]
    assert "are up" not in run.outputs[1]
    assert (fold_of(tiny_dataset) / "checkpoint_latest.pth").is_file()
