from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("monai", reason="the extra 'monai' is not installed")
from monai.networks import nets

from nnunetv2_ext.checkpoints import read_checkpoint, transfer_weights
from nnunetv2_ext.utilities.errors import UserError


def mednext(**changes):
    arguments: dict[str, Any] = {
        "init_filters": 4,
        "encoder_expansion_ratio": (2, 3),
        "bottleneck_expansion_ratio": 4,
        "decoder_expansion_ratio": (3, 2),
        "blocks_down": (1, 2),
        "blocks_bottleneck": 2,
        "blocks_up": (2, 1),
        "kernel_size": 3,
        "use_residual_connection": True,
        "deep_supervision": True,
    }
    torch.manual_seed(0)
    return nets.MedNeXt(spatial_dims=3, in_channels=1, out_channels=3, **(arguments | changes)).eval()


def names_of_the_authors(network):
    """Stages and outputs by their resolution, 0 being full resolution; a tensor for checkpointing that does nothing."""
    stages = len(network.enc_stages)
    state = {"dummy_tensor": torch.tensor([1.0])}
    for name, tensor in network.state_dict().items():
        name = re.sub(r"enc_stages\.(\d)", r"enc_block_\1", name)
        name = re.sub(r"down_blocks\.(\d)", r"down_\1", name)
        name = re.sub(r"up_blocks\.(\d)", lambda found: f"up_{stages - 1 - int(found[1])}", name)
        name = re.sub(r"dec_stages\.(\d)", lambda found: f"dec_block_{stages - 1 - int(found[1])}", name)
        name = re.sub(r"out_blocks\.(\d)", lambda found: f"out_{stages - int(found[1])}", name)
        state[name] = tensor
    return state


@pytest.mark.parametrize(
    ("changes", "levels"),
    [({}, 3), ({"deep_supervision": False}, 1), ({"kernel_size": 5, "use_residual_connection": False}, 3)],
    ids=["deep supervision", "one output", "kernels of 5 without residual connections"],
)
@pytest.mark.parametrize("names", ["monai", "authors"])
def test_equals_monais_forward(names, changes, levels, tmp_path):
    network = mednext(**changes)
    state = network.state_dict() if names == "monai" else names_of_the_authors(network)
    torch.save(state if names == "monai" else {"state_dict": state, "epoch": 1000}, tmp_path / "model.pth")
    checkpoint = read_checkpoint(tmp_path / "model.pth")
    assert checkpoint.format == "mednext"
    assert str(checkpoint.architecture) == "3D MedNeXt"
    image = torch.randn(1, 1, 16, 8, 12)
    ours = checkpoint.build_network(deep_supervision=True)
    with torch.no_grad():
        outputs = ours(image)
        torch.testing.assert_close(outputs[0], network(image), rtol=0, atol=1e-4)
        assert len(outputs) == levels
        if levels > 1:
            for output, expected in zip(outputs, network.train()(image), strict=True):
                torch.testing.assert_close(output, expected, rtol=0, atol=1e-4)


def test_incomplete_files_end_in_a_sentence(tmp_path):
    state = mednext().state_dict()
    for removed in ("out_blocks.0.", "bottleneck.", "dec_stages."):
        part = {name: tensor for name, tensor in state.items() if not name.startswith(removed)}
        torch.save(part, tmp_path / "model.pth")
        with pytest.raises(UserError, match=r"is the file complete|is incomplete"):
            read_checkpoint(tmp_path / "model.pth")
    torch.save({**state, "extra.weight": torch.zeros(1)}, tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"'extra.weight' .* do not belong to this format"):
        read_checkpoint(tmp_path / "model.pth")


def _resized(kernel, size):
    """Linear interpolation along the last three axes between the centres of the voxels of a kernel."""
    positions = np.clip((np.arange(size) + 0.5) * kernel.shape[-1] / size - 0.5, 0, kernel.shape[-1] - 1)
    for axis in (-3, -2, -1):
        kernel = np.apply_along_axis(lambda v: np.interp(positions, np.arange(len(v)), v), axis, kernel)
    return kernel


def test_kernels_of_3_become_kernels_of_5(tmp_path):
    torch.save(mednext().state_dict(), tmp_path / "small.pth")
    torch.save(mednext(kernel_size=5).state_dict(), tmp_path / "large.pth")
    checkpoint, other = read_checkpoint(tmp_path / "small.pth"), read_checkpoint(tmp_path / "large.pth")
    network = other.build_network()
    classes = ["background", "a", "b"]
    report = transfer_weights(network, checkpoint, target_classes=classes, source_classes=classes)
    after = network.state_dict()
    resized = [entry.name for entry in report.tensors if entry.detail == "kernels of 3 resized to 5"]
    # One depthwise convolution in each of 8 blocks and of 4 steps between resolutions.
    assert len(resized) == 12
    for name, tensor in checkpoint.network_state.items():
        expected = _resized(tensor.double().numpy(), 5) if name in resized else tensor.numpy()
        np.testing.assert_allclose(after[name].numpy(), expected, atol=1e-6)
    with pytest.raises(UserError, match="first difference"):
        transfer_weights(checkpoint.build_network(), other, target_classes=classes, source_classes=classes)
