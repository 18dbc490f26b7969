"""Good files, written by hand in nnU-Net's formats: model folder, datasets, preprocessed data, label orders.

Nothing here calls the package: what it reads was written by others.
"""

from __future__ import annotations

import gzip
import json
import pickle
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

CONFIGURATION = "3d_fullres"
MODEL_NAME = f"nnUNetTrainer__nnUNetPlans__{CONFIGURATION}"
LABELS = {"background": 0, "liver": 1, "spleen": 2}
OTHER_LABELS = {"background": 0, "kidney": 1, "aorta": 2}
CASES = ("bad", "good", "c1", "c2", "c3", "c4")
SHAPE = (16, 14, 10)  # x, y, z
SPACING = (1.5, 1.5, 2.0)
INTENSITIES = {
    "max": 1200.0, "mean": 50.0, "median": 50.0, "min": -900.0, "percentile_00_5": -800.0, "percentile_99_5": 900.0,
    "std": 250.0,
}  # fmt: skip


def write_library(folder: Path) -> None:
    """Writes all of it."""
    write_model(folder / "model", LABELS)
    write_v1(folder / "v1")
    write_json(folder / "order.json", {"labels": {"liver": 1, "spleen": 2}})
    write_json(folder / "other_order.json", {"labels": {"spleen": 3, "liver": 7}})
    write_raw(folder / "Dataset001_Tiny", LABELS)
    write_raw(folder / "Dataset002_Other", OTHER_LABELS, seed=50)
    write_preprocessed(folder / "preprocessed", folder / "Dataset001_Tiny")
    big = np.random.default_rng(9).integers(-1000, 1000, (160, 160, 120)).astype(np.int16)
    write_nifti(folder / "big_image.nii.gz", big)
    write_nifti(folder / "big_map.nii.gz", (big % 3).astype(np.uint8))
    # The network looks at it through thousands of windows.
    write_nifti(folder / "seen_through_windows.nii.gz", big[:64, :64, :48])


# Images ------------------------------------------------------------------------------------------------------------


def ct(seed: int = 0, shape: Sequence[int] = SHAPE) -> npt.NDArray[np.int16]:
    """Voxels (x, y, z) of a scan, no two seeds alike."""
    return np.random.default_rng(seed).integers(-200, 300, shape).astype(np.int16)


def label_map(seed: int = 0, shape: Sequence[int] = SHAPE) -> npt.NDArray[np.uint8]:
    """Voxels (x, y, z) of a label map of 0, 1 and 2: two blocks."""
    voxels = np.zeros(shape, np.uint8)
    edge = seed % 3
    voxels[2 + edge : 9, 2:9, 2:8] = 1
    voxels[9:14, 3 + edge : 12, 3:9] = 2
    return voxels


def nifti_bytes(
    voxels: npt.NDArray[Any],
    *,
    spacing: Sequence[float] = SPACING,
    affine: npt.NDArray[np.float64] | None = None,
    fields: Mapping[str, Any] | None = None,
    image_class: Any = nibabel.Nifti1Image,
) -> bytes:
    """A NIfTI file, not compressed; ``fields`` are set in its header as they are, sensible or not."""
    affine = np.diag([*spacing[:3], 1.0]) if affine is None else affine
    image = image_class(voxels, affine, dtype=voxels.dtype)
    image.header.set_xyzt_units("mm")
    content = bytearray(image.to_bytes())
    header = np.frombuffer(content, image.header.template_dtype, count=1)
    for name, value in (fields or {}).items():
        if isinstance(value, dict):
            for index, entry in value.items():
                header[name][0][index] = entry
        else:
            header[name][0] = value
    return bytes(content)


def write_nifti(path: Path, voxels: npt.NDArray[Any], **options: Any) -> Path:
    """Writes a NIfTI file, compressed where its name says so; see `nifti_bytes`."""
    content = nifti_bytes(voxels, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, 1) if path.name.endswith(".gz") else content)
    return path


META_TYPES = {"int16": "MET_SHORT", "uint8": "MET_UCHAR", "float32": "MET_FLOAT"}
NRRD_TYPES = {"int16": "short", "uint8": "unsigned char", "float32": "float"}


def meta_header(voxels: npt.NDArray[Any], data: str) -> bytes:
    """The header of a MetaImage (.mha, .mhd) whose voxels are in the file ``data``."""
    return (
        f"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        f"CompressedData = False\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\n"
        f"ElementSpacing = {' '.join(map(str, SPACING))}\nDimSize = {' '.join(map(str, voxels.shape))}\n"
        f"ElementType = {META_TYPES[voxels.dtype.name]}\nElementDataFile = {data}\n"
    ).encode()


def nrrd_header(voxels: npt.NDArray[Any], data: str = "", further: str = "") -> bytes:
    """The header of an NRRD (.nrrd, .nhdr) whose voxels follow or are in the file ``data``."""
    vectors = " ".join(f"({','.join(str(SPACING[a] if a == b else 0) for b in range(3))})" for a in range(3))
    return (
        f"NRRD0004\ntype: {NRRD_TYPES[voxels.dtype.name]}\ndimension: 3\nspace: left-posterior-superior\n"
        f"sizes: {' '.join(map(str, voxels.shape))}\nspace directions: {vectors}\nkinds: domain domain domain\n"
        f"endian: little\nencoding: raw\nspace origin: (0,0,0)\n{further}" + (f"data file: {data}\n" if data else "\n")
    ).encode()


def write_image(path: Path, voxels: npt.NDArray[Any]) -> Path:
    """Writes a good file of the format that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = voxels.tobytes(order="F")
    if path.suffix == ".mha":
        path.write_bytes(meta_header(voxels, "LOCAL") + flat)
    elif path.suffix == ".mhd":
        path.write_bytes(meta_header(voxels, f"{path.stem}.raw"))
        path.with_suffix(".raw").write_bytes(flat)
    elif path.suffix == ".nrrd":
        path.write_bytes(nrrd_header(voxels) + flat)
    elif path.suffix == ".nhdr":
        path.write_bytes(nrrd_header(voxels, f"./{path.stem}.raw"))
        path.with_suffix(".raw").write_bytes(flat)
    else:
        write_nifti(path, voxels)
    return path


# Datasets ----------------------------------------------------------------------------------------------------------


def write_json(path: Path, content: Any) -> Path:
    """Writes JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def dataset_json(labels: Mapping[str, Any], cases: int = len(CASES), ending: str = ".nii.gz") -> dict[str, Any]:
    """A dataset.json."""
    return {"channel_names": {"0": "CT"}, "labels": dict(labels), "numTraining": cases, "file_ending": ending}


def write_raw(
    folder: Path,
    labels: Mapping[str, Any],
    cases: Sequence[str] = CASES,
    ending: str = ".nii.gz",
    seed: int = 0,
) -> Path:
    """Writes a raw dataset."""
    for number, case in enumerate(cases):
        write_image(folder / "imagesTr" / f"{case}_0000{ending}", ct(seed + number))
        write_image(folder / "labelsTr" / f"{case}{ending}", label_map(seed + number))
    write_json(folder / "dataset.json", dataset_json(labels, len(cases), ending))
    return folder


def write_preprocessed(folder: Path, raw: Path, cases: Sequence[str] = CASES) -> Path:
    """Writes what preprocessing makes of a raw dataset, for training and for planning."""
    import blosc2

    write_json(folder / "dataset.json", dataset_json(LABELS))
    write_json(folder / "nnUNetPlans.json", plans_json("Dataset001_Tiny"))
    write_json(
        folder / "dataset_fingerprint.json",
        {
            "spacings": [list(SPACING[::-1])] * len(cases),
            "shapes_after_crop": [list(SHAPE[::-1])] * len(cases),
            "foreground_intensity_properties_per_channel": {"0": INTENSITIES},
            "median_relative_size_after_cropping": 1.0,
        },
    )
    write_json(
        folder / "splits_final.json",
        [{"train": [case for case in cases if case != "c4"], "val": ["c4"]}],
    )
    data = folder / "tiny"
    data.mkdir()
    (folder / "gt_segmentations").mkdir()
    for number, case in enumerate(cases):
        voxels, labels = ct(number).T, label_map(number).T
        arrays = {"": (voxels[None] / 250).astype(np.float32), "_seg": labels[None].astype(np.int16)}
        for suffix, array in arrays.items():
            blosc2.asarray(np.ascontiguousarray(array), urlpath=str(data / f"{case}{suffix}.b2nd"), mode="w")
        properties = {
            "spacing": SPACING[::-1],
            "sitk_stuff": {"spacing": SPACING, "origin": (0.0, 0.0, 0.0), "direction": tuple(np.eye(3).ravel())},
            "shape_before_cropping": labels.shape,
            "bbox_used_for_cropping": [[0, edge] for edge in labels.shape],
            "shape_after_cropping_and_before_resampling": labels.shape,
            "class_locations": {value: np.argwhere(labels[None] == value) for value in (1, 2)},
        }
        (data / f"{case}.pkl").write_bytes(pickle.dumps(properties))
        label_file = raw / "labelsTr" / f"{case}.nii.gz"
        (folder / "gt_segmentations" / label_file.name).write_bytes(label_file.read_bytes())
    return folder


# Models ------------------------------------------------------------------------------------------------------------


def plans_json(dataset: str = "Dataset001_Tiny") -> dict[str, Any]:
    """Plans of a U-Net of two stages."""
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "tiny",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [8, 8, 8],
        "median_image_size_in_voxels": list(map(float, SHAPE[::-1])),
        "spacing": list(SPACING[::-1]),
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 2,
                "features_per_stage": [4, 8],
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
                "strides": [[1, 1, 1], [2, 2, 2]],
                "n_conv_per_stage": [1, 1],
                "n_conv_per_stage_decoder": [1],
                "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": False,
    }
    return {
        "dataset_name": dataset,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": list(SPACING[::-1]),
        "original_median_shape_after_transp": list(SHAPE[::-1]),
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {CONFIGURATION: configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": INTENSITIES},
    }


def network_state(outputs: int = 3, seed: int = 0) -> dict[str, Any]:
    """Name -> tensor of the network that `plans_json` describes."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Any:
        return torch.randn(shape, generator=generator) / 5

    def block(name: str, inputs: int, features: int) -> dict[str, Any]:
        parts = {"conv": (random(features, inputs, 3, 3, 3), random(features)), "norm": (random(features),) * 2}
        state: dict[str, Any] = {}
        for number, (part, (weight, bias)) in enumerate(parts.items()):
            for known_as in (part, f"all_modules.{number}"):
                state |= {f"{name}.convs.0.{known_as}.weight": weight, f"{name}.convs.0.{known_as}.bias": bias}
        return state

    encoder = block("encoder.stages.0.0", 1, 4) | block("encoder.stages.1.0", 4, 8)
    return {
        **encoder,
        **{f"decoder.{name}": tensor for name, tensor in encoder.items()},
        **block("decoder.stages.0", 8, 4),
        "decoder.transpconvs.0.weight": random(8, 4, 2, 2, 2),
        "decoder.transpconvs.0.bias": random(4),
        "decoder.seg_layers.0.weight": random(outputs, 4, 1, 1, 1),
        "decoder.seg_layers.0.bias": torch.zeros(outputs),
    }


def checkpoint(**changes: Any) -> dict[str, Any]:
    """The content of a checkpoint of that network, as nnU-Net saves it."""
    content = {
        "network_weights": network_state(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {
            "plans": plans_json(),
            "configuration": CONFIGURATION,
            "fold": 0,
            "dataset_json": dataset_json(LABELS),
        },
        "inference_allowed_mirroring_axes": None,
    }
    return content | changes


def write_model(folder: Path, labels: Mapping[str, Any]) -> Path:
    """Writes a model folder."""
    import torch

    write_json(folder / "plans.json", plans_json())
    write_json(folder / "dataset.json", dataset_json(labels))
    (folder / "fold_0").mkdir()
    torch.save(checkpoint(), folder / "fold_0" / "checkpoint_final.pth")
    return folder


def plans_v1() -> dict[str, Any]:
    """What nnU-Net v1 pickles beside a checkpoint."""
    stage = {
        "batch_size": 2,
        "num_pool_per_axis": [1, 1, 1],
        "patch_size": np.array([8, 8, 8]),
        "median_patient_size_in_voxels": np.array(SHAPE[::-1]),
        "current_spacing": np.array(SPACING[::-1]),
        "original_spacing": np.array(SPACING[::-1]),
        "do_dummy_2D_data_aug": False,
        "pool_op_kernel_sizes": [[2, 2, 2]],
        "conv_kernel_sizes": [[3, 3, 3]] * 2,
    }
    intensities = {"median": 60.0, "mean": 63.4, "sd": np.float64(175.5), "mn": -1024, "mx": 3071}
    plans = {
        "num_stages": 1,
        "num_modalities": 1,
        "modalities": {0: "CT"},
        "normalization_schemes": {0: "CT"},
        "use_mask_for_norm": {0: False},
        "dataset_properties": {
            "all_sizes": [(10, 20, 30)],
            "intensityproperties": {0: intensities | {"percentile_99_5": 275.0, "percentile_00_5": -927.0}},
        },
        "num_classes": 2,
        "all_classes": np.arange(1, 3),
        "base_num_features": 4,
        "plans_per_stage": {0: stage},
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "data_identifier": "nnUNetData_plans_v2.1",
        "conv_per_stage": 1,
    }
    init = ("plans.pkl", 0, "out", "data/Task001_Tiny", True, 0, True, False, True)
    return {"init": init, "name": "nnUNetTrainerV2", "class": "<class 'nnUNetTrainerV2'>", "plans": plans}


def write_v1(folder: Path) -> Path:
    """Writes a checkpoint of nnU-Net v1 with its pickle."""
    import torch

    folder.mkdir()
    state = network_state()
    names = {
        "encoder.stages.0.0.convs.0": "conv_blocks_context.0.blocks.0",
        "encoder.stages.1.0.convs.0": "conv_blocks_context.1.0.blocks.0",
        "decoder.stages.0.convs.0": "conv_blocks_localization.0.0.blocks.0",
    }
    renamed = {
        f"{old}.{part}.{kind}": state[f"{new}.{'norm' if part == 'instnorm' else part}.{kind}"]
        for new, old in names.items()
        for part in ("conv", "instnorm")
        for kind in ("weight", "bias")
    }
    renamed["tu.0.weight"] = state["decoder.transpconvs.0.weight"]
    renamed["seg_outputs.0.weight"] = state["decoder.seg_layers.0.weight"]
    torch.save({"epoch": 1, "state_dict": renamed, "optimizer_state_dict": {"state": {}}}, folder / "x.model")
    (folder / "x.model.pkl").write_bytes(pickle.dumps(plans_v1(), protocol=2))
    return folder


def safetensors_bytes(header: bytes, body: bytes = b"", length: int | None = None) -> bytes:
    """A .safetensors file with this header, sensible or not."""
    return struct.pack("<Q", len(header) if length is None else length) + header + body
