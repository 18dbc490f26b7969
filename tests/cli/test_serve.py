"""The command as it is run: in a process of its own, whose workers are killed with it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
import SimpleITK

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from fixtures.servers import ended

from nnunetv2_ext.cli.serve import main
from nnunetv2_ext.images.reading import read_volume
from nnunetv2_ext.inference import Predictor
from nnunetv2_ext.serving.http.listening import listen

COMMAND = "from nnunetv2_ext.cli.serve import main; raise SystemExit(main())"


def refused(capsys, *arguments):
    assert main(list(map(str, arguments))) == 2
    return capsys.readouterr().err


def test_beyond_this_machine_a_token_is_demanded(softmax_model, tmp_path, capsys):
    said = refused(capsys, "-m", softmax_model, "-o", tmp_path / "jobs", "--host", "0.0.0.0")
    assert "Expected --token_file with --host 0.0.0.0" in said
    (tmp_path / "token").write_text("short")
    said = refused(
        capsys, "-m", softmax_model, "-o", tmp_path / "jobs", "--host", "0.0.0.0", "--token_file", tmp_path / "token"
    )
    assert "Expected a token of at least 16" in said
    assert not (tmp_path / "jobs").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-m", "nowhere"], "Expected a model folder at nowhere"),
        (["-m", "a/b={model}"], "name of the model"),
        (["-m", "a={model}", "a={model}"], "two are called a"),
        (["-m", "{model}", "--keep_hours", "0"], "above 0"),
        (["-m", "{model}", "--port", "70000"], "Expected a free port"),
        (["-m", "{model}", "--port", "{taken}"], "Expected a free port"),
        (["-m", "{model}", "--host", "no.such.host.invalid", "--token_file", "{token}"], "address of this machine"),
    ],
)
def test_what_cannot_be_served_is_refused_before_models_are_read(softmax_model, tmp_path, capsys, arguments, said):
    (tmp_path / "token").write_text("0123456789abcdef")
    with listen("127.0.0.1", 0) as (socket, _):
        values = {"model": softmax_model, "taken": socket.getsockname()[1], "token": tmp_path / "token"}
        words = [word.format(**values) for word in arguments]
        assert said in refused(capsys, *words, "-o", tmp_path / "jobs")
    assert not (tmp_path / "jobs").exists()


@contextmanager
def serving(model, folder):
    """A server in a process of its own, and a client of it; it is killed at the end."""
    import httpx

    arguments = ["-m", f"organs={model}", "-o", str(folder), "--port", "0", "-device", "cpu", "--mode", "fast"]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert address, f"{line}\n{process.communicate(timeout=30)[1]}"
        with httpx.Client(base_url=address[0], timeout=60) as client:
            yield process, client
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_after_sigkill_every_accepted_job_ends_once_and_sigterm_ends_in_order(softmax_model, tmp_path, make_ct):
    file = tmp_path / "ct.nii.gz"
    SimpleITK.WriteImage(make_ct((60, 60, 40)), str(file))
    scan = file.read_bytes()
    folder = tmp_path / "server"
    with serving(softmax_model, folder) as (process, client):
        jobs = [client.post("/jobs", files={"file": ("ct", scan)}).json()["id"] for _ in range(4)]
        deadline = time.monotonic() + 60
        while client.get(f"/jobs/{jobs[0]}").json()["state"] == "waiting":
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        # It was killed amid its work.
        assert not all((folder / "jobs" / job / "result_1").exists() for job in jobs)
    with serving(softmax_model, folder) as (process, client):
        assert [ended(client, job)["state"] for job in jobs] == ["done"] * 4
        assert {job["id"] for job in client.get("/jobs").json()["jobs"]} == set(jobs)
        image = Predictor.from_model_folder(softmax_model, device="cpu", mode="fast").predict(file)
        expected = SimpleITK.GetArrayFromImage(image)
        for job in jobs:
            (tmp_path / "answer.nii.gz").write_bytes(client.get(f"/jobs/{job}/result").content)
            assert np.array_equal(read_volume(tmp_path / "answer.nii.gz").array, expected)
        (done,) = re.findall(r"jobs_done_total (\d+)", client.get("/metrics").text)
        assert 1 <= int(done) <= 4
        assert "model_loads_total 1" in client.get("/metrics").text
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
        said = process.stderr.read()
        assert "Traceback" not in said
        assert "not a medical device" in said
