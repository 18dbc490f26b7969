"""Imports run one way through the package, as the design says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "nnunetv2_ext"

# The permitted pairs of rooms; every room may also import from itself, from `utilities` and from the modules beside it.
_PARTS = {"architectures", "labels", "images", "pages", "resources"}
MAY_IMPORT = {
    "utilities": set(),
    "resources": set(),
    "autoload": set(),
    "architectures": {"resources"},
    "images": {"resources"},
    # Label orders are read from the headers of label maps, too.
    "labels": {"images", "resources"},
    "pages": set(),
    "checkpoints": _PARTS,
    "dataset_conversion": {"checkpoints"} | _PARTS,
    "experiment_planning": {"checkpoints", "dataset_conversion"} | _PARTS,
    "inference": {"checkpoints", "dataset_conversion", "experiment_planning"} | _PARTS,
    "evaluation": {"inference"} | _PARTS,
    "dataset_report": {"dataset_conversion"} | _PARTS,
    "model_export": {"checkpoints", "inference"} | _PARTS,
    "training": {"checkpoints", "dataset_conversion", "experiment_planning", "inference"} | _PARTS,
    "demo": {"checkpoints", "dataset_conversion", "experiment_planning", "inference", "training", "evaluation"}
    | _PARTS,
    "cluster": {"checkpoints", "dataset_conversion", "experiment_planning", "inference", "training"} | _PARTS,
    "viewer": _PARTS,
    "serving": {"inference"} | _PARTS,
    "discovery": {"training"},
}
MAY_IMPORT["cli"] = set(MAY_IMPORT) - {"autoload", "discovery"}
# What opens images, and who else may import it and why.
IMAGE_LIBRARIES = {"SimpleITK", "nibabel", "pydicom", "PIL", "tifffile", "imageio", "itk"}
MAY_IMPORT_IMAGE_LIBRARIES = {
    "inference/predictor.py": {"SimpleITK"},  # for types: images that are in memory already
}
NO_NNUNET = ("architectures", "labels", "images", "training/loss")


def _modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_import_one_way(path):
    relative = path.relative_to(PACKAGE)
    room = relative.parts[0].removesuffix(".py")
    if room == "__init__":
        return
    allowed = MAY_IMPORT[room] | {room, "utilities", "__version__"}
    for name in _imported(path):
        parts = name.split(".")
        if parts[0] == "nnunetv2_ext" and len(parts) > 1:
            assert parts[1] in allowed, f"{relative} imports {name}"


@pytest.mark.parametrize("folder", NO_NNUNET)
def test_some_rooms_know_nothing_of_nnunet(folder):
    for path in (PACKAGE / folder).rglob("*.py"):
        foreign = {name for name in _imported(path) if name.split(".")[0] in {"nnunetv2", "batchgenerators"}}
        assert not foreign, f"{path.relative_to(PACKAGE)} imports {foreign}"


def test_only_one_room_opens_images():
    found = {
        str(path.relative_to(PACKAGE)): libraries
        for path in _modules()
        if path.relative_to(PACKAGE).parts[0] != "images"
        and (libraries := {name.split(".")[0] for name in _imported(path)} & IMAGE_LIBRARIES)
    }
    assert found == MAY_IMPORT_IMAGE_LIBRARIES
