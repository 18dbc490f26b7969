"""Weights for another kernel size or another patch size."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from nnunetv2_ext.checkpoints.checkpoint import Checkpoint


def resized(
    name: str, source: Tensor, target: Tensor, checkpoint: Checkpoint, network: nn.Module
) -> tuple[Tensor, str] | None:
    """A tensor resized by linear interpolation where the network is known to begin from such ones.

    Kernels of MedNeXt become larger (UpKern: Roy et al., "MedNeXt", MICCAI 2023, section 2.3); the embeddings of places
    of Primus follow the patch size.

    Args:
        name: Of the tensor.
        source: The checkpoint's.
        target: The network's, of another shape.
        checkpoint: From `read_checkpoint`.
        network: The network.

    Returns:
        The tensor and what was done to it; None where this is another network, or another difference.
    """
    key = checkpoint.architecture.family.key
    if key == "mednext":
        return _larger_kernel(source, target)
    if key == "primus" and name == "eva.pos_embed":
        return _places(source, target, checkpoint, network)
    return None


def _larger_kernel(source: Tensor, target: Tensor) -> tuple[Tensor, str] | None:
    kernels = source.shape[2:], target.shape[2:]
    if source.shape[:2] != target.shape[:2] or len(kernels[0]) not in (2, 3):
        return None
    if any(small >= large for small, large in zip(*kernels, strict=True)):
        return None
    return _interpolated(source, kernels[1]), f"kernels of {source.shape[-1]} resized to {target.shape[-1]}"


def _places(source: Tensor, target: Tensor, checkpoint: Checkpoint, network: Any) -> tuple[Tensor, str] | None:
    arguments = checkpoint.architecture.arguments
    shape, token = arguments["input_shape"], arguments.get("patch_embed_size", (8, 8, 8))
    grid = [edge // size for edge, size in zip(shape, token, strict=True)]
    if source.shape[2:] != target.shape[2:] or getattr(network, "grid", None) is None:
        return None
    volume = source[0].T.unflatten(1, grid)[None]
    resized = _interpolated(volume, network.grid).flatten(2).transpose(1, 2)
    return resized, f"embeddings of {' x '.join(map(str, grid))} places resized to {' x '.join(map(str, network.grid))}"


def _interpolated(volume: Tensor, size: Any) -> Tensor:
    mode = "bilinear" if volume.ndim == 4 else "trilinear"
    return functional.interpolate(volume.float(), tuple(size), mode=mode, align_corners=False)
