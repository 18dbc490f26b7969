"""Reference networks as the files that were published: nnU-Net v1 ``.model`` with its ``.pkl``."""

from __future__ import annotations

import collections
import json
import math
import pickle
import zlib

import numpy as np
import pytest
import torch


class ReferenceNetwork:
    """Names, shapes and expected outputs of a tiny published network; its weights follow from the names."""

    def __init__(self, file):
        content = json.loads(file.read_text())
        self.config, self.outputs = content["config"], content["outputs_high_to_low_resolution"]
        self.state = collections.OrderedDict((k, self._weights(k, s)) for k, s in content["state_dict"].items())
        rng = np.random.default_rng(content["input"]["seed"])
        self.image = torch.from_numpy(rng.standard_normal(content["input"]["shape"]).astype(np.float32))

    @staticmethod
    def _weights(name, shape):
        values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
        if len(shape) >= 3:
            values = values * math.sqrt(2 / math.prod(shape[1:]))
        else:
            values = 1 + 0.1 * values if name.endswith("weight") else 0.1 * values
        return torch.from_numpy(np.asarray(values, dtype=np.float32))

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


@pytest.fixture
def write_v1(tmp_path):
    """Writes weights as nnU-Net v1 does, with everything that such a file holds beside them."""

    def write(state, name="model_final_checkpoint.model", prefix="", zip_format=True, plans=None, stage=None):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        state = collections.OrderedDict((prefix + key, value) for key, value in state.items())
        content = {
            "epoch": 4000,
            "state_dict": state,
            "optimizer_state_dict": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.01}]},
            "lr_scheduler_state_dict": None,
            "plot_stuff": ([0.1, np.float64(0.2)], [np.float32(0.3)], [], [np.array([0.5, 0.6])]),
            "best_stuff": (np.float64(0.7), None, np.float64(0.8)),
            "amp_grad_scaler": {"scale": 65536.0},
        }
        torch.save(content, path, _use_new_zipfile_serialization=zip_format)
        if plans is not None:
            arguments = ("plans.pkl", 0, "out", "data", True, stage, True, False, True)
            info = {"init": arguments, "name": "TrainerV1", "class": "<class 'TrainerV1'>", "plans": plans}
            (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(info, protocol=2))
        return path

    return write


def _plans_v1(pool, patch_size, spacing, stages=1, scheme="nonCT"):
    stage = {
        "batch_size": 2,
        "num_pool_per_axis": [5, 5, 5],
        "patch_size": np.array(patch_size),
        "median_patient_size_in_voxels": np.array([228, 228, 240]),
        "current_spacing": np.array(spacing),
        "original_spacing": np.array([3.0, 1.5, 1.5]),
        "do_dummy_2D_data_aug": False,
        "pool_op_kernel_sizes": pool,
        "conv_kernel_sizes": [[3, 3, 3]] * (len(pool) + 1),
    }
    return {
        "num_stages": stages,
        "num_modalities": 1,
        "modalities": {0: "CT"},
        "normalization_schemes": collections.OrderedDict({0: scheme}),
        "use_mask_for_norm": collections.OrderedDict({0: False}),
        "dataset_properties": {
            "all_sizes": [(10, 20, 30)],
            "intensityproperties": collections.OrderedDict(
                {
                    0: {
                        "median": np.float32(60),
                        "mean": 63.43688,
                        "sd": np.float64(175.48094),
                        "mn": -1024,
                        "mx": 3071,
                        "percentile_99_5": 275.0,
                        "percentile_00_5": -927.0,
                    }
                }
            ),
        },
        "num_classes": 2,
        "all_classes": np.arange(1, 3),
        "base_num_features": 16,
        "plans_per_stage": {index: dict(stage) for index in range(stages)},
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "data_identifier": "nnUNetData_plans_v2.1",
        "conv_per_stage": 2,
    }


@pytest.fixture
def plans_v1():
    """``plans_v1(pool, patch_size, spacing)``: the plans that nnU-Net v1 pickles beside a checkpoint."""
    return _plans_v1
