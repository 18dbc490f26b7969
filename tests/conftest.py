"""Fixtures that several test modules use."""

from __future__ import annotations

import collections
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# The tests are written for two cores. More threads than cores, of one process or of several, only wait for each other:
# small networks train several times slower.
_processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, min(2, (os.cpu_count() or 1) // _processes))))
os.environ.setdefault("nnUNet_n_proc_DA", "0")
os.environ.setdefault("nnUNet_def_n_proc", "1")

_SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture
def nnunet_folders(tmp_path, monkeypatch):
    """Empty nnUNet_raw, nnUNet_preprocessed and nnUNet_results, set in the environment; returns their parent."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path


@pytest.fixture(scope="session")
def shared_folder():
    """The folder with real CTs and reference outputs beside a developer's checkout."""
    if not _SHARED.is_dir():
        pytest.skip("the folder with real CTs and reference outputs is not beside this checkout")
    return _SHARED


@pytest.fixture(scope="session")
def real_ct_folder(shared_folder):
    """Three small real CTs with masks."""
    return shared_folder / "data"


@pytest.fixture(scope="session")
def reference_folder(shared_folder):
    """Facts and expected outputs of tiny reference networks."""
    return shared_folder / "reference"


TINY_DATASET = "Dataset007_Tiny"


def _use_threads(patch):
    """Lets nnU-Net's process pools be thread pools: every spawned process would import torch and nnU-Net anew."""
    from multiprocessing import get_context, pool

    class Threads:
        Pool = pool.ThreadPool

    real = get_context
    patch.setattr("multiprocessing.get_context", lambda method=None: Threads if method == "spawn" else real(method))


@pytest.fixture
def threads_instead_of_processes(monkeypatch):
    """Makes nnU-Net preprocess and export in threads, which saves ten seconds per pool."""
    _use_threads(monkeypatch)


def _prepare(root, dataset, dataset_json, label_maps, structures=None):
    """Writes 24^3 images of these label maps as a raw dataset under ``root``, plans and preprocesses it.

    ``structures`` are what is really in the images, where the label maps do not tell all of it.
    """
    import numpy as np
    import SimpleITK as sitk

    raw = root / "nnUNet_raw" / dataset
    (raw / "imagesTr").mkdir(parents=True)
    (raw / "labelsTr").mkdir()
    rng = np.random.default_rng(1)
    for case, label_map in label_maps.items():
        image = (structures or label_maps)[case] * 100.0 + rng.normal(0, 10, label_map.shape)
        for array, path in (
            (image.astype(np.float32), raw / "imagesTr" / f"{case}_0000.nii.gz"),
            (label_map, raw / "labelsTr" / f"{case}.nii.gz"),
        ):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    dataset_json = {"channel_names": {"0": "CT"}, "file_ending": ".nii.gz", **dataset_json}
    (raw / "dataset.json").write_text(json.dumps({**dataset_json, "numTraining": len(label_maps)}))
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            patch.setenv(variable, str(root / variable))
        # The planner sets this many threads and fails on zero.
        patch.setenv("nnUNet_n_proc_DA", "1")
        _use_threads(patch)
        from nnunetv2.experiment_planning.plan_and_preprocess_api import (
            extract_fingerprints,
            plan_experiments,
            preprocess,
        )

        number = int(dataset[7:10])
        extract_fingerprints([number], num_processes=1)
        plan_experiments([number])
        _narrow(root / "nnUNet_preprocessed" / dataset / "nnUNetPlans.json")
        preprocess([number], configurations=["3d_fullres"], num_processes=[1])
    return root


def _narrow(plans_file):
    """Makes the planned U-Net a few channels wide."""
    plans = json.loads(plans_file.read_text())
    for configuration in plans["configurations"].values():
        arguments = configuration["architecture"]["arch_kwargs"]
        arguments["features_per_stage"] = [4 + 2 * stage for stage in range(len(arguments["features_per_stage"]))]
    plans_file.write_text(json.dumps(plans))


def _spheres(values, rng):
    """A 24^3 label map with one sphere per value, later ones over earlier ones."""
    import numpy as np

    grid = np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij"), -1)
    label_map = np.zeros((24, 24, 24), np.uint8)
    for value in values:
        label_map[np.linalg.norm(grid - rng.integers(7, 17, 3), axis=-1) < 5] = value
    return label_map


def _enter(folders, dataset, tmp_path, monkeypatch):
    """Points nnU-Net's variables to a prepared dataset; results and what is preprocessed go to a fresh folder."""
    monkeypatch.setenv("nnUNet_raw", str(folders / "nnUNet_raw"))
    shutil.copytree(folders / "nnUNet_preprocessed", tmp_path / "nnUNet_preprocessed")
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "nnUNet_preprocessed"))
    (tmp_path / "nnUNet_results").mkdir()
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "nnUNet_results"))
    return dataset


@pytest.fixture(scope="session")
def _tiny_folders(tmp_path_factory):
    """A raw dataset of six 24^3 images with two spheres, planned and preprocessed once per test session."""
    import numpy as np

    rng = np.random.default_rng(0)
    return _prepare(
        tmp_path_factory.mktemp("tiny"),
        TINY_DATASET,
        {"labels": {"background": 0, "liver": 1, "spleen": 2}},
        {f"case_{index}": _spheres((1, 2), rng) for index in range(6)},
    )


@pytest.fixture
def tiny_dataset(_tiny_folders, tmp_path, monkeypatch):
    """nnU-Net's folders with the planned and preprocessed `TINY_DATASET`; results go to a fresh folder."""
    return _enter(_tiny_folders, TINY_DATASET, tmp_path, monkeypatch)


TINY_COLLECTION = "Dataset008_TinyCollection"


@pytest.fixture(scope="session")
def _tiny_collection_folders(tmp_path_factory):
    """Two sources: A annotates a liver and the tumour inside it, B a spleen and, except in B_1, a kidney."""
    import numpy as np

    rng = np.random.default_rng(0)
    cases = {"A": [f"A_{index}" for index in range(4)], "B": [f"B_{index}" for index in range(3)]}
    label_maps = {case: _spheres((1, 2), rng) for case in cases["A"]}
    label_maps.update({case: _spheres((3,) if case == "B_1" else (3, 4), rng) for case in cases["B"]})
    root = _prepare(
        tmp_path_factory.mktemp("tiny_collection"),
        TINY_COLLECTION,
        {
            "labels": {
                "background": 0,
                "A/liver": [1, 2],
                "A/tumour": [2, 2],
                "B/spleen": [3, 3],
                "B/kidney": [4, 4],
            },
            "regions_class_order": [1, 2, 3, 4],
            "partial_labels": {
                "A": {"classes": ["A/liver", "A/tumour"], "cases": cases["A"]},
                "B": {
                    "classes": ["B/spleen", "B/kidney"],
                    "cases": cases["B"],
                    "exceptions": {"B_1": ["B/kidney"]},
                },
            },
        },
        label_maps,
    )
    validation = ["A_0", "B_0", "B_1"]
    splits = [{"train": [case for case in label_maps if case not in validation], "val": validation}]
    (root / "nnUNet_preprocessed" / TINY_COLLECTION / "splits_final.json").write_text(json.dumps(splits))
    return root


@pytest.fixture
def tiny_collection(_tiny_collection_folders, tmp_path, monkeypatch):
    """nnU-Net's folders with the planned and preprocessed `TINY_COLLECTION`; results go to a fresh folder."""
    return _enter(_tiny_collection_folders, TINY_COLLECTION, tmp_path, monkeypatch)


TINY_TREE_COLLECTION = "Dataset009_TinyTree"
TINY_TREE = {"background": {}, "body": {"bones": {"rib": {}, "hip": {}}, "body_other": {}}}


@pytest.fixture(scope="session")
def _tiny_tree_folders(tmp_path_factory):
    """Source A annotates bones without telling them apart, source B rib and hip; nobody annotates the soft tissue."""
    import numpy as np

    rng = np.random.default_rng(0)
    cases = {source: [f"{source}_{index}" for index in range(5)] for source in "AB"}
    structures = {case: _spheres((3, 4, 1), rng) for source in "AB" for case in cases[source]}
    labels = {"background": 0, "body": 1, "bones": 2, "rib": 3, "hip": 4, "body_other": 5}
    shown = {"A": np.array([0, 0, 0, 2, 2], np.uint8), "B": np.array([0, 0, 0, 3, 4], np.uint8)}
    label_maps = {case: shown[case[0]][structure] for case, structure in structures.items()}
    root = _prepare(
        tmp_path_factory.mktemp("tiny_tree"),
        TINY_TREE_COLLECTION,
        {
            "labels": labels,
            "label_tree": TINY_TREE,
            "partial_labels": {
                "A": {"classes": ["bones"], "cases": cases["A"]},
                "B": {"classes": ["rib", "hip"], "cases": cases["B"]},
            },
        },
        label_maps,
        structures,
    )
    validation = ["A_0", "A_1", "B_0", "B_1"]
    splits = [{"train": [case for case in label_maps if case not in validation], "val": validation}]
    (root / "nnUNet_preprocessed" / TINY_TREE_COLLECTION / "splits_final.json").write_text(json.dumps(splits))
    np.savez(root / "structures.npz", **structures)
    return root


@pytest.fixture
def tiny_tree_collection(_tiny_tree_folders, tmp_path, monkeypatch):
    """nnU-Net's folders with the planned and preprocessed `TINY_TREE_COLLECTION`; results go to a fresh folder."""
    return _enter(_tiny_tree_folders, TINY_TREE_COLLECTION, tmp_path, monkeypatch)


@pytest.fixture
def tiny_tree_structures(_tiny_tree_folders):
    """What is really in the images of `tiny_tree_collection`: 3 is rib, 4 is hip, 1 is soft tissue; by case."""
    import numpy as np

    with np.load(_tiny_tree_folders / "structures.npz") as file:
        return dict(file)


# Tiny trained models and images for the tests of prediction.

CT_INTENSITIES = {
    "max": 1200.0, "mean": 50.0, "median": 50.0, "min": -900.0, "percentile_00_5": -800.0, "percentile_99_5": 900.0,
    "std": 250.0,
}  # fmt: skip

SOFTMAX_LABELS = {"background": 0, "liver": 1, "spleen": 2, "aorta": 3}

REGIONS = {
    "labels": {"background": 0, "A/liver": [1, 2], "A/tumour": [2, 2], "B/liver": [3, 3], "B/spleen": [4, 4]},
    "regions_class_order": [1, 2, 3, 4],
    "partial_labels": {
        "A": {"classes": ["A/liver", "A/tumour"], "cases": ["A_1"]},
        "B": {"classes": ["B/liver", "B/spleen"], "cases": ["B_1"]},
    },
}


def _configuration(patch_size: list[int], spacing: list[float], channels: int) -> dict[str, Any]:
    dimension = len(patch_size)
    common = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    return {
        "data_identifier": "tiny",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": patch_size,
        "median_image_size_in_voxels": [20.0] * dimension,
        "spacing": spacing,
        "normalization_schemes": ["CTNormalization"] * channels,
        "use_mask_for_norm": [False] * channels,
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": common,
        "resampling_fn_seg_kwargs": {**common, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**common, "order": 1},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 2,
                "features_per_stage": [6, 12],
                "conv_op": f"torch.nn.modules.conv.Conv{dimension}d",
                "kernel_sizes": [[3] * dimension] * 2,
                "strides": [[1] * dimension, [2] * dimension],
                "n_conv_per_stage": [1, 1],
                "n_conv_per_stage_decoder": [1],
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimension}d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": False,
    }  # fmt: skip


@pytest.fixture(scope="session")
def make_model_folder() -> Callable[..., Path]:
    """Writes a model folder as stock nnU-Net would, with random weights."""

    def make(
        folder: Path,
        *,
        dataset: Mapping[str, Any] | None = None,
        configuration: str = "3d_fullres",
        folds: tuple[int, ...] = (0,),
        channels: int = 1,
        spacing: tuple[float, ...] = (2.0, 1.5, 1.5),
        patch_size: tuple[int, ...] | None = None,
        plans: Mapping[str, Any] | None = None,
        changes: Mapping[str, Any] | None = None,
        mirror_axes: tuple[int, ...] | None = None,
    ) -> Path:
        import torch
        from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
        from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        is_2d = configuration == "2d"
        patch = list(patch_size or ((16, 16) if is_2d else (8, 16, 16)))
        settings = _configuration(patch, list(spacing[-len(patch) :]), channels) | dict(changes or {})
        plans_json = {
            "dataset_name": "Dataset001_Tiny",
            "plans_name": "nnUNetPlans",
            "original_median_spacing_after_transp": list(spacing),
            "original_median_shape_after_transp": [20, 24, 24],
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "configurations": {configuration: settings},
            "experiment_planner_used": "ExperimentPlanner",
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {str(c): CT_INTENSITIES for c in range(channels)},
            **(plans or {}),
        }
        dataset_json = {
            "channel_names": {str(channel): "CT" for channel in range(channels)},
            "labels": SOFTMAX_LABELS,
            "numTraining": 2,
            "file_ending": ".nii.gz",
            **(dataset or {}),
        }
        folder.mkdir(parents=True)
        (folder / "plans.json").write_text(json.dumps(plans_json))
        (folder / "dataset.json").write_text(json.dumps(dataset_json))
        manager = PlansManager(plans_json)
        tiny = manager.get_configuration(configuration)
        heads = manager.get_label_manager(dataset_json).num_segmentation_heads
        for fold in folds:
            torch.manual_seed(fold)
            network = get_network_from_plans(
                tiny.network_arch_class_name,
                tiny.network_arch_init_kwargs,
                tiny.network_arch_init_kwargs_req_import,
                determine_num_input_channels(manager, tiny, dataset_json),
                heads,
                deep_supervision=True,
            )
            # Without biases of the heads every class wins somewhere.
            for name, tensor in network.named_parameters():
                if "seg_layers" in name:
                    torch.nn.init.normal_(tensor, std=1.0 if tensor.ndim > 1 else 0.0)
            (folder / f"fold_{fold}").mkdir()
            torch.save(
                {
                    "network_weights": network.state_dict(),
                    "trainer_name": "nnUNetTrainer",
                    "init_args": {"configuration": configuration, "fold": fold},
                    "inference_allowed_mirroring_axes": mirror_axes,
                },
                folder / f"fold_{fold}" / "checkpoint_final.pth",
            )
        return folder

    return make


@pytest.fixture(scope="session")
def softmax_model(tmp_path_factory, make_model_folder) -> Path:
    """Four softmax outputs, 3D."""
    return make_model_folder(tmp_path_factory.mktemp("softmax") / "nnUNetTrainer__nnUNetPlans__3d_fullres")


@pytest.fixture(scope="session")
def region_model(tmp_path_factory, make_model_folder) -> Path:
    """Four sigmoid outputs of two sources, 3D."""
    folder = tmp_path_factory.mktemp("regions") / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    return make_model_folder(folder, dataset=REGIONS)


@pytest.fixture(scope="session")
def make_ct() -> Callable[..., Any]:
    """A SimpleITK image of smooth random tissue in air, HU, int16."""

    def make(size=(22, 20, 12), spacing=(1.5, 1.6, 2.5), seed=0, direction=None, origin=(-30.0, 12.5, 7.0)):
        import SimpleITK
        from scipy.ndimage import gaussian_filter

        noise = np.random.default_rng(seed).normal(size=size[::-1])
        smooth = gaussian_filter(noise, 1.5)
        array = (smooth / smooth.std() * 150 + 40).round().astype(np.int16)
        image = SimpleITK.GetImageFromArray(array)
        image.SetSpacing(spacing)
        image.SetOrigin(origin)
        if direction is not None:
            image.SetDirection(np.ravel(direction).tolist())
        return image

    return make


@pytest.fixture
def ct_file(tmp_path, make_ct) -> Path:
    """One CT in nnU-Net's naming, alone in a folder."""
    import SimpleITK

    folder = tmp_path / "images"
    folder.mkdir()
    SimpleITK.WriteImage(make_ct(), str(folder / "case_0000.nii.gz"))
    return folder / "case_0000.nii.gz"


@pytest.fixture
def write_v1(tmp_path):
    """Writes weights as nnU-Net v1 does, with everything that such a file holds beside them."""

    import numpy as np
    import torch

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
    import numpy as np

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


@pytest.fixture
def published_names():
    """Turns the state dict of an STUNet into one with the names of the published code."""

    def rename(network):
        renamed = {}
        for name, tensor in network.state_dict().items():
            for ours, theirs in (
                ("encoder.stages", "conv_blocks_context"),
                ("decoder.stages", "conv_blocks_localization"),
                ("decoder.upsample_layers", "upsample_layers"),
                ("decoder.seg_layers", "seg_outputs"),
                ("shortcut", "conv3"),
            ):
                name = name.replace(ours, theirs)
            renamed[name] = tensor
        return renamed

    return rename


@pytest.fixture
def tiny_stunet():
    """``tiny_stunet(num_classes=3, **arguments)``: an STU-Net of three stages with seeded weights."""

    def build(num_classes=3, **arguments):
        import torch

        from nnunetv2_ext.architectures.stunet import STUNet

        torch.manual_seed(0)
        defaults = {
            "features_per_stage": [4, 6, 8],
            "n_blocks_per_stage": [1, 2, 1],
            "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        }
        return STUNet(1, num_classes, **{**defaults, **arguments}).eval()

    return build


@pytest.fixture(scope="session")
def code_in():
    """The code blocks of a page in docs/: ``code_in("merge.md", "bash")``; continued shell lines are joined."""

    def read(page, language):
        text = (Path(__file__).resolve().parents[1] / "docs" / page).read_text(encoding="utf-8")
        blocks = [block.partition("\n") for block in text.split("```")[1::2]]
        return [code.replace("\\\n", " ") for name, _, code in blocks if name.strip() == language]

    return read


def _run_command(*command: str, **variables: str) -> str:
    """Runs an installed command in a process of its own; fails with its output when it fails."""
    environment = {key: value for key, value in os.environ.items() if key != "nnUNet_extTrainer"}
    program, *arguments = command
    result = subprocess.run(
        [str(Path(sys.executable).with_name(program)), *arguments],
        env={**environment, "nnUNet_n_proc_DA": "1", **variables},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout


@pytest.fixture(scope="session")
def run_installed() -> Callable[..., str]:
    """``run_installed("nnUNetv2_train", "61", ..., variable=...)``: runs an installed command, returns what it printed.

    The plugin has to be found without any variable set by hand.
    """
    return _run_command


@pytest.fixture
def real_dataset(real_ct_folder, nnunet_folders):
    """The thorax-abdomen CT cut along z into five cases with consecutive labels, as an nnU-Net raw dataset."""
    import SimpleITK as sitk

    from nnunetv2_ext.labels.label_order import LabelOrder

    image = sitk.ReadImage(str(real_ct_folder / "ct_thorax_abdomen_3mm" / "ct.nii.gz"))
    labels = sitk.ReadImage(str(real_ct_folder / "ct_thorax_abdomen_3mm" / "totalsegmentator_v2_labels.nii.gz"))
    present = np.unique(sitk.GetArrayViewFromImage(labels))
    lookup = np.zeros(present.max() + 1, np.uint8)
    lookup[present] = np.arange(len(present))
    consecutive = sitk.GetImageFromArray(lookup[sitk.GetArrayFromImage(labels)])
    consecutive.CopyInformation(labels)
    raw = nnunet_folders / "nnUNet_raw" / "Dataset061_RealCT"
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    for index in range(5):
        planes = slice(index * 22, index * 22 + 22)
        sitk.WriteImage(image[:, :, planes], str(raw / "imagesTr" / f"slab_{index}_0000.nii.gz"))
        sitk.WriteImage(consecutive[:, :, planes], str(raw / "labelsTr" / f"slab_{index}.nii.gz"))
    order = LabelOrder.read("totalsegmentator_v2")
    names = {
        "background": 0,
        **{next(iter(order.classes_of_value[value])): index for index, value in enumerate(present) if value},
    }
    (raw / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT"}, "labels": names, "numTraining": 5, "file_ending": ".nii.gz"})
    )
    return raw
