"""Which classes a plans file may name."""

from __future__ import annotations

import pytest

from nnunetv2_ext.utilities.class_paths import check_class_path
from nnunetv2_ext.utilities.errors import UserError


@pytest.mark.parametrize(
    "path",
    [
        "nnunetv2_ext.architectures.stunet.STUNet",
        "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "monai.networks.nets.SegResNet",
        "torch.nn.modules.conv.Conv3d",
    ],
)
def test_packages_of_networks_are_admitted(path):
    assert check_class_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "torch.load",
        "torch.nnot.Module",
        "torch.nn",
        "monai.bundle.run",
        "nnunetv2_ext.cli.train.main",
        "dynamic_network_architectures_evil.X",
        " torch.nn.Module",
        "",
        None,
    ],
)
def test_everything_else_is_refused_by_name(path):
    with pytest.raises(UserError, match="Expected a network class from") as error:
        check_class_path(path)
    assert repr(path) in str(error.value)
