from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
import torch

from nnunetv2_ext.cli import finetune, plan, predict, train
from nnunetv2_ext.utilities.class_paths import PACKAGES_VARIABLE

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "extend.md"


@pytest.fixture(scope="module")
def page():
    """What the Python blocks of docs/extend.md define, run one after the other."""
    names: dict = {"__name__": "docs_extend"}
    for block in re.findall(r"```python\n(.*?)```", _PAGE.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(block, str(_PAGE), "exec"), names)
    return names


def test_the_network_of_the_page_has_selectable_heads(page):
    network = page["TwoConvolutions"](1, 7, deep_supervision=True)
    image = torch.randn(2, 1, 6, 6, 6)
    (whole,), (part,) = network(image), network(image, channels=torch.tensor([4, 0]))
    assert whole.shape == (2, 7, 6, 6, 6)
    torch.testing.assert_close(part, whole[:, [4, 0]])


def test_the_trainers_of_the_page_say_what_they_differ_in(page):
    from nnunetv2_ext.architectures.unet import ResidualEncoderUNet

    path = page["MultiTalentTrainer_resenc_m"].architecture.network_class
    assert path == f"{ResidualEncoderUNet.__module__}.{ResidualEncoderUNet.__name__}"
    assert (page["GentleTrainer"].initial_lr, page["GentleTrainer"].num_epochs) == (1e-3, 300)


def test_the_loss_of_the_page_leaves_unannotated_outputs_alone(page):
    gradient = page["logits"].grad
    assert gradient[0].any()
    assert gradient[1, 0].any()
    assert not gradient[1, 1].any()


SHORT = ["-device", "cpu", "--quiet", "--num_epochs", "1", "--iterations_per_epoch", "2", "--batch_size", "2",
         "--val_iterations_per_epoch", "1", "--num_workers", "0",
         "--warmup_heads", "0", "--warmup_network", "0"]  # fmt: skip


@pytest.fixture
def network_of_the_page(tmp_path, monkeypatch):
    """The page's network as a module of the user's own, and its template; admitted by nobody yet."""
    text = _PAGE.read_text(encoding="utf-8")
    (module,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class TwoConv" in block)
    (template,) = (block for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL) if "TwoConv" in block)
    (tmp_path / "two_convolutions.py").write_text(module, encoding="utf-8")
    (tmp_path / "two_convolutions.json").write_text(template, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    yield tmp_path / "two_convolutions.json"
    sys.modules.pop("two_convolutions", None)


def test_networks_of_packages_that_nobody_admitted_are_refused(network_of_the_page, tiny_dataset, capsys):
    assert plan.main(["-d", "7", "-t", str(network_of_the_page), "--quiet"]) == 2
    assert f"admit a package of your own with {PACKAGES_VARIABLE}" in capsys.readouterr().err
    assert "two_convolutions" not in sys.modules


@pytest.mark.slow
@pytest.mark.usefixtures("threads_instead_of_processes")
def test_the_network_of_the_page_is_trained_predicted_and_fine_tuned(
    network_of_the_page, tiny_dataset, tmp_path, monkeypatch
):
    from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess

    monkeypatch.setenv(PACKAGES_VARIABLE, "two_convolutions")
    assert plan.main(["-d", "7", "-t", str(network_of_the_page), "--quiet"]) == 0
    preprocess([7], "two_convolutions", ["3d_fullres"], [1])
    flags = ["7", "3d_fullres", "0", "-tr", "FineTuneTrainer", "-p", "two_convolutions", *SHORT]
    assert train.main([*flags, "--freeze", "backbone"]) == 0
    results = Path(os.environ["nnUNet_results"]) / tiny_dataset
    model = results / "FineTuneTrainer__two_convolutions__3d_fullres"
    assert (model / "fold_0" / "validation" / "summary.json").is_file()
    assert type(_weights(model)["body.weight"]) is torch.Tensor

    images = Path(os.environ["nnUNet_raw"]) / tiny_dataset / "imagesTr"
    flags = ["-i", str(images), "-o", str(tmp_path / "out"), "-m", str(model), "-f", "0", "-device", "cpu", "--quiet"]
    assert predict.main(flags) == 0
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 6

    flags = ["7", "3d_fullres", "0", "-pretrained_weights", str(model), "-np", "1", *SHORT, "--initial_lr", "0"]
    assert finetune.main(flags) == 0
    tuned = _weights(results / "FineTuneTrainer__pretrained_two_convolutions__3d_fullres")
    assert all(torch.equal(value, tuned[name]) for name, value in _weights(model).items())


def _weights(model):
    return torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]
