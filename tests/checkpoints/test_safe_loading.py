from __future__ import annotations

import argparse
import collections
import os
import pickle

import numpy as np
import pytest
import torch

from nnunetv2_ext.checkpoints.safe_loading import load_pickle_file, load_torch_file
from nnunetv2_ext.utilities.errors import UserError

CONTENT = {
    "weights": collections.OrderedDict(a=torch.arange(6.0).reshape(2, 3)),
    "array": np.arange(4, dtype=np.float32),
    "scalar": np.float64(0.5),
    "lists": [1, "x", (2.0, None)],
}


class RunsACommand:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zip_format", [True, False])
def test_tensors_and_numpy_are_read(tmp_path, zip_format):
    torch.save(CONTENT, tmp_path / "c.pth", _use_new_zipfile_serialization=zip_format)
    read = load_torch_file(tmp_path / "c.pth")
    assert torch.equal(read["weights"]["a"], CONTENT["weights"]["a"])
    np.testing.assert_array_equal(read["array"], CONTENT["array"])
    assert read["scalar"] == 0.5
    assert read["lists"] == CONTENT["lists"]


def test_pickles_of_numpy_1_are_read(tmp_path):
    content = {"spacing": np.array([1.5, 1.0]), "n": np.int64(3), "flags": np.array([True]), "plans": {0: [1, 2]}}
    data = pickle.dumps(content, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "plans.pkl").write_bytes(data)
    read = load_pickle_file(tmp_path / "plans.pkl")
    np.testing.assert_array_equal(read["spacing"], content["spacing"])
    assert read["n"] == 3
    assert read["plans"] == {0: [1, 2]}


@pytest.mark.parametrize("zip_format", [True, False])
def test_code_in_a_checkpoint_is_not_executed(tmp_path, zip_format):
    marker = tmp_path / "executed"
    torch.save({"x": RunsACommand(marker)}, tmp_path / "c.pth", _use_new_zipfile_serialization=zip_format)
    with pytest.raises(UserError, match="safely"):
        load_torch_file(tmp_path / "c.pth")
    assert not marker.exists()


@pytest.mark.parametrize("zip_format", [True, False])
@pytest.mark.parametrize(
    ("content", "named"),
    [
        (argparse.Namespace(epochs=3), "found argparse.Namespace;"),
        (torch.nn.Linear(2, 2), "found torch.nn.modules.linear.Linear;"),
        (RunsACommand("never"), f"found {os.system.__module__}.system;"),
        (np.array([None], object), "found an array of type 'O8';"),
    ],
    ids=["argparse", "network", "command", "objects"],
)
def test_what_is_refused_is_named_and_nobody_is_advised_to_load_it_unsafely(tmp_path, zip_format, content, named):
    torch.save({"x": content}, tmp_path / "c.pth", _use_new_zipfile_serialization=zip_format)
    with pytest.raises(UserError) as error:
        load_torch_file(tmp_path / "c.pth")
    sentence = str(error.value)
    assert named in sentence
    assert "expected tensors" in sentence
    assert "save the network's state_dict alone" in sentence
    assert "\n" not in sentence
    for advice in ("weights_only", "PyTorch 2.6", "add_safe_globals", "will likely succeed", "\x1b"):
        assert advice not in sentence


def test_code_in_a_pickle_is_not_executed(tmp_path):
    marker = tmp_path / "executed"
    (tmp_path / "p.pkl").write_bytes(pickle.dumps({"x": RunsACommand(marker)}))
    with pytest.raises(UserError, match=r"system"):
        load_pickle_file(tmp_path / "p.pkl")
    assert not marker.exists()


@pytest.mark.parametrize("zip_format", [True, False])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_truncated_files_are_refused(tmp_path, zip_format, kept):
    torch.save(CONTENT, tmp_path / "c.pth", _use_new_zipfile_serialization=zip_format)
    data = (tmp_path / "c.pth").read_bytes()
    (tmp_path / "c.pth").write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(UserError):
        load_torch_file(tmp_path / "c.pth")


@pytest.mark.parametrize("content", [b"\x1f\x8b\x08\x00", b'{"labels": 1}', b"\x89PNG\r\n", b"hello"])
def test_other_files_are_not_called_unsafe(tmp_path, content):
    (tmp_path / "ct.nii.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"ct\.nii\.gz is truncated or is not a checkpoint"):
        load_torch_file(tmp_path / "ct.nii.gz")


@pytest.mark.parametrize("load", [load_torch_file, load_pickle_file])
def test_other_files_and_missing_files_are_refused(tmp_path, load):
    (tmp_path / "notes.txt").write_text("This is not a checkpoint.")
    with pytest.raises(UserError):
        load(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="none"):
        load(tmp_path / "missing.pth")
