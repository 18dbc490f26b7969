"""The viewer's page: alone in one file, or as what a server hands out."""

from __future__ import annotations

import gzip
from base64 import b64encode
from pathlib import Path

from nnunetv2_ext.pages.rendering import fill, write_page
from nnunetv2_ext.viewer.scene import Scene

_TEMPLATE = "viewer.html"


def write_view(scene: Scene, title: str, target: Path) -> None:
    """Writes one file that needs nothing else, and opens without a server.

    Raises:
        UserError: The file cannot be written.
    """
    embedded = {name: b64encode(gzip.compress(voxels, 6)).decode() for name, voxels in scene.sources().items()}
    write_page(_TEMPLATE, target, title=title, scene=scene.description, notes=scene.notes, embedded=embedded)


def served_page(scene: Scene, title: str) -> str:
    """The page that asks for the voxels (`Scene.sources`) by their names."""
    return fill(_TEMPLATE, title=title, scene=scene.description, notes=scene.notes, embedded={})
