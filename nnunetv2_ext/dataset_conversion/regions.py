"""Overlapping classes that the field evaluates, such as an organ with its tumour, as nnU-Net regions."""

from __future__ import annotations

from typing import Any

from nnunetv2_ext.labels.label_order import BACKGROUND, IGNORE, LabelOrder
from nnunetv2_ext.utilities.errors import UserError


def region_labels(order: LabelOrder) -> tuple[dict[str, Any], list[int]]:
    """``labels`` and ``regions_class_order`` for the overlapping classes that the field evaluates.

    Classes that belong to no region stay what they are. nnU-Net paints regions one over the other in this order, each
    with one integer: one that belongs to the region and to none that is painted later.

    Raises:
        UserError: The order has no regions.
    """
    if not order.regions:
        raise UserError(f"Expected regions in the label order {order.name} for --regions, but it has none.")
    members = {member for names in order.regions.values() for member in names}
    alone = {name: (name,) for name in order.labels if name not in members}
    values = {
        name: sorted(order.value(member) for member in names) for name, names in {**order.regions, **alone}.items()
    }
    outer_first = sorted(values, key=lambda name: -len(values[name]))
    labels: dict[str, Any] = {BACKGROUND: 0}
    painted = []
    for position, name in enumerate(outer_first):
        later = {value for other in outer_first[position + 1 :] for value in values[other]}
        painted.append(next((value for value in values[name] if value not in later), values[name][0]))
        # A list of one integer would not be a region to nnU-Net.
        labels[name] = values[name] if len(values[name]) > 1 else values[name] * 2
    if order.ignore_label is not None:
        labels[IGNORE] = order.ignore_label
    return labels, painted
