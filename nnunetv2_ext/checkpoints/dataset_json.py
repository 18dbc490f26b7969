"""The dataset.json of an imported model, from the label order that its outputs follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from nnunetv2_ext.labels.channels import BACKGROUND, IGNORE, channel_names, has_regions
from nnunetv2_ext.labels.label_order import LabelOrder


def labels_of(order: LabelOrder, sigmoid: bool = False) -> dict[str, Any]:
    """``labels`` of a dataset.json from a label order; with overlapping classes all of them become regions.

    nnU-Net takes a list of at least two integers for a region, hence ``[3, 3]`` for a single one.

    Args:
        order: The label order.
        sigmoid: Whether the network has sigmoid outputs though its classes do not overlap.
    """
    labels: dict[str, Any] = {BACKGROUND: 0}
    overlapping = sigmoid or any(isinstance(value, tuple) for value in order.labels.values())
    for name, value in order.labels.items():
        values = list(value) if isinstance(value, tuple) else [value]
        labels[name] = (values * 2 if len(values) == 1 else values) if overlapping else value
    if order.ignore_label is not None:
        labels[IGNORE] = order.ignore_label
    return labels


def dataset_json_of(order: LabelOrder, input_channels: int, sigmoid: bool = False) -> dict[str, Any]:
    """A dataset.json for a network whose outputs follow a label order; sources become its ``partial_labels``."""
    content: dict[str, Any] = {
        "channel_names": {str(channel): order.modality or f"channel_{channel}" for channel in range(input_channels)},
        "labels": {},
        "numTraining": 0,
        "file_ending": ".nii.gz",
    }
    if order.sources:
        content["partial_labels"] = {
            source: {"classes": list(classes), "cases": []} for source, classes in order.sources.items()
        }
    return with_labels(content, labels_of(order, sigmoid))


def with_labels(dataset_json: Mapping[str, Any], labels: Mapping[str, Any]) -> dict[str, Any]:
    """A dataset.json with other labels, and with the ``regions_class_order`` that they need.

    The integer that a region paints when nnU-Net merges all outputs is the one that the fewest other regions share, so
    that a tumour paints its own and its organ the rest.
    """
    content = {**dataset_json, "labels": dict(labels)}
    content.pop("regions_class_order", None)
    if has_regions(labels):
        regions = [set(labels[name]) for name in channel_names(labels)]
        shared = Counter(value for region in regions for value in region)
        content["regions_class_order"] = [min(region, key=lambda v: (shared[v], v)) for region in regions]
    return content
