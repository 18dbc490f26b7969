"""Reading model folders, safely, and leaving heads out."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import torch
from torch import nn

from nnunetv2_ext.inference.model.folder import read_model
from nnunetv2_ext.inference.model.heads import select_heads
from nnunetv2_ext.inference.windows.window_network import WindowNetwork
from nnunetv2_ext.utilities.errors import UserError


def _rewrite(folder, **changes):
    file = folder / "fold_0" / "checkpoint_final.pth"
    torch.save(torch.load(file, weights_only=True) | changes, file)


@pytest.fixture
def model(tmp_path, make_model_folder):
    return make_model_folder(tmp_path / "model", folds=(0, 3))


def test_all_folds_are_read_by_default_and_fold_all_only_when_asked(model):
    (model / "fold_all").mkdir()
    (model / "fold_all" / "checkpoint_final.pth").write_bytes((model / "fold_0" / "checkpoint_final.pth").read_bytes())
    assert [file.parent.name for file in read_model(model).checkpoints] == ["fold_0", "fold_3"]
    assert [file.parent.name for file in read_model(model, ["all"]).checkpoints] == ["fold_all"]
    assert not torch.equal(*(next(network.parameters()) for network in read_model(model).networks))


def test_what_is_missing_is_named(model):
    with pytest.raises(UserError, match=r"for fold 1 .* found it for 0, 3"):
        read_model(model, [0, 1])
    with pytest.raises(UserError, match=r"best\.pth .* found it for no fold"):
        read_model(model, None, "best.pth")
    with pytest.raises(UserError, match="model folder"):
        read_model(model / "missing")
    (model / "plans.json").unlink()
    with pytest.raises(UserError, match=r"plans\.json"):
        read_model(model)


def test_weights_of_another_network_are_refused_with_the_reason(model):
    weights = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=True)["network_weights"]
    weights.pop(next(iter(weights)))
    _rewrite(model, network_weights=weights)
    with pytest.raises(UserError, match=r"do not fit the network of its plans: .*Missing key"):
        read_model(model)


def test_a_truncated_checkpoint_and_one_of_another_kind_are_refused(model):
    file = model / "fold_0" / "checkpoint_final.pth"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="truncated"):
        read_model(model)
    torch.save({"state_dict": {}}, file)
    with pytest.raises(UserError, match=r"as network_weights in .*no such entry"):
        read_model(model)


class _Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_nothing_in_a_checkpoint_is_executed(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _rewrite(model, logging=_Evil())
    with pytest.raises(UserError, match=r"cannot be read safely: .* but found .*mkdir"):
        read_model(model)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("where", ["network", "argument"])
def test_a_class_that_is_no_network_is_refused(model, where):
    plans = json.loads((model / "plans.json").read_text())
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    if where == "network":
        architecture["network_class_name"] = "subprocess.Popen"
    else:
        architecture["arch_kwargs"]["norm_op"] = "os.system"
    (model / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(UserError, match=r"subprocess\.Popen|os\.system"):
        read_model(model)


def test_an_unknown_trainer_and_a_foreign_configuration_are_named(model):
    _rewrite(model, init_args={"configuration": "3d_lowres"})
    with pytest.raises(UserError, match=r"'3d_lowres'.*has 3d_fullres"):
        read_model(model)
    _rewrite(model, init_args={"configuration": "3d_fullres"}, trainer_name="os; import this")
    with pytest.raises(UserError, match="name of a trainer"):
        read_model(model)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["base", "np", "join", "autocast", "nnUNetDataLoader", "__builtins__"])
def test_what_is_no_trainer_is_not_asked_for_a_network(model, name):
    _rewrite(model, trainer_name=name)
    with pytest.raises(UserError, match=f"trained with {name}, which is neither in nnU-Net"):
        read_model(model)


def test_models_of_this_packages_and_of_stock_trainers_are_built_by_their_trainer(model):
    from nnunetv2_ext.training import trainers

    _rewrite(model, trainer_name="nnUNetTrainer_5epochs")
    assert len(read_model(model, [0]).networks) == 1
    _rewrite(model, trainer_name="NoSuchTrainer")
    with pytest.raises(UserError, match="NoSuchTrainer"):
        read_model(model, [0])
    assert hasattr(trainers, "STUNetTrainer_small")
    _rewrite(model, trainer_name="STUNetTrainer_small")
    with pytest.raises(UserError, match="do not fit"):
        read_model(model, [0])


def test_selected_heads_give_the_same_channels(model):
    network: Any = read_model(model, [0]).networks[0]
    reduced = select_heads(network, [3, 1])
    assert network.decoder.seg_layers[-1].weight.shape[0] == 4, "the network that was given stays whole"
    window = torch.randn(2, 1, 8, 16, 16)
    torch.testing.assert_close(reduced(window), network(window)[:, [3, 1]], rtol=0, atol=1e-6)
    with pytest.raises(UserError, match="without --classes"):
        select_heads(nn.Conv3d(1, 4, 1), [0])


@pytest.mark.parametrize("axes", [None, (0,), (1, 2), (0, 1, 2)])
def test_windows_are_averaged_over_folds_and_flips(model, axes):
    networks = read_model(model).networks
    window = torch.randn(2, 1, 8, 16, 16)
    flips: list[tuple[int, ...]] = [()]
    for axis in axes or ():
        flips += [(*flip, axis + 2) for flip in flips]
    every = [torch.flip(network(torch.flip(window, flip)), flip) for network in networks for flip in flips]
    expected = torch.stack(every).double().mean(0).float()
    torch.testing.assert_close(WindowNetwork(networks, axes)(window), expected, rtol=1e-5, atol=1e-5)


def test_optimiser_states_are_not_read(model, monkeypatch):
    _rewrite(model, optimizer_state={"state": {0: {"exp_avg": torch.zeros(1000)}}})
    load, mapped = torch.load, []
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: mapped.append(kwargs["mmap"]) or load(*args, **kwargs))
    weights = {fold: read_model(model, [fold]).networks[0].state_dict() for fold in (0, 3)}
    assert mapped == [True, True]
    assert torch.equal(weights[0]["decoder.seg_layers.0.bias"], weights[3]["decoder.seg_layers.0.bias"])


def test_trainers_with_nnunets_old_signature_build_their_network(model, tmp_path, monkeypatch, caplog):
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "elder_trainer.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "from nnunetv2.utilities.get_network_from_plans import get_network_from_plans\n\n\n"
        "class ElderTrainer(nnUNetTrainer):\n"
        "    @staticmethod\n"
        "    def build_network_architecture(\n"
        "        architecture_class_name, arch_init_kwargs, arch_init_kwargs_req_import, num_input_channels,\n"
        "        num_output_channels, enable_deep_supervision=True,\n"
        "    ):\n"
        "        return get_network_from_plans(\n"
        "            architecture_class_name, arch_init_kwargs, arch_init_kwargs_req_import, num_input_channels,\n"
        "            num_output_channels, deep_supervision=enable_deep_supervision,\n"
        "        )\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "trainers"))
    expected = read_model(model, [0]).networks[0].state_dict()
    _rewrite(model, trainer_name="ElderTrainer")
    try:
        found = read_model(model, [0]).networks[0].state_dict()
    except (UserError, TypeError) as refusal:
        pytest.fail(str(refusal))
    assert "older versions of nnU-Net" in caplog.text
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
