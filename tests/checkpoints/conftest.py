"""Tiny instances of the published networks, with the outputs that the published code gives."""

from __future__ import annotations

import collections
import json

import numpy as np
import pytest
import torch
from fixtures.published_checkpoints import weights_of_name


class ReferenceNetwork:
    """Names, shapes and expected outputs of a tiny published network; its weights follow from the names."""

    def __init__(self, file):
        content = json.loads(file.read_text())
        self.config, self.outputs = content["config"], content["outputs_high_to_low_resolution"]
        self.state = collections.OrderedDict((k, weights_of_name(k, s)) for k, s in content["state_dict"].items())
        rng = np.random.default_rng(content["input"]["seed"])
        self.image = torch.from_numpy(rng.standard_normal(content["input"]["shape"]).astype(np.float32))

    def assert_outputs(self, outputs):
        assert len(outputs) == len(self.outputs)
        for output, expected in zip(outputs, self.outputs, strict=True):
            assert list(output.shape) == expected["shape"]
            step_z, step_y, step_x = expected["stride"]
            values = output[:, :, ::step_z, ::step_y, ::step_x].flatten().numpy()
            np.testing.assert_allclose(values, expected["values"], atol=1e-4)
            assert output.mean().item() == pytest.approx(expected["mean"], abs=1e-5)


@pytest.fixture
def reference_network(reference_folder):
    """``reference_network("stunet_v1")``."""
    return lambda name: ReferenceNetwork(reference_folder / f"{name}.json")
