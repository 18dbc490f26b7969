"""Which classes a plans file may name."""

from __future__ import annotations

import sys

import pytest
from torch import nn

from nnunetv2_ext.utilities import class_paths
from nnunetv2_ext.utilities.class_paths import PACKAGES_GROUP, PACKAGES_VARIABLE, resolve_class
from nnunetv2_ext.utilities.errors import UserError


@pytest.mark.parametrize(
    "path",
    [
        "nnunetv2_ext.architectures.stunet.STUNet",
        "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "dynamic_network_architectures.building_blocks.residual.BottleneckD",
        "torch.nn.modules.conv.Conv3d",
        "torch.nn.LeakyReLU",
    ],
)
def test_networks_and_their_parts_are_found_where_they_are_or_are_offered(path):
    assert resolve_class(path, nn.Module).__name__ == path.rpartition(".")[2]


def test_networks_of_monai_are_found():
    pytest.importorskip("monai")
    assert resolve_class("monai.networks.nets.SegResNet", nn.Module).__module__ == "monai.networks.nets.segresnet"


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "torch.load",
        "torch.nnot.Module",
        "torch.nn",
        "torch.nn.modules",
        "torch.nn.NoSuchLayer",
        "torch.nn.nosuchmodule.Conv3d",
        "torch.nn.functional.relu",
        "torch.nn.Module.__class__",
        "torch.nn.Parameter",
        "torch.nn.parallel.distributed.os.system",
        "torch.nn.parallel.distributed.os",
        "torch.nn.modules.module.OrderedDict",
        "torch.nn.modules.conv.torch.hub.load",
        "monai.bundle.run",
        "nnunetv2_ext.cli.train.main",
        "nnunetv2_ext.architectures.stunet.importlib.import_module",
        "dynamic_network_architectures_evil.X",
        " torch.nn.Module",
        "torch.nn.Module\n",
        "torch.nn.\u0130X",
        "",
        None,
        5,
        ["torch.nn.ReLU"],
    ],
)
def test_everything_else_is_refused_by_name(path):
    with pytest.raises(UserError, match="Expected a network class") as error:
        resolve_class(path, nn.Module)
    assert repr(path) in str(error.value)


def test_foreign_modules_are_not_even_imported(tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("class Network: pass")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError):
        resolve_class("evil.Network", nn.Module)
    assert "evil" not in sys.modules


@pytest.fixture
def own_networks(tmp_path, monkeypatch):
    """A package of the user's own, which imports more than it defines."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "__init__.py").write_text("")
    (tmp_path / "own" / "nets.py").write_text(
        "import os\nfrom torch import nn\nfrom torch.nn import Linear\nclass Net(nn.Module): pass\nclass Other: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "own"]:
        del sys.modules[name]


@pytest.mark.parametrize("value", ["own", "own.nets", "else, own"])
def test_packages_that_the_user_admits_are_looked_into_and_no_further(own_networks, monkeypatch, value):
    monkeypatch.setenv(PACKAGES_VARIABLE, value)
    assert resolve_class("own.nets.Net", nn.Module).__module__ == "own.nets"
    for path in ("own.nets.Other", "own.nets.os", "own.nets.os.system", "own.nets.nn.Linear2", "owner.Net"):
        with pytest.raises(UserError, match="Expected a network class"):
            resolve_class(path, nn.Module)


def test_packages_of_entry_points_are_admitted(own_networks, monkeypatch, tmp_path):
    with pytest.raises(UserError):
        resolve_class("own.nets.Net", nn.Module)
    metadata = tmp_path / "own-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{PACKAGES_GROUP}]\nown = own\n")
    class_paths._installed_packages.cache_clear()
    try:
        assert resolve_class("own.nets.Net", nn.Module).__name__ == "Net"
    finally:
        class_paths._installed_packages.cache_clear()


@pytest.mark.parametrize("value", ["own/nets", "own nets", "os;own", ".own"])
def test_names_that_are_none_are_refused(monkeypatch, value):
    monkeypatch.setenv(PACKAGES_VARIABLE, value)
    with pytest.raises(UserError, match=f"Expected names of packages with commas between them in {PACKAGES_VARIABLE}"):
        resolve_class("torch.nn.ReLU", nn.Module)


def test_long_paths_are_not_printed_in_full():
    with pytest.raises(UserError) as error:
        resolve_class("torch.nn." + "a" * 100_000, nn.Module)
    assert len(str(error.value)) < 1000
