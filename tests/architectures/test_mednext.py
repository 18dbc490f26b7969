from typing import Any

import pytest
import torch

pytest.importorskip("monai", reason="the extra 'monai' is not installed")
from monai.networks import nets

from nnunetv2_ext.architectures.mednext_sizes import MEDNEXT_SIZES
from nnunetv2_ext.architectures.planned import network_of_trainer
from nnunetv2_ext.utilities.errors import UserError


def _as_ours(theirs):
    """MONAI's names and transposed heads, one by one."""
    state, heads = {}, len(theirs.out_blocks)
    for name, tensor in theirs.state_dict().items():
        if name.startswith("out_"):
            tensor = tensor.transpose(0, 1) if name.endswith("weight") else tensor
            name = name.replace("out_0.conv_out", f"decoder.seg_layers.{heads}")
            name = name.replace("out_blocks", "decoder.seg_layers").replace("conv_out.", "")
        state[name] = tensor
    return state


@pytest.mark.parametrize("dimensions", [2, 3])
def test_equals_monais_network_at_every_level(dimensions):
    from nnunetv2_ext.architectures.mednext import MedNeXt

    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "init_filters": 4,
        "encoder_expansion_ratio": (2, 3),
        "decoder_expansion_ratio": (3, 2),
    }
    arguments |= {"blocks_down": (1, 2), "blocks_up": (2, 1), "kernel_size": 3, "spatial_dims": dimensions}
    theirs = nets.MedNeXt(
        in_channels=1, out_channels=5, deep_supervision=True, use_residual_connection=True, **arguments
    )
    ours = MedNeXt(1, 5, deep_supervision=True, **arguments)
    ours.load_state_dict(_as_ours(theirs))
    image = torch.randn(2, 1, *(16, 8, 12)[:dimensions])
    with torch.no_grad():
        expected = theirs(image)
        outputs = ours(image)
        selected = ours(image, channels=torch.tensor([3, 1]))
    assert len(outputs) == len(expected) == 3
    for output, other, few in zip(outputs, expected, selected, strict=True):
        torch.testing.assert_close(output, other)
        torch.testing.assert_close(few, other[:, [3, 1]])
    ours.eval()
    ours.decoder.deep_supervision = False
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs.eval()(image))


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("letter", MEDNEXT_SIZES)
def test_sizes_are_those_of_monais_variants(letter, kernel_size):
    size = MEDNEXT_SIZES[letter]
    configuration = {
        "patch_size": [32, 32, 32],
        "architecture": {"network_class_name": "PlainConvUNet", "arch_kwargs": {}, "_kw_requires_import": ()},
    }
    entry = network_of_trainer(f"MedNeXtTrainer_{size.name}{'' if kernel_size == 3 else '_kernel5'}")
    assert entry is not None
    with torch.device("meta"):
        theirs = getattr(nets, f"MedNeXt{letter}")(
            spatial_dims=3, in_channels=1, out_channels=2, kernel_size=kernel_size, deep_supervision=True
        )
        ours = entry.build(configuration, 1, 2, True)
    assert {name: value.shape for name, value in ours.state_dict().items()} == {
        name: value.shape for name, value in _as_ours(theirs).items()
    }
    assert entry.deep_supervision_scales(configuration) == [[0.5**level] * 3 for level in range(5)]
    (note,) = entry.notes(configuration)
    assert note == f"MedNeXt {letter} ignores the network of the plans (PlainConvUNet)."
    with pytest.raises(UserError, match=r"multiples of 16, but the plans have \[40, 32, 32\]"):
        entry.build({**configuration, "patch_size": [40, 32, 32]}, 1, 2, True)


def test_parameters_are_those_of_the_paper():
    for letter, size in MEDNEXT_SIZES.items():
        with torch.device("meta"):
            network = getattr(nets, f"MedNeXt{letter}")(spatial_dims=3, in_channels=1, out_channels=2)
        millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        assert millions == pytest.approx(float(size.parameters.removesuffix(" M")), rel=0.01)
