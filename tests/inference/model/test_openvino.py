"""The network in OpenVINO against the same network in torch."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import SimpleITK
import torch

from nnunetv2_ext.inference import Predictor
from nnunetv2_ext.inference.model.folder import read_model
from nnunetv2_ext.inference.model.heads import select_heads
from nnunetv2_ext.inference.model.openvino import OpenVinoNetwork, cache_folder
from nnunetv2_ext.utilities.errors import UserError

openvino = pytest.importorskip("openvino", reason="the extra openvino is not installed")


@pytest.fixture
def network(softmax_model):
    return read_model(softmax_model).networks[0]


def test_logits_are_those_of_torch_for_any_batch(network, tmp_path):
    compiled = OpenVinoNetwork(network, (1, 8, 16, 16), tmp_path, "weights")
    for batch in (1, 3):
        window = torch.randn(batch, 1, 8, 16, 16)
        torch.testing.assert_close(compiled(window), network(window), rtol=0, atol=1e-3)
    first = compiled(window)
    kept = first.clone()
    compiled(torch.randn_like(window))
    assert torch.equal(first, kept), "the next window must not overwrite the last one's logits"


def test_it_is_converted_once_and_the_heads_are_part_of_the_name(network, tmp_path, monkeypatch):
    window = torch.randn(1, 1, 8, 16, 16)
    OpenVinoNetwork(network, (1, 8, 16, 16), tmp_path, "weights")
    network = select_heads(network, [2])
    reduced = OpenVinoNetwork(network, (1, 8, 16, 16), tmp_path, "weights")(window)
    assert reduced.shape == (1, 1, 8, 16, 16)
    monkeypatch.setattr("nnunetv2_ext.inference.model.openvino._convert", None)
    again = OpenVinoNetwork(network, (1, 8, 16, 16), tmp_path, "weights")
    torch.testing.assert_close(again(window), reduced)
    with pytest.raises(TypeError):
        OpenVinoNetwork(network, (1, 8, 16, 16), tmp_path, "other weights")
    assert not [folder for folder in tmp_path.iterdir() if folder.name.startswith(".")]


def test_the_cache_lies_beside_the_model_or_in_the_users_cache(tmp_path, monkeypatch):
    assert cache_folder(tmp_path) == tmp_path / "openvino"
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder(tmp_path / "file") == tmp_path / "cache" / "nnunetv2_ext" / "openvino"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cache_folder(tmp_path / "file") is None


def test_label_maps_are_those_of_torch_but_for_ties(softmax_model, ct_file):
    maps = {}
    for backend in ("torch", "openvino"):
        predictor = Predictor.from_model_folder(softmax_model, device="cpu", backend=backend)
        assert predictor.backend == backend
        maps[backend] = SimpleITK.GetArrayFromImage(predictor.predict(ct_file))
    assert (maps["torch"] == maps["openvino"]).mean() >= 0.999


def test_auto_takes_it_where_it_is_installed_and_says_so(softmax_model, monkeypatch, caplog):
    with caplog.at_level("INFO", logger="nnunetv2_ext"):
        assert Predictor.from_model_folder(softmax_model, device="cpu", backend="auto").backend == "openvino"
    assert "with OpenVINO" in caplog.text
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else find(name))
    assert Predictor.from_model_folder(softmax_model, device="cpu", backend="auto").backend == "torch"


def test_without_the_extra_it_says_what_to_install(network, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"pip install 'nnunetv2-ext\[openvino\]'"):
        OpenVinoNetwork(network, (1, 8, 16, 16))


def test_nothing_is_computed_in_reduced_precision(network):
    compiled = OpenVinoNetwork(network, (1, 8, 16, 16))._compiled
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
