"""Commands that start workers: no end leaves one behind, and no crash in one ends the others' work."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")

# What becomes of a case of the name "special": a stand-in for a long or deadly call into a library.
_SPECIAL = """
import os, time
from nnunetv2_ext.utilities import parallel

work = parallel._Job.__call__

def act(job, item):
    if "special" in repr(item):
        {action}
    return work(job, item)

parallel._Job.__call__ = act
"""
_LONG = _SPECIAL.format(action="open(os.environ['STARTED'], 'w').close(); time.sleep(60)")
_DEADLY = _SPECIAL.format(action="os.kill(os.getpid(), 11)")
# GDCM meeting slices that break it.
_DEADLY_SERIES = """
import os
import SimpleITK

execute = SimpleITK.ImageSeriesReader.Execute

def act(reader):
    if "special" in reader.GetFileNames()[0]:
        os.kill(os.getpid(), 11)
    return execute(reader)

SimpleITK.ImageSeriesReader.Execute = act
"""
CASES = ("before", "special", "zlast")


def _write(path: Path, high: int) -> None:
    import SimpleITK

    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(len(path.name)).integers(0, high, (6, 7, 8)).astype(np.uint8)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path))


def _remap(folder: Path) -> list[str]:
    for case in CASES:
        _write(folder / "in" / f"{case}.nii.gz", 2)
    return ["-i", "in", "-o", "out", "--from", "totalsegmentator_v2", "--to", "totalsegmentator_v2"]


def _evaluate(folder: Path) -> list[str]:
    for case in CASES:
        for part in ("labelsTr", "pred"):
            _write(folder / part / f"{case}.nii.gz", 2)
    (folder / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}})
    )
    return ["-gt", "labelsTr", "-pred", "pred", "-o", "out"]


def _convert(folder: Path) -> list[str]:
    for case in CASES:
        _write(folder / "source" / "train" / case / f"{case}.nii.gz", 99)
        _write(folder / "source" / "train" / case / "GT.nii.gz", 5)
    return ["segthor", "-i", "source", "-d", "11"]


def _merge(folder: Path) -> list[str]:
    for number, name in ((3, "A"), (4, "B")):
        raw = folder / "nnUNet_raw" / f"Dataset{number:03d}_{name}"
        for case in CASES:
            _write(raw / "imagesTr" / f"{case}_0000.nii.gz", 99)
            _write(raw / "labelsTr" / f"{case}.nii.gz", 2)
        labels = {"background": 0, "organ": 1}
        content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 3, "file_ending": ".nii.gz"}
        (raw / "dataset.json").write_text(json.dumps(content))
    return ["3", "4", "-d", "50", "-n", "Both"]


COMMANDS = {"remap_labels": _remap, "evaluate": _evaluate, "convert_dataset": _convert, "merge_datasets": _merge}


def _start(command: str, arguments: list[str], folder: Path, special: str) -> subprocess.Popen[bytes]:
    (folder / "sitecustomize.py").write_text(special)
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    code = f"import sys; from nnunetv2_ext.cli.{command} import main; sys.exit(main())"
    folders = {name: str(folder / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={**os.environ, **folders, "PYTHONPATH": path, "STARTED": str(folder / "started")},
        stdout=open(folder / "output", "w", encoding="utf-8"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _processes_of(session: int) -> list[str]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, own = stat.read_text().rpartition(")")[2].split()[:4]
            if int(own) == session and state != "Z":
                found.append((stat.parent / "cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _check_the_end(process: subprocess.Popen[bytes], command: str, number: signal.Signals, folder: Path) -> None:
    """Ends a command while a worker is at a case, and checks what is left."""
    try:
        while not (folder / "started").exists():
            assert process.poll() is None, (folder / "output").read_text()
            time.sleep(0.05)
        # Ctrl-C reaches all processes of a terminal, what ends a job its first one.
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        process.wait(timeout=30)
        output = (folder / "output").read_text()
        end = time.monotonic() + 5
        while _processes_of(process.pid) and time.monotonic() < end:
            time.sleep(0.05)
        assert _processes_of(process.pid) == []
        assert "Traceback" not in output
        if number == signal.SIGKILL:
            return
        assert process.returncode == 128 + number
        assert f"nnUNetv2_ext_{command}: ended by {number.name}." in output
        assert not [path for path in folder.rglob(".*") if ".tmp" in path.name]
    finally:
        if _processes_of(process.pid):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_a_command_is_the_end_of_its_workers(command, number, tmp_path, nnunet_folders):
    process = _start(command, [*COMMANDS[command](tmp_path), "-np", "2"], tmp_path, _LONG)
    _check_the_end(process, command, number, tmp_path)


@pytest.mark.slow
def test_the_end_of_a_prediction_is_the_end_of_the_processes_that_share_its_cases(softmax_model, tmp_path):
    for case in CASES:
        _write(tmp_path / "images" / f"{case}.nii.gz", 99)
    arguments = ["-i", "images", "-o", "out", "-m", str(softmax_model), "-device", "cpu", "-num_gpus", "2"]
    _check_the_end(_start("predict", arguments, tmp_path, _LONG), "predict", signal.SIGTERM, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_crash_in_a_library_fails_the_case_and_not_the_run(command, tmp_path, nnunet_folders):
    process = _start(command, [*COMMANDS[command](tmp_path), "-np", "1"], tmp_path, _DEADLY)
    process.wait(timeout=60)
    output = (tmp_path / "output").read_text()
    assert process.returncode == (2 if command == "merge_datasets" else 1), output
    assert "special" in output
    assert "ended by SIGSEGV" in output
    assert "Traceback" not in output
    done = {
        "remap_labels": ["out/before.nii.gz", "out/zlast.nii.gz"],
        "evaluate": ["out/summary.json"],
        "convert_dataset": [f"nnUNet_raw/Dataset011_SegTHOR/labelsTr/{case}.nii.gz" for case in ("before", "zlast")],
        "merge_datasets": [],
    }
    assert all((tmp_path / file).is_file() for file in done[command]), output


@pytest.mark.slow
def test_dicom_on_which_gdcm_crashes_fails_the_case_and_not_the_prediction(softmax_model, miniature, tmp_path):
    for case in CASES:
        miniature.dicom(f"images/{case}", miniature.image())
    arguments = ["-i", str(miniature.root / "images"), "-o", "out", "-m", str(softmax_model), "-f", "0"]
    process = _start("predict", [*arguments, "-device", "cpu"], tmp_path, _DEADLY_SERIES)
    process.wait(timeout=200)
    output = (tmp_path / "output").read_text()
    assert process.returncode == 1, output
    assert "images/special was ended by SIGSEGV" in output
    written = sorted(file.name for file in (tmp_path / "out").glob("*.nii.gz"))
    assert written == ["mini_20200102_before.nii.gz", "mini_20200102_zlast.nii.gz"]


@pytest.mark.slow
@pytest.mark.parametrize("language", ["C.UTF-8", "C"])
def test_a_name_that_libraries_cannot_open_fails_the_case_and_not_the_run(language, tmp_path, monkeypatch):
    """SimpleITK aborts on a name that is no UTF-8, which all beyond ASCII are without a language."""
    for name, value in (("LC_ALL", language), ("PYTHONUTF8", "0"), ("PYTHONCOERCECLOCALE", "0")):
        monkeypatch.setenv(name, value)
    arguments = _remap(tmp_path)
    _write(tmp_path / "in" / "x.nrrd", 2)
    os.rename(tmp_path / "in" / "x.nrrd", os.fsencode(tmp_path / "in") + b"/m\xff.nrrd")
    process = _start("remap_labels", [*arguments, "-np", "1"], tmp_path, "")
    process.wait(timeout=60)
    output = (tmp_path / "output").read_text()
    assert process.returncode == 1, output
    assert "Expected a name in UTF-8" in output
    assert "Traceback" not in output
    assert len(list((tmp_path / "out").iterdir())) == 3


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_leaves_this_process_as_it_was(command, tmp_path, nnunet_folders, monkeypatch):
    import SimpleITK

    monkeypatch.chdir(tmp_path)
    threads = SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(3)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        main = importlib.import_module(f"nnunetv2_ext.cli.{command}").main
        assert main([*COMMANDS[command](tmp_path), "-np", "1", "--quiet"]) == 0
        assert SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads() == 3
        assert {number: signal.getsignal(number) for number in handlers} == handlers
    finally:
        SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def test_processes_that_a_command_forks_die_of_its_signals():
    """nnU-Net's pools end their workers by SIGTERM and wait: one that survives, or is tidied up, can block them."""
    from nnunetv2_ext.cli._command import make_parser, run_command

    codes = []

    def run(_):
        for _ in range(20):
            worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            worker.start()
            worker.terminate()
            worker.join(10)
            codes.append(worker.exitcode)
            worker.kill()

    assert run_command(make_parser("test", "test"), run, []) == 0
    assert codes == [-signal.SIGTERM] * 20
