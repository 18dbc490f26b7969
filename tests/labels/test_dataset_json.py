"""What the labels and channels of a dataset.json must be."""

from __future__ import annotations

import pytest

from nnunetv2_ext.labels.dataset_json import check_outputs, image_channels
from nnunetv2_ext.utilities.errors import UserError


def test_channels_in_numerical_order():
    assert image_channels({"channel_names": {str(i): f"c{i}" for i in (10, 2, 0)}}) == ["c0", "c2", "c10"]
    with pytest.raises(UserError, match="channel_names"):
        image_channels({})


@pytest.mark.parametrize(
    ("labels", "further", "message"),
    [
        ({"background": 0, "liver": 1, "ignore": 2}, {}, None),
        ({"background": 0, "liver": [1, 2], "tumour": [2, 2]}, {"regions_class_order": [1, 2]}, None),
        ({"liver": 1}, {}, "Expected 0 as background"),
        ({"background": 1, "liver": 0}, {}, "Expected 0 as background"),
        ({"background": 0, "liver": 2}, {}, "without gaps"),
        ({"background": 0, "liver": 1, "ignore": 3}, {}, "without gaps"),
        ({"background": 0, "liver": 1, "ignore": [2]}, {}, "as ignore"),
        ({"background": 0, "liver": [1, 2]}, {}, "regions_class_order"),
        ({"background": 0, "liver": [1, 2]}, {"regions_class_order": [1, 2]}, "regions_class_order"),
        ({"background": 0, "liver": 10**9}, {}, "0 to 65535"),
        ({"background": 0, "liver": -1}, {}, "0 to 65535"),
        ({str(number): number for number in range(5000)}, {}, "4096 entries"),
    ],
)
def test_outputs_are_told_by_the_labels(labels, further, message):
    dataset_json = {"channel_names": {"0": "CT"}, "file_ending": ".nii.gz", "labels": labels, **further}
    if message is None:
        check_outputs(dataset_json, "dataset.json")
        return
    with pytest.raises(UserError, match=message):
        check_outputs(dataset_json, "dataset.json")
