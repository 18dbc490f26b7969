from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

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
