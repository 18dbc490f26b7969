"""Fixtures for the tests of every room; those that only some rooms need are in the modules of `fixtures/`."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import sys
from pathlib import Path

import pytest

# The tests are written for two cores. More threads than cores, of one process or of several, only wait for each other:
# small networks train several times slower.
_processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, min(2, (os.cpu_count() or 1) // _processes))))
os.environ.setdefault("nnUNet_n_proc_DA", "0")
os.environ.setdefault("nnUNet_def_n_proc", "1")

# Shells start jobs in the background with interrupts ignored, and children inherit it; the tests send some.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = [
    "fixtures.command_runs",
    "fixtures.dicom_folders",
    "fixtures.images",
    "fixtures.imported_models",
    "fixtures.model_folders",
    "fixtures.multitalent_v2",
    "fixtures.preprocessed_datasets",
    "fixtures.published_checkpoints",
    "fixtures.ranks",
    "fixtures.raw_datasets",
    "fixtures.servers",
    "fixtures.small_trainers",
    "fixtures.training_ranks",
    "fixtures.whole_commands",
]

_SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """Leads what child processes ask of the network to a port at which nobody listens; pytest-socket stops this one."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy"):
            patch.setenv(name, "http://127.0.0.1:9")
            patch.setenv(name.upper(), "http://127.0.0.1:9")
        for name in ("no_proxy", "NO_PROXY"):
            patch.setenv(name, "127.0.0.1,localhost")
        yield


@pytest.fixture(autouse=True)
def threads_of_torch():
    """Gives torch its threads back, the number of which training commands set for the whole process."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(autouse=True)
def usual_log():
    """Undoes what commands set up for the log of the whole process."""
    yield
    logger = logging.getLogger("nnunetv2_ext")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def no_single_workers(monkeypatch):
    """Lets ``-np 1`` work in the process of the tests: a spawned one would import everything anew, for every call."""
    # Here, and not by what is imported already, which is another test's affair.
    from nnunetv2_ext.utilities import parallel

    workers, this = parallel.WorkerProcesses, parallel.ThisProcess
    monkeypatch.setattr(parallel, "WorkerProcesses", lambda number: this() if number == 1 else workers(number))


@pytest.fixture(scope="session")
def cuda():
    """A CUDA device; tests that ask for it are skipped where there is none."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    return torch.device("cuda")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """The CPU and, with the mark ``gpu``, a CUDA device: for tests that hold for both."""
    import torch

    return torch.device("cpu") if request.param == "cpu" else request.getfixturevalue("cuda")


@pytest.fixture
def nnunet_folders(tmp_path, monkeypatch):
    """Empty nnUNet_raw, nnUNet_preprocessed and nnUNet_results, set in the environment; returns their parent."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path


@pytest.fixture(scope="session")
def load_script():
    """``load_script("draw_rooms")``: a module of scripts/, which is no package."""

    def load(name):
        spec = importlib.util.spec_from_file_location(
            name, Path(__file__).resolve().parents[1] / "scripts" / f"{name}.py"
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def shared_folder():
    """The folder with real CTs and reference outputs beside a developer's checkout."""
    if not _SHARED.is_dir():
        pytest.skip("the folder with real CTs and reference outputs is not beside this checkout")
    return _SHARED


@pytest.fixture(scope="session")
def real_ct():
    """Folder with a small real CT, ``ct.nii.gz``, and ``totalsegmentator_v2_labels.nii.gz``."""
    return Path(__file__).resolve().parent / "data" / "ct_thorax_abdomen_3mm"


@pytest.fixture(scope="session")
def real_ct_folder(shared_folder):
    """Three more real CTs with masks, and a DICOM series."""
    return shared_folder / "data"


@pytest.fixture(scope="session")
def reference_folder(shared_folder):
    """Facts and expected outputs of tiny reference networks."""
    return shared_folder / "reference"
