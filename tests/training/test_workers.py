"""The processes of a training: gone when it is, and named when they die."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunetv2_ext.cli.train import main
from nnunetv2_ext.training.stopping import GO_ON_LATER

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="loaders are forked there")
ARGUMENTS = [
    "7",
    "3d_fullres",
    "0",
    "-tr",
    "FineTuneTrainer_unet",
    "-device",
    "cpu",
    "--num_epochs",
    "99",
    "--batch_size",
]
ARGUMENTS += ["2", "--iterations_per_epoch", "1", "--val_iterations_per_epoch", "1", "--num_workers", "1"]
ARGUMENTS += ["--save_every", "1"]


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    monkeypatch.setenv("nnUNet_compile", "f")


@pytest.mark.slow
def test_the_death_of_a_loader_is_told_in_one_sentence(tiny_dataset, monkeypatch, capsys):
    from nnunetv2_ext.training.trainers.base import ExtTrainer

    start = ExtTrainer.on_epoch_start
    of_other_tests = {child.pid for child in multiprocessing.active_children()}

    def kill_a_loader(trainer):
        if trainer.current_epoch == 1:
            loaders = [child for child in multiprocessing.active_children() if child.pid not in of_other_tests]
            loaders[0].kill()
        start(trainer)

    monkeypatch.setattr("multiprocessing.cpu_count", lambda: 1)
    monkeypatch.setattr(ExtTrainer, "on_epoch_start", kill_a_loader)
    assert main(ARGUMENTS) == 2
    error = capsys.readouterr().err
    # active_children() has no order: the process ended may load data of either kind.
    assert re.search(r"that loads (training|validation) data was ended by SIGKILL \(most likely memory ran out", error)
    assert " GB of shared memory are free now; lower --num_workers" in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


def _children_of(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, above = stat.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(above) == parent and state != "Z":
            found.append(int(stat.parent.name))
    return found


def _is_there(process: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_loader_is_left_and_the_training_goes_on_from_its_checkpoint(tiny_dataset, number, monkeypatch, tmp_path):
    code = "import sys; from nnunetv2_ext.cli.train import main; sys.exit(main())"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    with open(tmp_path / "output", "w", encoding="utf-8") as output:
        process = subprocess.Popen([sys.executable, "-c", code, *ARGUMENTS], stdout=output, stderr=output)
    results = Path(os.environ["nnUNet_results"])
    while not list(results.rglob("checkpoint_latest.pth")):
        assert process.poll() is None, (tmp_path / "output").read_text()
        time.sleep(0.1)
    loaders = _children_of(process.pid)
    assert len(loaders) == 2
    os.kill(process.pid, number)
    process.wait(timeout=60)
    end = time.monotonic() + 10
    while any(map(_is_there, loaders)) and time.monotonic() < end:
        time.sleep(0.1)
    left = [loader for loader in loaders if _is_there(loader)]
    for loader in left:
        os.kill(loader, signal.SIGKILL)
    assert not left
    assert process.returncode == (-9 if number == signal.SIGKILL else GO_ON_LATER)
    if number == signal.SIGKILL:
        from nnunetv2_ext.checkpoints import read_checkpoint

        for checkpoint in results.rglob("checkpoint_*.pth"):
            read_checkpoint(checkpoint)
    else:
        output = (tmp_path / "output").read_text()
        assert "Traceback" not in output
        assert "SIGTERM asked to stop: the training stops in epoch" in output
        assert not list(results.rglob("*.tmp*"))
