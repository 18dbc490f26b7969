"""Names and descriptions of the trainers, read from their source without importing torch."""

from __future__ import annotations

import ast
from pathlib import Path

from nnunetv2_ext.training.variants import VARIANTS

_TRAINERS = Path(__file__).resolve().parent / "trainers"


def list_trainers() -> dict[str, str]:
    """Name of every trainer that nnU-Net finds -> first line of its docstring, in the order of the source.

    Reads the ``__all__`` of the modules that ``training/trainers/__init__.py`` imports from, and their `VARIANTS`.
    """
    found: dict[str, str] = {}
    for node in ast.walk(_parse(_TRAINERS / "__init__.py")):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = node.module.rpartition(".")[2]
            found.update(_trainers_of(_parse(_TRAINERS / f"{module}.py")))
            found.update((variant.name, variant.description) for variant in VARIANTS.get(module, ()))
    return found


def _trainers_of(module: ast.Module) -> dict[str, str]:
    exported = {
        element.value
        for node in module.body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
        for element in ast.walk(node.value)
        if isinstance(element, ast.Constant) and isinstance(element.value, str)
    }
    return {
        node.name: (ast.get_docstring(node) or "").partition("\n")[0]
        for node in ast.walk(module)
        if isinstance(node, ast.ClassDef) and node.name in exported
    }


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
