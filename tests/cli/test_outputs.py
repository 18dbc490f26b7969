"""What holds for the outputs of every command: whole or not at all, one run at a time, never in place of a source."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.command_runs import COMMANDS, ENDLESS, MAKERS

OVERWRITING = sorted(set(MAKERS) - {"train", "finetune", "info", "demo"})
# Runs of these start anew in a fold's folder, or take minutes to their end.
TO_THE_END = [*OVERWRITING, "info"]


def _files(*folders: Path) -> dict[str, str]:
    """Every file and folder that is there, with the hash of its content."""
    found = [folder for folder in folders if folder.is_file()]
    found += [path for folder in folders for path in sorted(folder.rglob("*"))]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in found}


def _leftovers(folder: Path) -> list[str]:
    """Hidden files and folders, which temporary ones and locks are."""
    return [str(path) for path in folder.rglob(".*")]


def _refused(run, arguments, capsys) -> str:
    """Runs a command that has to end with code 2 and one sentence; returns the sentence."""
    capsys.readouterr()
    code = type(run)(run.module, tuple(arguments), run.target).main()
    error = capsys.readouterr().err
    assert code == 2, error
    assert "Traceback" not in error
    return error


def test_no_command_is_left_out():
    assert set(MAKERS) | ENDLESS == set(COMMANDS)


# Interrupts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OVERWRITING)
def test_what_is_replaced_stays_until_the_new_one_is_complete(command_run, name, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run = command_run(name, out)
    assert run.main() == 0
    before = _files(out)

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    assert run.main(*run.overwrite) == 130
    assert _files(out) == before


_KILLED = """
import importlib, os, signal, sys
from nnunetv2_ext.utilities import parallel
parallel.WorkerProcesses = lambda number: parallel.ThisProcess()  # which write in some commands
os.replace = lambda *arguments, **options: os.kill(os.getpid(), signal.SIGKILL)
importlib.import_module(sys.argv[1]).main(sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is of POSIX")
@pytest.mark.parametrize("name", TO_THE_END)
def test_what_a_killed_run_left_is_cleared_by_the_next_one(command_run, name, tmp_path):
    run = command_run(name, tmp_path / "out")
    killed = subprocess.run([sys.executable, "-c", _KILLED, run.module, *run.arguments], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert _leftovers(tmp_path / "out")
    assert run.main() == 0
    assert _leftovers(tmp_path / "out") == []


# Full disks ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only administrators of Linux can mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(disk: Path, free: int) -> None:
    with open(disk / "ballast", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
        file.truncate(file.tell() - free)


@pytest.mark.slow
@pytest.mark.parametrize("free", [0, 1 << 12])
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_full_disk_ends_in_a_sentence_and_replaces_nothing(command_run, name, free, small_disk, capfd):
    run = command_run(name, small_disk)
    if run.overwrite:
        assert run.main() == 0
    before = _files(run.target)
    _fill(small_disk, free)
    capfd.readouterr()
    assert run.main(*run.overwrite) in (1, 2)
    output = "".join(capfd.readouterr())
    assert "No space left on device" in output
    assert "Traceback" not in output
    after = _files(run.target)
    assert {path: after.get(path) for path in before} == before
    assert not [path for path in _leftovers(small_disk) if ".tmp" in path]


_LIMITED = """
import importlib, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
sys.dont_write_bytecode = True
sys.exit(importlib.import_module(sys.argv[1]).main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="limits are of POSIX")
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_disk_that_refuses_large_files_ends_in_a_sentence(command_run, name, tmp_path):
    run = command_run(name, tmp_path / "out")
    ended = subprocess.run(
        [sys.executable, "-c", _LIMITED, run.module, *run.arguments], capture_output=True, encoding="utf-8", check=False
    )
    assert ended.returncode in (1, 2), ended.stderr
    assert "File too large" in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert not [path for path in _leftovers(tmp_path / "out") if ".tmp" in path]


# Two runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(MAKERS) - {"demo", "info"}))
def test_of_two_runs_one_is_refused(command_run, name, tmp_path, monkeypatch):
    run = command_run(name, tmp_path / "out")
    real, second, output = os.replace, [], tmp_path / "second.txt"

    def start_another(source, target, **options):
        # The first file of the first run is about to get its name; the descriptions of predictions are earlier.
        if not second and not (name == "predict" and str(target).endswith(".json")):
            with open(output, "w", encoding="utf-8") as file:
                command = [sys.executable, "-c", _MAIN, run.module, *run.arguments]
                second.append(subprocess.Popen(command, stdout=file, stderr=file))
            if name != "plan":  # whose second run waits
                second[0].wait(timeout=300)
        return real(source, target, **options)

    monkeypatch.setattr(os, "replace", start_another)
    assert run.main() == 0
    assert second[0].wait(timeout=300) == 2
    text = output.read_text()
    assert "Traceback" not in text
    assert "only run that writes" in text or (name == "plan" and "exists already" in text)


_MAIN = "import importlib, sys; sys.exit(importlib.import_module(sys.argv[1]).main(sys.argv[2:]))"


# Sources -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [(), ("overwrite",)])
@pytest.mark.parametrize("name", OVERWRITING)
def test_results_never_take_the_place_of_what_they_are_made_from(command_run, name, more, tmp_path, capsys):
    run = command_run(name, tmp_path / "out")
    before = _files(tmp_path)
    for arguments in run.overlapping:
        error = _refused(run, [*arguments, *(run.overwrite if more else ())], capsys)
        assert "choose another" in error or "exists already" in error
        assert _files(tmp_path) == before


# Predictions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--overwrite", "--continue_prediction"])
@pytest.mark.parametrize("where", ["dataset", "model"])
def test_predictions_do_not_replace_the_description_of_a_dataset_or_model(command_run, where, flag, tmp_path, capsys):
    run = command_run("predict", tmp_path / "out")
    target = tmp_path / "model"
    if where == "dataset":
        target = command_run("merge_datasets", tmp_path / "other").target.parent / "Dataset008_Own"
    before = _files(target)
    arguments = [*run.arguments[:2], "-o", str(target), *run.arguments[4:]]
    _refused(run, [*arguments, flag], capsys)
    assert _files(target) == before


def test_an_interrupted_prediction_is_not_finished_by_another_model(command_run, make_model_folder, tmp_path, capsys):
    run = command_run("predict", tmp_path / "out")
    assert run.main() == 0
    (run.target / "b.nii.gz").unlink()
    before = _files(run.target)
    # As large, of the same name, plans and classes: only the weights are others.
    other = make_model_folder(tmp_path / "new" / "model", folds=(1,))
    (other / "fold_1").rename(other / "fold_0")
    arguments = [str(other) if argument == str(tmp_path / "model") else argument for argument in run.arguments]
    assert "same model and options" in _refused(run, [*arguments, "--continue_prediction"], capsys)
    assert "same model and options" in _refused(
        run, [*run.arguments, "--continue_prediction", "--mode", "fast"], capsys
    )
    assert _files(run.target) == before
    assert run.main("--continue_prediction") == 0
    assert (run.target / "b.nii.gz").exists()
    assert type(run)(run.module, tuple(arguments), run.target).main("--overwrite") == 0


@pytest.mark.slow
def test_parts_of_one_prediction_share_a_folder(command_run, tmp_path):
    run = command_run("predict", tmp_path / "out")
    command = [sys.executable, "-c", _MAIN, run.module, *run.arguments, "-num_parts", "2", "-part_id"]
    parts = [subprocess.Popen([*command, str(part)]) for part in range(2)]
    assert [part.wait(timeout=300) for part in parts] == [0, 0]
    assert {"a.nii.gz", "b.nii.gz"} <= {file.name for file in run.target.iterdir()}
    assert _leftovers(run.target) == []
