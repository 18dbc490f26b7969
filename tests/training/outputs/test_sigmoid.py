from __future__ import annotations

import torch
from torch import nn

from nnunetv2_ext.architectures.stunet import STUNet
from nnunetv2_ext.training.outputs.sigmoid import SigmoidOutputs, annotated_classes

COLLECTION = {
    "labels": {"background": 0, "A/liver": [1, 2], "A/tumour": [2, 2], "B/spleen": [3, 3]},
    "regions_class_order": [1, 2, 3],
    "partial_labels": {
        "A": {"classes": ["A/liver", "A/tumour"], "cases": ["a"]},
        "B": {"classes": ["B/spleen"], "cases": ["b"]},
    },
}


def test_at_least_one_head_is_evaluated():
    assert annotated_classes(torch.zeros(2, 5, dtype=torch.bool)).tolist() == [0]
    assert annotated_classes(torch.tensor([[0, 1, 0, 0], [0, 1, 0, 1]]).bool()).tolist() == [1, 3]


def test_networks_that_can_leave_heads_out_do():
    outputs = SigmoidOutputs(COLLECTION, smooth=1.0)
    selects = STUNet(
        1, 3, features_per_stage=[4, 4], n_blocks_per_stage=1, strides=[[1, 1], [2, 2]], deep_supervision=False
    )
    annotated = torch.tensor([[True, False, True]])
    assert outputs.prepare(selects) is None
    channels = outputs.channels(selects, annotated)
    assert channels is not None
    assert channels.tolist() == [0, 2]
    assert "Conv2d evaluates the heads of all classes" in str(outputs.prepare(nn.Conv2d(1, 3, 1)))
    assert outputs.channels(nn.Conv2d(1, 3, 1), annotated) is None


def test_cases_are_predicted_as_their_source_annotates_them():
    outputs = SigmoidOutputs(COLLECTION, smooth=1.0)
    # As nnU-Net writes them, a single value twice.
    assert outputs.regions == [(1, 2), (2, 2), (3, 3)]
    kinds = outputs.kinds_of(["b", "a"])
    assert [(kind.cases, outputs.predicted_of(kind)) for kind in kinds] == [
        (("a",), ["A/liver", "A/tumour"]),
        (("b",), ["B/spleen"]),
    ]
