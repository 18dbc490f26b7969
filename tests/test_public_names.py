"""The names that others build on: there, lazily, and known to type checkers."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys

import pytest

# What the design fixes, from the package that it names; what it says of arguments.
FIXED = {
    "nnunetv2_ext.architectures.stunet": ["STUNet", "STUNET_SIZES"],
    "nnunetv2_ext.checkpoints": ["Checkpoint", "TransferReport", "read_checkpoint", "transfer_weights"],
    "nnunetv2_ext.labels": ["LabelOrder", "PartialLabels"],
    "nnunetv2_ext.training.loss": ["LabelTreeLoss", "PartialLabelLoss"],
    "nnunetv2_ext.inference": ["Mode", "PredictionRun", "Predictor", "read_model", "resample_argmax"],
    "nnunetv2_ext.inference.export": ["resample_argmax"],
    "nnunetv2_ext": [
        "LabelOrder",
        "LabelTree",
        "LabelTreeLoss",
        "PartialLabelLoss",
        "PartialLabels",
        "Predictor",
        "STUNet",
        "evaluate_folder",
        "read_checkpoint",
        "transfer_weights",
    ],
}
LAZY = ["nnunetv2_ext", "nnunetv2_ext.inference", "nnunetv2_ext.training.loss"]


@pytest.mark.parametrize(("package", "name"), [(package, name) for package, names in FIXED.items() for name in names])
def test_a_fixed_name_is_there(package, name):
    assert getattr(importlib.import_module(package), name).__class__.__name__ != "module"


@pytest.mark.parametrize("package", LAZY)
def test_lazy_names_are_those_that_type_checkers_see(package):
    module = importlib.import_module(package)
    tree = ast.parse(inspect.getsource(module))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in guarded.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: str(node.module) for node in imports for alias in node.names}
    assert sorted(seen) == sorted(module.__all__)
    for name, defined_in in seen.items():
        assert getattr(module, name) is getattr(importlib.import_module(defined_in), name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


@pytest.mark.parametrize("package", LAZY)
def test_importing_a_lazy_package_imports_neither_torch_nor_nnunet(package):
    code = f"import sys, {package}; print({{'torch', 'nnunetv2', 'numpy'}} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True).stdout
    assert printed.strip() == "set()"


def test_the_constructors_that_the_design_fixes():
    from nnunetv2_ext import PartialLabelLoss, STUNet

    fixed = ["input_channels", "num_classes", "features_per_stage", "n_blocks_per_stage", "strides", "deep_supervision"]
    assert [name for name in inspect.signature(STUNet).parameters if name in fixed] == fixed
    assert next(iter(inspect.signature(PartialLabelLoss).parameters)) == "regions"
