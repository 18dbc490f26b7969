"""Which class each output channel of a network stands for, from the labels of a dataset.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.names import check_label_names

BACKGROUND = "background"
IGNORE = "ignore"


def has_regions(labels: Mapping[str, Any]) -> bool:
    """Whether nnU-Net trains these labels as regions (sigmoid): a list of at least two integers makes it so."""
    return any(isinstance(value, (list, tuple)) and len(value) > 1 for value in labels.values())


def channel_names(labels: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the output channels, in nnU-Net's order.

    Softmax networks have one channel per label value, background first. Region (sigmoid) networks have one channel per
    class in the order of ``labels``, and none for background. The ignore label has no channel.

    Args:
        labels: ``labels`` of a dataset.json: name to integer or list of integers, with ``background``.

    Raises:
        UserError: Two names share an integer in a softmax network, or a name cannot be printed.

    Example:
        >>> channel_names({"background": 0, "tumour": 2, "organ": 1})
        ('background', 'organ', 'tumour')
        >>> channel_names({"background": 0, "whole": [1, 2], "tumour": [2, 2]})
        ('whole', 'tumour')
    """
    check_label_names(labels, "the 'labels' of a dataset.json")
    if has_regions(labels):
        return tuple(name for name, value in labels.items() if name != IGNORE and set(_values(value)) != {0})
    by_value: dict[int, str] = {}
    for name, value in labels.items():
        (label,) = _values(value)
        if name == IGNORE:
            continue
        if label in by_value:
            raise UserError(f"Expected one name per label value, but {label} is both {by_value[label]!r} and {name!r}.")
        by_value[label] = name
    return tuple(by_value[label] for label in sorted(by_value))


def _values(value: Any) -> list[int]:
    return [int(item) for item in value] if isinstance(value, (list, tuple)) else [int(value)]
