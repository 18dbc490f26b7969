"""Networks named by plans: what is built, what is refused, how they are described."""

from __future__ import annotations

import sys

import pytest

from nnunetv2_ext.architectures.architecture import Architecture
from nnunetv2_ext.architectures.stunet import STUNET_SIZES
from nnunetv2_ext.utilities.errors import UserError

STUNET = "nnunetv2_ext.architectures.stunet.STUNet"
TINY = {"features_per_stage": [4, 6], "n_blocks_per_stage": 1, "strides": [[1, 1], [2, 2]]}


def test_plans_entries_survive_the_round_trip():
    entry = {"network_class_name": STUNET, "arch_kwargs": TINY, "_kw_requires_import": []}
    assert Architecture.from_plans({"architecture": entry}).to_plans() == entry


@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "nnunetv2_ext.cli.train.main"])
def test_foreign_classes_are_not_built_either(path):
    with pytest.raises(UserError, match="Expected a network class"):
        Architecture(path, {}).build(1, 2, deep_supervision=False)
    with pytest.raises(UserError, match="Expected a network class"):
        Architecture(STUNET, {**TINY, "norm": path}, ("norm",)).build(1, 2, deep_supervision=False)


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="unexpected keyword argument 'kernel'"):
        Architecture(STUNET, {**TINY, "kernel": 5}).build(1, 2, deep_supervision=False)
    with pytest.raises(UserError, match="plan the dataset anew"):
        Architecture.from_plans({"UNet_class_name": "PlainConvUNet"})


def test_descriptions_name_dimension_class_size_and_features():
    size = STUNET_SIZES["L"]
    large = {"features_per_stage": list(size.features_per_stage), "strides": [[1, 1, 1]] * 6}
    assert str(Architecture(STUNET, {**large, "n_blocks_per_stage": 2})) == "3D STU-Net L (features 64..1024)"
    assert str(Architecture(STUNET, {**large, "n_blocks_per_stage": 3})) == "3D STU-Net (features 64..1024)"
    assert str(Architecture(STUNET, TINY)) == "2D STU-Net (features 4..6)"
    assert str(Architecture("monai.networks.nets.SegResNet", {"spatial_dims": 3})) == "3D SegResNet"


def test_classes_that_moved_are_found():
    unet = {
        "n_stages": 2,
        "features_per_stage": [4, 6],
        "conv_op": "torch.nn.modules.conv.Conv2d",
        "kernel_sizes": [[3, 3], [3, 3]],
        "strides": [[1, 1], [2, 2]],
        "n_blocks_per_stage": [1, 1],
        "n_conv_per_stage_decoder": [1],
        "nonlin": "torch.nn.ReLU",
    }
    path = "dynamic_network_architectures.architectures.residual_unet.ResidualEncoderUNet"
    network = Architecture(path, unet, ("conv_op", "nonlin")).build(1, 2, deep_supervision=False)
    assert type(network).__name__ == "ResidualEncoderUNet"


@pytest.mark.parametrize(
    "path",
    [
        "monai.networks.nets.SegResNet",
        "nnunetv2_ext.architectures.monai_networks.SegResNet",
        "nnunetv2_ext.architectures.swinunetr.SwinUNETR",
    ],
)
def test_without_monai_its_networks_say_what_to_install(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "monai", None)
    architecture = Architecture(path, {})
    for refused in (architecture.require_libraries, lambda: architecture.build(1, 2, False)):
        with pytest.raises(UserError, match=r"The network \w+ needs monai, .*pip install 'nnunetv2-ext\[monai\]'"):
            refused()
    Architecture("dynamic_network_architectures.architectures.unet.PlainConvUNet", {}).require_libraries()


HOSTILE_SIZES = [
    {"features_per_stage": [10**9, 10**9]},
    {"features_per_stage": [10**5, 10**5]},
    {"features_per_stage": [-4, 6]},
    {"features_per_stage": ["4", "6"]},
    {"features_per_stage": None},
    {"n_blocks_per_stage": 10**9},
    {"strides": [[1, 1], [2]]},
    {"strides": [[0, 0], [0, 0]]},
    {"strides": []},
]


@pytest.mark.parametrize("change", HOSTILE_SIZES, ids=str)
def test_sizes_of_no_network_are_refused_before_memory_is_filled(change):
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"plans|Expected positive strides"):
        Architecture(STUNET, {**TINY, **change}).build(1, 2, deep_supervision=False)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB
