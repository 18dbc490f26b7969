from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2_ext.labels.channels import channel_names, has_regions
from nnunetv2_ext.utilities.errors import UserError

NAMES = st.lists(st.text("abcdef", min_size=1), min_size=1, max_size=6, unique=True)


def label_manager(labels, **extra):
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    order = list(range(1, len(labels))) if has_regions(labels) else None
    return LabelManager(labels, order, **extra)


@given(names=NAMES, data=st.data())
def test_softmax_channels_are_nnunets(names, data):
    values = data.draw(st.permutations(range(1, len(names) + 1)))
    labels = {"background": 0, **dict(zip(names, values, strict=True))}
    if data.draw(st.booleans()):
        labels["ignore"] = len(names) + 1
    channels = channel_names(labels)
    manager = label_manager(labels)
    assert len(channels) == manager.num_segmentation_heads
    assert [labels[name] for name in channels] == list(range(len(channels)))


@given(names=NAMES, data=st.data())
def test_region_channels_are_nnunets(names, data):
    labels: dict[str, Any] = {"background": 0}
    for name in names:
        values = data.draw(st.lists(st.integers(1, len(names)), min_size=2, max_size=4))
        labels[name] = values
    channels = channel_names(labels)
    manager = label_manager(labels)
    assert has_regions(labels)
    assert manager.has_regions
    assert [tuple(labels[name]) for name in channels] == [tuple(region) for region in manager.foreground_regions]


def test_two_names_for_one_value_are_refused():
    with pytest.raises(UserError, match="both 'a' and 'b'"):
        channel_names({"background": 0, "a": 1, "b": 1})
