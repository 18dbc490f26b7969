"""Which classes change places where an image is mirrored from left to right."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.labels.synonyms import known_orders
from nnunetv2_ext.utilities.errors import UserError

_SIDES = {"left": "right", "right": "left", "Left": "Right", "Right": "Left", "LEFT": "RIGHT", "RIGHT": "LEFT"}
_SIDE = re.compile(rf"(?<![A-Za-z])({'|'.join(_SIDES)})(?![A-Za-z])")


def mirrored_name(name: str) -> str:
    """The name with left and right exchanged.

    Example:
        >>> mirrored_name("kits/kidney_left")
        'kits/kidney_right'
    """
    return _SIDE.sub(lambda side: _SIDES[side[0]], name)


def mirrored_values(dataset_json: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    """What each label value becomes in the mirror: those of paired classes change places, others stay.

    A class that is on one side alone stays what it is, as the liver does, unless a label order knows its counterpart:
    an image of a right kidney that nobody annotated would become one of a left kidney that nobody annotated.

    Args:
        dataset_json: With ``labels``.

    Returns:
        Label value -> label value.

    Raises:
        UserError: No classes are paired, one lacks the counterpart that it has in a body, or a pair shares a value with
            others in a way that its mirror image does not have.
    """
    order = LabelOrder.from_dataset_json(dataset_json)
    partners = {name: mirrored_name(name) for name in order.labels if mirrored_name(name) in order.labels}
    pairs = {name: partner for name, partner in partners.items() if name != partner}
    if not pairs:
        raise UserError(
            "--mirror_pairs expects classes that differ by left and right in their names, such as kidney_left and "
            f"kidney_right, but found {', '.join(list(order.labels)[:8])}; leave it out."
        )
    for name in order.labels:
        counterpart = mirrored_name(name)
        known = any(counterpart.rpartition("/")[2] in known_order.labels for known_order in known_orders())
        if name not in partners and known:
            raise UserError(
                f"--mirror_pairs expects {counterpart} beside {name}, but there is no such class: what is not "
                "annotated would become wrong in the mirror; leave it out, or train with --no_mirroring."
            )
    value_of = {names: value for value, names in order.classes_of_value.items()}
    table = np.arange(max(*order.values, order.ignore_label or 0) + 1)
    for value, names in order.classes_of_value.items():
        mirrored = frozenset(partners.get(name, name) for name in names)
        if mirrored not in value_of:
            raise UserError(
                f"--mirror_pairs expects a label value of {', '.join(sorted(mirrored))} as there is one of "
                f"{', '.join(sorted(names))}, but found none; leave it out, or train with --no_mirroring."
            )
        table[value] = value_of[mirrored]
    return table


def left_right_axis(properties: Mapping[str, Any]) -> int | None:
    """The axis of nnU-Net's array (z, y, x) that runs from left to right; None where the image does not tell.

    Args:
        properties: What nnU-Net's readers say of an image: ``sitk_stuff`` with a ``direction``, or ``nibabel_stuff``
            with an affine matrix.
    """
    if "sitk_stuff" in properties:
        direction = np.asarray(properties["sitk_stuff"]["direction"], dtype=float)
        matrix = direction.reshape(3, 3) if direction.size == 9 else None
    else:
        affines = properties.get("nibabel_stuff", {})
        matrix = affines.get("reoriented_affine", affines.get("original_affine"))
    if matrix is None:
        return None
    # Columns are the axes of the file (x, y, z), whose lengths are no matter here.
    columns = np.asarray(matrix, dtype=float)[:3, :3]
    return 2 - int(np.argmax(np.abs(columns[0] / np.linalg.norm(columns, axis=0))))
