"""scripts/benchmarks/run_all.py: every benchmark is in its table, and one that fails leaves the others alone."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from nnunetv2_ext.inference.model.folder import read_model

FOLDER = Path(__file__).resolve().parents[1] / "scripts" / "benchmarks"


@pytest.fixture
def run_all():
    spec = importlib.util.spec_from_file_location("run_all", FOLDER / "run_all.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # The dataclass in it looks its module up by name.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "run_all", module)
        spec.loader.exec_module(module)
        yield module


def test_no_benchmark_is_left_out(run_all):
    scripts = {file.stem for file in FOLDER.glob("*.py") if not file.name.startswith("_")}
    assert set(run_all.BENCHMARKS) == scripts - {"run_all"}


def test_one_that_fails_is_listed_and_the_others_go_on(run_all, tmp_path, monkeypatch):
    broken = run_all.Benchmark("--no_such_flag")
    elsewhere = run_all.Benchmark("", library="no_such_library")
    table = {
        "label_tree_loss": broken,
        "export": elsewhere,
        "partial_label_loss": run_all.BENCHMARKS["partial_label_loss"],
    }
    monkeypatch.setattr(run_all, "BENCHMARKS", table)
    out = tmp_path / "figures.json"
    assert run_all.main(["--quick", "--out", str(out), "--scans", str(tmp_path)]) == 1
    content = json.loads(out.read_text())
    assert "--no_such_flag" in content["failed"].pop("label_tree_loss")
    assert content["skipped"] == {"export": "no_such_library is not installed"}
    assert content["failed"] == {}
    assert content["versions"]["torch"]
    (entry,) = content["benchmarks"].values()
    assert {line["name"] for line in entry["results"]} == {"partial_label_loss"}


def test_the_models_that_benchmarks_predict_with_are_read(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    models = importlib.import_module("_models")
    architecture = {"features_per_stage": [4, 4], "n_blocks_per_stage": [1, 1], "strides": [[1] * 3, [2] * 3]}
    plans = models.plans_of([16] * 3, [1.5] * 3, architecture)
    folder = models.write_model_folder(tmp_path / "model", plans, models.dataset_json_of(3))
    assert read_model(folder).dataset_json == models.dataset_json_of(3)
