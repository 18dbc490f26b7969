"""The loss of MultiTalent: binary cross-entropy and batch Dice of the annotated classes only.

Least work possible. A loss with a Dice term needs every annotated logit twice, once for the sums that the Dice is made
of and once for the gradient that depends on them, and writes every gradient once: three times the bytes of the logits.
Everything else (membership, probability, the terms of both losses) lives in buffers of one class that fit in a cache.
Stock nnU-Net reads and writes a dozen arrays of the size of all logits, and its target is such an array too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup

from nnunetv2_ext.training.loss.annotated_channels import annotated_samples, channel_runs, look_up
from nnunetv2_ext.training.loss.precision import outside_autocast
from nnunetv2_ext.training.loss.ranks import sum_over_ranks

# Rows of the table of sums that ranks exchange.
_CROSS_ENTROPY, _INTERSECTION, _PREDICTED, _REFERENCE, _IMAGES = range(5)


class PartialLabelLoss(nn.Module):
    """Dice and cross-entropy over partially annotated images, Eq. (2) of Ulrich et al., MultiTalent, MICCAI 2023.

    For every class `c`, over the images `b` of the *whole* batch (all ranks) that annotate it::

        L_c = sum_b mean_z BCE(p, y)  -  (2 sum_bz p y + smooth) / (sum_bz p + sum_bz y + smooth)

    and the loss is the sum (not the mean) of `L_c` over the classes that at least one image annotates. `p` is the
    sigmoid of the logit. The mean runs over the voxels of one image that do not carry the ignore label; ignored voxels
    count nowhere. A batch that annotates nothing has loss 0 and gradient 0.

    Under `torch.distributed` every rank returns the loss of the whole batch. Its gradient is multiplied by the number
    of ranks, because `DistributedDataParallel` divides the sum of all ranks' gradients by that number: the gradient
    that reaches the optimizer is the one of the whole batch, however the batch is spread. Ranks may evaluate different
    classes, but each must call the loss equally often.

    Sums are formed in float32 (float64 for float64 logits) whatever the type of the logits, also under autocast.

    Args:
        regions: Bool (classes, label values); which label values each class consists of. Regions may overlap.
        ignore_label: Label value of voxels whose annotation is unknown for every class.
        smooth: Added to numerator and denominator of the Dice, in voxels. Without it a class that is annotated but
            absent has a constant Dice, so false positives cost nothing in that term. With `P` false positive voxels its
            pull is about ``smooth / P`` against ``P / I`` of the cross-entropy (`I` voxels in the image). At 1 the Dice
            is the stronger one up to about `sqrt(I)` false positives (1900 in a patch of 96 x 192 x 192), where the
            cross-entropy fades, and a structure of 100 voxels that is missed altogether still scores below 0.01.
            nnU-Net's 1e-5 acts only below 0.006 of a voxel.
        process_group: Ranks that share a batch; all of them by default.

    Example:
        >>> regions = torch.tensor([[False, True, True], [False, False, True]])  # organ {1, 2}, its tumour {2}
        >>> loss = PartialLabelLoss(regions)
        >>> logits = torch.zeros(1, 2, 4, 4, 4, requires_grad=True)
        >>> label_map = torch.ones(1, 1, 4, 4, 4, dtype=torch.int16)
        >>> annotated = torch.tensor([[True, False]])  # this image's source does not annotate tumours
        >>> loss(logits, label_map, annotated).backward()
        >>> bool(logits.grad[:, 1].any())
        False
    """

    signs: Tensor

    def __init__(
        self,
        regions: Bool[Tensor, "classes values"] | ArrayLike,
        *,
        ignore_label: int | None = None,
        smooth: float = 1.0,
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        table = torch.as_tensor(np.asarray(regions), dtype=torch.bool)
        if table.ndim != 2:
            raise ValueError(
                f"Expected regions as a table (classes, label values), but got shape {tuple(table.shape)}."
            )
        if smooth < 0:
            raise ValueError(f"Expected a smooth of at least 0, but got {smooth}.")
        self.ignore_label = ignore_label
        self.smooth = smooth
        self.process_group = process_group
        # -1 inside the class, 1 outside: sign * logit is large where the prediction is wrong, so one lookup serves the
        # cross-entropy, the Dice and both their gradients, without the cancellation of `p - y`.
        signs = 1.0 - 2.0 * table.float()
        if ignore_label is not None:
            signs = nn.functional.pad(signs, (0, max(0, ignore_label + 1 - signs.shape[1])), value=1.0)
            signs[:, ignore_label] = 0.0
        self.register_buffer("signs", signs, persistent=False)

    @property
    def num_classes(self) -> int:
        """Number of classes of the collection."""
        return self.signs.shape[0]

    @outside_autocast
    def forward(
        self,
        logits: Float[Tensor, "batch channels *spatial"],
        label_map: Int[Tensor, "batch 1 *spatial"],
        annotated: Bool[Tensor, "batch classes"],
        classes: Int[Tensor, " channels"] | None = None,
    ) -> Float[Tensor, ""]:
        """Loss of the whole batch.

        Args:
            logits: One channel per class, or per class in ``classes``; spatial axes (z, y, x) or (y, x).
            label_map: Label values, all of them columns of the region table (or the ignore label).
            annotated: Which classes each image annotates; best kept on the CPU, where it is read.
            classes: Which class each channel of ``logits`` belongs to, when only some heads were evaluated; no class
                twice. Every annotated class must be among them.

        Raises:
            ValueError: Shapes do not fit each other, or an annotated class has no channel.
        """
        annotated = annotated.detach().cpu()
        chosen = torch.arange(self.num_classes) if classes is None else classes.detach().cpu()
        self._check(logits, label_map, annotated, chosen)
        loss: Tensor = _PartialLabelFunction.apply(
            logits,
            label_map,
            annotated[:, chosen],
            chosen,
            self.signs[chosen.to(self.signs.device)].to(logits.device),
            self,
        )
        return loss

    def _check(self, logits: Tensor, label_map: Tensor, annotated: Tensor, classes: Tensor) -> None:
        if logits.shape[0] != label_map.shape[0] or label_map.shape[1] != 1 or logits.shape[2:] != label_map.shape[2:]:
            raise ValueError(
                f"Expected a label map (batch, 1, *spatial) for logits {tuple(logits.shape)}, "
                f"but got {tuple(label_map.shape)}."
            )
        if annotated.shape != (logits.shape[0], self.num_classes):
            raise ValueError(
                f"Expected annotated as (batch, classes) = {(logits.shape[0], self.num_classes)}, "
                f"but got {tuple(annotated.shape)}."
            )
        if logits.shape[1] != len(classes):
            raise ValueError(f"Expected logits with {len(classes)} channels, but got {logits.shape[1]}.")
        if len(classes) < self.num_classes:
            missing = annotated.any(0)
            missing[classes] = False
            if missing.any():
                raise ValueError(f"Annotated classes {missing.nonzero().flatten().tolist()} have no channel in logits.")


class _PartialLabelFunction(torch.autograd.Function):
    """Loss and gradient class by class; between the two live the logits, the label map and two numbers per class."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        label_map: Tensor,
        annotated: Tensor,
        classes: Tensor,
        signs: Tensor,
        settings: PartialLabelLoss,
    ) -> Tensor:
        ctx.settings = settings
        ctx.annotated = annotated
        flat_logits = logits.flatten(2)
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        signs = signs.to(dtype)

        # MPS has no float64; elsewhere the sums of many classes lose nothing when they are added up.
        sum_dtype = torch.float32 if logits.device.type == "mps" else torch.float64
        sums = torch.zeros(5, len(classes), dtype=sum_dtype, device=logits.device)
        sums[_IMAGES] = annotated.sum(0)
        for sample in annotated_samples(label_map, annotated, settings.ignore_label, dtype):
            for channels in channel_runs(annotated[sample.index], flat_logits):
                sign = look_up(signs[channels], sample.labels)
                wrongness = flat_logits[sample.index, channels].to(dtype) * sign
                cross_entropy = nn.functional.softplus(wrongness)
                error = wrongness.sigmoid_()  # 1 - p inside the class, p outside
                if sample.valid is not None:
                    error.mul_(sample.valid)
                    cross_entropy.mul_(sample.valid)
                sums[_CROSS_ENTROPY, channels] += cross_entropy.sum(1) / sample.voxels
                inside = (sign < 0).to(dtype)
                reference = inside.sum(1)
                missed = inside.mul_(error).sum(1)
                # Outside the class the error is the probability, inside it is what the probability lacks.
                sums[_INTERSECTION, channels] += reference - missed
                sums[_PREDICTED, channels] += error.sum(1) - missed + reference - missed
                sums[_REFERENCE, channels] += reference

        whole = torch.zeros(5, settings.num_classes, dtype=sum_dtype, device=logits.device)
        whole[:, classes.to(logits.device)] = sums
        ctx.world_size = sum_over_ranks(whole, settings.process_group)
        numerator = 2 * whole[_INTERSECTION] + settings.smooth
        # Without smoothing an annotated class that nobody predicts has 0 / 0, which is to mean 0.
        denominator = (whole[_PREDICTED] + whole[_REFERENCE] + settings.smooth).clamp_min(1e-12)
        dice = numerator / denominator
        loss = torch.where(whole[_IMAGES] > 0, whole[_CROSS_ENTROPY] - dice, 0).sum()

        # Derivative of minus the Dice by a probability: `outside`, and for voxels of the class `outside + inside`.
        outside = (numerator / denominator**2)[classes].to(dtype)
        inside_minus_outside = (-2 / denominator)[classes].to(dtype)
        ctx.save_for_backward(logits, label_map, signs, outside, inside_minus_outside)
        return loss.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_gradient: Tensor) -> tuple[Tensor | None, ...]:
        logits, label_map, signs, outside, inside_minus_outside = ctx.saved_tensors
        dtype = signs.dtype
        scale = output_gradient.to(dtype) * ctx.world_size
        # d p / d logit = p (1 - p), so the Dice adds error * (1 - error) * weight; the weight is linear in the sign.
        weight_at_zero = ((outside + inside_minus_outside / 2) * scale)[:, None]
        weight_slope = (-inside_minus_outside / 2 * scale)[:, None]

        flat_logits = logits.flatten(2)
        gradient = torch.empty_like(flat_logits) if ctx.annotated.all() else _zeros_like(flat_logits)
        for sample in annotated_samples(label_map, ctx.annotated, ctx.settings.ignore_label, dtype):
            for channels in channel_runs(ctx.annotated[sample.index], flat_logits):
                sign = look_up(signs[channels], sample.labels)
                error = (flat_logits[sample.index, channels].to(dtype) * sign).sigmoid_()
                slope = torch.addcmul(weight_at_zero[channels], weight_slope[channels], sign)
                slope.addcmul_(slope, error, value=-1)
                slope.addcmul_(sign, scale / sample.voxels)
                if sample.valid is not None:
                    slope.mul_(sample.valid)
                if gradient.dtype == dtype:
                    torch.mul(slope, error, out=gradient[sample.index, channels])
                else:
                    gradient[sample.index, channels] = slope.mul_(error)
        return gradient.view_as(logits), None, None, None, None, None


def _zeros_like(tensor: Tensor) -> Tensor:
    """Zeros; on the CPU in memory that the system zeroes when it is first touched, as most of it never is here."""
    if tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(np.zeros(tensor.shape, dtype=str(tensor.dtype).removeprefix("torch.")))
    return torch.zeros_like(tensor)
