"""What a prediction has noted spares the next one from reading label maps."""

from __future__ import annotations

import os
import shutil

import pytest
import SimpleITK
import torch

from nnunetv2_ext.inference import Predictor, results
from nnunetv2_ext.inference.journal import Journal
from nnunetv2_ext.inference.prediction_run import PredictionOptions, PredictionRun

CASES = ("a", "b", "c")
CONTINUE = PredictionOptions(continue_prediction=True, progress_bar=False)


@pytest.fixture
def predictor(softmax_model):
    return Predictor.from_model_folder(softmax_model, device="cpu", mode="fastest")


@pytest.fixture
def images(tmp_path, make_ct):
    folder = tmp_path / "images"
    folder.mkdir()
    for seed, case in enumerate(CASES):
        SimpleITK.WriteImage(make_ct(seed=seed), str(folder / f"{case}_0000.nii.gz"))
    return folder


@pytest.fixture
def read(monkeypatch):
    """Names of the label maps that were read to see whether they are whole."""
    names = []
    is_complete = results.is_complete
    monkeypatch.setattr(results, "is_complete", lambda file: (names.append(file.name), is_complete(file))[1])
    return names


def _kept(predictor, images, target):
    return [case.identifier for case in PredictionRun(predictor, images, target, CONTINUE).kept]


def test_maps_that_are_as_noted_are_not_read_again(tmp_path, predictor, images, read):
    target = tmp_path / "out"
    options = PredictionOptions(num_parts=2, progress_bar=False)
    assert PredictionRun(predictor, images, target, options).run().failures == []
    PredictionRun(predictor, images, target, PredictionOptions(num_parts=2, part_id=1, progress_bar=False)).run()
    assert sorted(file.name for file in (target / "progress").iterdir()) == ["part0of2.jsonl", "part1of2.jsonl"]
    assert (_kept(predictor, images, target), read) == (list(CASES), [])
    shutil.copy(target / "b.nii.gz", target / "a.nii.gz")  # whole, but not what was noted
    os.utime(target / "c.nii.gz", (1, 1))
    assert (_kept(predictor, images, target), read) == (list(CASES), ["a.nii.gz", "c.nii.gz"])
    (target / "b.nii.gz").unlink()
    (target / "c.nii.gz").write_bytes((target / "c.nii.gz").read_bytes()[:-9])
    assert _kept(predictor, images, target) == ["a"]


@pytest.mark.parametrize("damage", [b"", b"[1]", b'{"case": 5}', b'{"case": "z"}', b"[" * 100_000, b"\xff\x00{"])
def test_a_note_that_is_damaged_is_no_note(tmp_path, predictor, images, read, damage):
    target = tmp_path / "out"
    run = PredictionOptions(progress_bar=False)
    PredictionRun(predictor, images / "a_0000.nii.gz", target, run).run()
    PredictionRun(predictor, images / "b_0000.nii.gz", target, run).run()
    notes = target / "progress" / "part0of1.jsonl"
    lines = notes.read_bytes().split(b"\n")
    notes.write_bytes(b"\n".join(lines[:-2]) + b"\n" + (damage or lines[-2][:40]))
    assert (_kept(predictor, images, target), read) == (["a", "b"], ["b.nii.gz"])
    # What is noted next stands in a line of its own.
    PredictionRun(predictor, images / "c_0000.nii.gz", target, run).run()
    read.clear()
    assert (_kept(predictor, images, target), read) == (list(CASES), ["b.nii.gz"])


def test_maps_of_another_model_are_not_kept(tmp_path, predictor, softmax_model, images):
    target = tmp_path / "out"
    PredictionRun(predictor, images, target, PredictionOptions(progress_bar=False)).run()
    other = shutil.copytree(softmax_model, tmp_path / "other")
    file = other / "fold_0" / "checkpoint_final.pth"
    content = torch.load(file, weights_only=False)
    torch.save(content | {"network_weights": {key: -value for key, value in content["network_weights"].items()}}, file)
    predictor = Predictor.from_model_folder(other, device="cpu", mode="fastest")
    run = PredictionRun(predictor, images, target, PredictionOptions(overwrite=True, progress_bar=False))
    run.cases = run.cases[:1]  # as if it were interrupted then
    run.run()
    assert _kept(predictor, images, target) == ["a"]


def test_maps_of_one_name_in_several_folders_are_told_apart(tmp_path, predictor):
    files = [tmp_path / source / "a.nii.gz" for source in ("liver", "spleen")]
    for file in files:
        file.parent.mkdir()
        file.write_bytes(file.parent.name.encode())
    journal = Journal(tmp_path, (0, 1), predictor.model)
    journal.add("a", files)
    noted = journal.read()["a"]
    assert journal.judge(noted, files)
    files[0].write_bytes(b"another")
    assert journal.judge(noted, files) is None
