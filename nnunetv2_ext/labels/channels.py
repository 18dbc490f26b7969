"""Which class each output channel of a network stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BACKGROUND = "background"
IGNORE = "ignore"


def has_regions(labels: Mapping[str, Any]) -> bool:
    """Whether nnU-Net treats these labels as regions (one sigmoid each) instead of one softmax over all.

    Args:
        labels: The ``labels`` section of a dataset.json.
    """
    return any(isinstance(value, (list, tuple)) and len(value) > 1 for value in labels.values())


def channel_names(dataset_json: Mapping[str, Any]) -> list[str]:
    """Names of the output channels in their order, as nnU-Net's ``LabelManager`` numbers them.

    With regions there is no background channel and the order is the file's; without, channel ``i`` is label ``i``.
    """
    labels = {name: value for name, value in dataset_json["labels"].items() if name != IGNORE}
    if has_regions(labels):
        return [name for name in labels if name != BACKGROUND]
    return sorted(labels, key=lambda name: int(labels[name] if not isinstance(labels[name], list) else labels[name][0]))
