"""Writes the network of a model folder in formats that other software runs, and checks what was written."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import nnunetv2_ext
from nnunetv2_ext.architectures.label_tree_network import INNER_VALUE, LEAF_FLOOR
from nnunetv2_ext.checkpoints.model_folder import PROVENANCE_NAME
from nnunetv2_ext.inference.bundles.profile import read_profile
from nnunetv2_ext.inference.model.folder import Model, read_model
from nnunetv2_ext.inference.multi_head.groups import has_heads
from nnunetv2_ext.inference.preparing.nnunet import orientation_of
from nnunetv2_ext.labels.label_tree import SECTION as LABEL_TREE
from nnunetv2_ext.labels.label_tree import LabelTree
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.extras import require_extra
from nnunetv2_ext.utilities.files import atomic_path, read_json, refuse_existing, write_json
from nnunetv2_ext.utilities.folders import refuse_overlap
from nnunetv2_ext.utilities.locks import output_lock

logger = logging.getLogger(__name__)

#: Formats of a single file, each with the usual ending.
FILE_FORMATS = {"torch_export": ".pt2", "onnx": ".onnx", "torchscript": ".ts"}

#: Largest difference between the exported and the original network: a share of the largest logit, or of 1.
TOLERANCE = 1e-4

CITATIONS = (
    "Isensee et al., nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation, "
    "Nature Methods 18 (2021)",
)


def export_network(
    model_folder: Path | str,
    target: Path | str,
    file_format: str,
    *,
    fold: str | int | None = None,
    checkpoint_name: str = "checkpoint_final.pth",
    overwrite: bool = False,
) -> Path:
    """Writes the network as one file, and ``<file>.metadata.json`` beside it.

    The network takes one window ``(1, channels, *patch)``, normalised and resampled as the metadata say, axes
    (z, y, x), and gives logits ``(1, classes, *patch)``; with a label tree, log-probabilities of its leaves.

    Args:
        model_folder: As nnU-Net and this package write them.
        target: The file.
        file_format: One of `FILE_FORMATS`.
        fold: Which fold; the first one by default.
        checkpoint_name: Which checkpoint of the fold.
        overwrite: Replace an existing file.

    Returns:
        The file.

    Raises:
        UserError: The model cannot be read, the file exists or has the ending of another format, a library is missing,
            or the exported network does not agree with the original one.
    """
    if file_format not in FILE_FORMATS:
        raise UserError(f"Expected one of {', '.join(FILE_FORMATS)} as the format, but got {file_format!r}.")
    target = Path(target)
    if target.suffix in FILE_FORMATS.values() and target.suffix != FILE_FORMATS[file_format]:
        raise UserError(
            f"Expected a file that ends with {FILE_FORMATS[file_format]} for --format {file_format}, but got {target}, "
            "which other software would take for another format."
        )
    metadata = target.with_name(target.name + ".metadata.json")
    refuse_overlap([model_folder], target)
    with output_lock(target):
        for file in (target, metadata):
            refuse_existing(file, overwrite)
        model = read_single_fold(model_folder, fold, checkpoint_name)
        window = example_window(model)
        with atomic_path(target) as temporary:
            run = _WRITERS[file_format](Plain(model.networks[0]), window, temporary)
            difference = check_agreement(run, model.networks[0], example_window(model, seed=1), target)
        write_json({**describe_model(model), "format": file_format}, metadata)
    logger.info("%s agrees with the network to %.1e.", target, difference)
    return target


def read_single_fold(model_folder: Path | str, fold: str | int | None, checkpoint_name: str) -> Model:
    """The model with one network: an exported file cannot average folds.

    Raises:
        UserError: See `read_model`; or the network has several heads.
    """
    model = read_model(model_folder, None if fold is None else [fold], checkpoint_name)
    if has_heads(model):
        raise UserError(
            f"Expected a network of one head, but {model.folder} has one per source; import the one to export with "
            "nnUNetv2_ext_import_weights --head."
        )
    if len(model.networks) > 1:
        logger.warning("Exporting %s only; choose another fold with -f.", model.checkpoints[0].parent.name)
        del model.networks[1:], model.checkpoints[1:]
    return model


def window_shape(model: Model) -> tuple[int, ...]:
    """Shape (channels, z, y, x), or (channels, y, x), of the windows that the model is run with."""
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

    profile = read_profile(model.folder)
    channels = determine_num_input_channels(model.plans, model.configuration, model.dataset_json)
    return channels, *(profile.window_size if profile else model.configuration.patch_size)


def example_window(model: Model, seed: int = 0) -> Tensor:
    """Random numbers of the shape that the network takes."""
    return torch.randn((1, *window_shape(model)), generator=torch.Generator().manual_seed(seed))


class Plain(nn.Module):
    """Runs a network so that its forward hooks (the label tree's, for example) are part of what is exported.

    Args:
        network: In evaluation mode.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Logits of a window."""
        logits: Tensor = self.network(image)
        return logits


def trace(module: nn.Module, window: Tensor, file: Path) -> Callable[[Tensor], Tensor]:
    """Writes a module as TorchScript, and loads what was written."""
    with warnings.catch_warnings(), torch.no_grad():
        # Deprecated in torch, and still what most viewers load.
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch.jit")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        _written(file, torch.jit.save, torch.jit.trace(module, window, check_trace=False))
        loaded: Callable[[Tensor], Tensor] = torch.jit.load(str(file), map_location="cpu")
    return loaded


def _written(file: Path, save: Callable[[Any, BytesIO], None], content: Any) -> None:
    """On a full disk, torch's own writers of files end the process."""
    written = BytesIO()
    save(content, written)
    file.write_bytes(written.getvalue())


def check_agreement(run: Callable[[Tensor], Tensor], network: nn.Module, window: Tensor, target: Path) -> float:
    """Largest difference between an exported network and the original one on a window that it was not traced with.

    Raises:
        UserError: It is larger than `TOLERANCE` admits.
    """
    with torch.no_grad():
        expected = network(window)
        difference = float((run(window) - expected).abs().max())
    tolerance = TOLERANCE * max(1.0, float(expected.abs().max()))
    if not difference <= tolerance:
        raise UserError(
            f"Expected the exported network to agree with the original one to {tolerance:.1e}, but it differs by "
            f"{difference:.2e}; nothing was written to {target}. Try another --format."
        )
    return difference


def describe_model(model: Model) -> dict[str, Any]:
    """What somebody who runs the exported network has to know."""
    provenance = model.folder / PROVENANCE_NAME
    description: dict[str, Any] = {
        "name": model.folder.parent.name,
        "version": nnunetv2_ext.__version__,
        "labels": model.dataset_json["labels"],
        "channel_names": model.dataset_json.get("channel_names", {}),
        "input": {
            "shape": [1, *window_shape(model)],
            "axes": "batch, channel, z, y, x" if not model.is_2d else "batch, channel, y, x",
        },
        "output": {
            "channels": list(model.class_names),
            "activation": "sigmoid" if model.labels.has_regions else "softmax",
        },
        **_describe_preprocessing(model),
        "regions_class_order": model.dataset_json.get("regions_class_order"),
        "checkpoint_sha256": model.sha256,
        "license": model.dataset_json.get("licence") or model.dataset_json.get("license") or "unknown",
        "citations": [*CITATIONS, *filter(None, [model.dataset_json.get("reference")])],
    }
    if LABEL_TREE in model.dataset_json:
        description[LABEL_TREE] = model.dataset_json[LABEL_TREE]
        description["output"]["leaves"] = list(LabelTree.from_dataset_json(model.dataset_json).leaves())
        description["output"]["least_value_of_leaves"] = LEAF_FLOOR
        description["output"]["value_of_inner_nodes"] = INNER_VALUE
    if model.configuration.previous_stage_name:
        description["input"]["previous_stage"] = model.configuration.previous_stage_name
    if provenance.is_file():
        description["provenance"] = read_json(provenance)
    return description


def _describe_preprocessing(model: Model) -> dict[str, Any]:
    """How an image becomes what the network takes.

    Either nnU-Net's way or that of the MONAI bundle that the model comes from: its plans merely come close then.
    """
    profile = read_profile(model.folder)
    if profile is not None:
        return {"spacing_mm": profile.spacing and list(profile.spacing), "preprocessing_profile": asdict(profile)}
    configuration = model.configuration
    return {
        "orientation": orientation_of(model),
        "spacing_mm": [float(value) for value in configuration.spacing],
        "transpose_forward": list(model.plans.transpose_forward),
        "normalization_schemes": list(configuration.normalization_schemes),
        "use_mask_for_norm": list(configuration.use_mask_for_norm),
        "foreground_intensity_properties_per_channel": model.plans.foreground_intensity_properties_per_channel,
    }


def _write_torch_export(module: nn.Module, window: Tensor, file: Path) -> Callable[[Tensor], Tensor]:
    with torch.no_grad():
        _written(file, torch.export.save, torch.export.export(module, (window,), strict=False))
    loaded: Callable[[Tensor], Tensor] = torch.export.load(file).module()
    return loaded


def _write_onnx(module: nn.Module, window: Tensor, file: Path) -> Callable[[Tensor], Tensor]:
    require_extra("onnx", "The format onnx", "onnx", "onnxscript", "onnxruntime")
    import onnxruntime

    with torch.no_grad():
        torch.onnx.export(
            module,
            (window,),
            str(file),
            input_names=["image"],
            output_names=["logits"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


_WRITERS: dict[str, Callable[[nn.Module, Tensor, Path], Callable[[Tensor], Tensor]]] = {
    "torch_export": _write_torch_export,
    "onnx": _write_onnx,
    "torchscript": trace,
}
