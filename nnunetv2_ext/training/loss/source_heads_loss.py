"""The loss of MultiTalent for nnU-Net v2: softmax cross-entropy and Dice of every image with the head of its source.

https://github.com/MIC-DKFZ/MultiTalent (branch ``public_MT``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from nnunetv2_ext.training.loss.precision import at_least_float32, outside_autocast
from nnunetv2_ext.training.loss.ranks import sum_over_ranks


@dataclass(frozen=True)
class HeadClasses:
    """What the outputs of a head stand for.

    Attributes:
        values: Label values of each output after the background.
        classes: Of each output after the background, the classes of the collection that it belongs to.
    """

    values: Sequence[Sequence[int]]
    classes: Sequence[Sequence[int]]


class SourceHeadsLoss(nn.Module):
    """Cross-entropy and Dice of every image, summed over the images.

    With the softmax `p` of the head of its source, an image `b` adds::

        L_b = mean_z CE(p_z, y_z)  -  mean_c 2 sum_z p_zc y_zc / (sum_z p_zc + sum_z y_zc)

    to the loss of the *whole* batch (all ranks). `c` runs over the classes but the background. The Dice has no
    smoothing, so that the Dice of an absent class has no gradient. Ignored voxels count nowhere.

    Classes that an image does not annotate although its source has them join those they cannot be told from: their
    probabilities are added up, such as that of an unannotated tumour and that of the background.

    Every rank returns the loss of the whole batch. Its gradient is multiplied by the number of ranks, because
    `DistributedDataParallel` divides by it: the gradient that reaches the optimizer does not depend on how the batch is
    spread. (In the published code, which leaves the division as it is, it does.)

    Args:
        heads: One per source, in the order of the network's heads.
        highest_value: Highest label value of the collection, the ignore label included.
        ignore_label: Label value of voxels that count nowhere.
        process_group: Ranks that share a batch; all of them by default.
    """

    def __init__(
        self,
        heads: Sequence[HeadClasses],
        highest_value: int,
        *,
        ignore_label: int | None = None,
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.heads = tuple(heads)
        self.highest_value = highest_value
        self.ignore_label = ignore_label
        self.process_group = process_group

    @outside_autocast
    def forward(
        self,
        logits: Float[Tensor, "1 outputs *spatial"],
        label_map: Int[Tensor, "batch 1 *spatial"],
        annotated: Bool[Tensor, "batch classes"],
        sources: Int[Tensor, " batch"],
    ) -> Float[Tensor, ""]:
        """Loss of a batch.

        Args:
            logits: Outputs of the images' heads, one after the other, as `MultiHead` returns them.
            label_map: Label values of the collection.
            annotated: Which classes each image annotates, on the CPU.
            sources: Place of each image's head in ``heads``, on the CPU.

        Raises:
            ValueError: The outputs are not as many as the heads of these sources have.
        """
        outputs = [1 + len(self.heads[source].values) for source in sources.tolist()]
        if len(logits) != 1 or logits.shape[1] != sum(outputs) or label_map.shape[2:] != logits.shape[2:]:
            raise ValueError(
                f"Expected logits (1, {sum(outputs)}, ...) and label maps of their shape, but got "
                f"{tuple(logits.shape)} and {tuple(label_map.shape)}."
            )
        each = at_least_float32(logits)[0].flatten(1).split(outputs)
        losses = [
            self._of_image(own, labels.flatten(), self.heads[source], classes)
            for own, labels, classes, source in zip(each, label_map, annotated, sources.tolist(), strict=True)
        ]
        own = torch.stack(losses).sum()
        whole = own.detach().clone()
        world_size = sum_over_ranks(whole, self.process_group)
        return own * world_size + (whole - own.detach() * world_size)

    def _of_image(self, logits: Tensor, labels: Tensor, head: HeadClasses, annotated: Tensor) -> Tensor:
        group_of_output = _groups(head, annotated)
        groups = max(group_of_output) + 1
        if groups == 1:
            return logits.flatten()[0] * 0
        log_probabilities = logits.log_softmax(0)
        if groups < len(logits):
            members = [[output for output, group in enumerate(group_of_output) if group == g] for g in range(groups)]
            log_probabilities = torch.stack([log_probabilities[outputs].logsumexp(0) for outputs in members])
        target = self._group_of_value(head, group_of_output).to(labels.device)[labels.long()]
        if self.ignore_label is not None:
            counts = labels != self.ignore_label
            log_probabilities, target = log_probabilities[:, counts], target[counts]
        cross_entropy = nn.functional.nll_loss(log_probabilities.t(), target, reduction="sum") / max(1, len(target))
        probabilities = log_probabilities.exp()[1:]
        reference = target == torch.arange(1, groups, device=target.device)[:, None]
        overlap = (probabilities * reference).sum(1)
        sizes = probabilities.sum(1) + reference.sum(1)
        return cross_entropy - (2 * overlap / sizes.clamp_min(1e-8)).mean()

    def _group_of_value(self, head: HeadClasses, group_of_output: Sequence[int]) -> Int[Tensor, " values"]:
        table = torch.zeros(self.highest_value + 1, dtype=torch.long)
        for values, group in zip(head.values, group_of_output[1:], strict=True):
            table[list(values)] = group
        return table


def _groups(head: HeadClasses, annotated: Bool[Tensor, " classes"]) -> list[int]:
    """Number of the group of each output: those that no annotated class tells apart are one; the background's is 0."""
    wanted = set(annotated.nonzero().flatten().tolist())
    known = [frozenset[int](), *(frozenset(classes) & wanted for classes in head.classes)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(known))}
    return [numbers[key] for key in known]
