"""What the integers of label maps mean, where nobody says: their headers, or files beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.utilities.errors import UserError


def order_of(files: Sequence[Path], order: str | None = None) -> LabelOrder | None:
    """The label order of label maps; the first of them that says anything is believed.

    Args:
        files: The label maps.
        order: What `LabelOrder.read` takes; by default the headers, and the ``labels.json`` or ``dataset.json`` beside
            the files or in the folder above, are asked.

    Returns:
        None where nothing says anything.

    Raises:
        UserError: ``order`` is none.
    """
    if order:
        return LabelOrder.read(order)
    for place in (place for file in files for place in _places(file)):
        try:
            return LabelOrder.read(place)
        except UserError:
            # Not every header carries names.
            continue
    return None


def _places(file: Path) -> list[Path]:
    folders = (file.parent, file.parent.parent)
    beside = [folder / name for folder in folders for name in ("labels.json", "dataset.json")]
    return [file, *(place for place in beside if place.is_file())]
