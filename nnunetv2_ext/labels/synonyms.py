"""Other names of the same structure, as the label orders that ship with the package know them."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.labels.label_order_checks import spelling
from nnunetv2_ext.resources import list_resources


def synonym(name: str, among: Collection[str]) -> str | None:
    """What one of several names calls the same structure as ``name``; None where none does, or several do.

    Case, blanks and hyphens never count. Names of collections (``<source>/<class>``) have no other names.

    Example:
        >>> synonym("Right Kidney", ["kidney_left", "kidney_right"])
        'kidney_right'
    """
    same = [other for other in among if spelling(other) == spelling(name)]
    if not same:
        known = [(order, own) for order in known_orders() if (own := order.find(name)) is not None]
        same = [other for other in among if any(order.find(other) == own for order, own in known)]
    return same[0] if len(same) == 1 else None


@cache
def known_orders() -> tuple[LabelOrder, ...]:
    """The label orders that ship with the package."""
    return tuple(LabelOrder.read(name) for name in list_resources("label_orders"))
