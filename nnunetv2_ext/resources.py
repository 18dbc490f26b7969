"""Finds the JSON files that ship with the package: plan templates and label orders."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def resource_folder(name: str) -> Path:
    """Returns the folder ``plans`` or ``label_orders``, in a checkout or inside an installed wheel.

    Args:
        name: ``"plans"`` or ``"label_orders"``.

    Raises:
        FileNotFoundError: The installation is incomplete.
    """
    # A checkout comes first: an editable install also holds a copy in site-packages, which goes stale.
    for folder in (_PACKAGE.parent / name, _PACKAGE / name):
        if folder.is_dir() and (folder.parent == _PACKAGE or (folder.parent / "pyproject.toml").is_file()):
            return folder
    raise FileNotFoundError(f"The folder {name!r} is missing from this installation of nnunetv2-ext; reinstall it.")


def list_resources(name: str) -> list[str]:
    """Names (without ``.json``) of the files directly inside a resource folder, sorted."""
    return sorted(file.stem for file in resource_folder(name).glob("*.json"))
