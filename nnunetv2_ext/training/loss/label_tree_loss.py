"""The loss of label trees: each voxel counts once, with the likelihood of what its label leaves possible.

Least work possible. The Dice couples all voxels, so every logit is needed twice: for the sums that the Dice is made of,
and for the gradient. Between the two this file keeps one array, the sibling softmax of the rows that matter, which the
backward pass turns into the gradient in place. That is 3 times the bytes of the logits (logits read, softmax written,
gradient written over it) and one exponential per logit; all else lives in blocks of voxels that fit in a cache.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup

from nnunetv2_ext.labels.label_tree import LabelTree
from nnunetv2_ext.training.loss.precision import outside_autocast
from nnunetv2_ext.training.loss.ranks import sum_over_ranks
from nnunetv2_ext.training.loss.salt_loss import salt_loss
from nnunetv2_ext.training.loss.tree_tables import NONE, TreeTables, build_tables

# Elements of a block (rows x voxels): 8 MB of float32 on a CPU; an accelerator rather wants few launches.
_BLOCK_ELEMENTS_CPU = 2**21
_BLOCK_ELEMENTS_ACCELERATOR = 2**27

# Announced as beta since torch 1.12; the reduction itself is what scatter_reduce does.
warnings.filterwarnings("ignore", message=r"index_reduce\(\) is in beta")

# Rows of the table of sums that ranks exchange; one column per node.
_INTERSECTION, _PREDICTED, _REFERENCE, _IMAGES = range(4)


class LabelTreeLoss(nn.Module):
    r"""Cross-entropy over possible leaves and batch Dice over annotated nodes.

    The network has one logit per node. Among siblings the softmax gives a conditional `c`; the probability of a node is
    the product of `c` along its path (Becker et al., Scientific Reports 15, 44140 (2025)). With `S` the leaves that the
    label of a voxel leaves possible (`nnunetv2_ext.labels.tree_annotation`)::

        L = mean over voxels of -log sum_{leaves in S} p  -  mean over annotated nodes of the batch Dice

    so that a voxel without label in a source that annotates only the liver teaches "no liver here", and a fully
    annotated source gives the plain cross-entropy over leaves. With `P(leaf | S) = p / sum over S` and `q_j` the sum of
    `P(leaf | S)` over the leaves below `j`, the gradient of one voxel's cross-entropy is `c_j q_parent(j) - q_j`. The
    derivation is in docs/label_trees.md.

    A node counts in the Dice over the images whose source determines it: it annotates the node, or all of its children.
    Means run over the whole batch, over all ranks; every rank returns the same loss, and its gradient is multiplied by
    the number of ranks because `DistributedDataParallel` divides by it.

    Args:
        tree: The label tree; a node's integer is its channel and its label value.
        ignore_label: Label value of voxels that count nowhere.
        smooth: Added to numerator and denominator of the Dice, in voxels.
        dice_background: Whether the Dice counts the node ``background``.
        formula: ``"possible_leaves"`` as above, or ``"salt"``, the published loss, for comparison.
        process_group: Ranks that share a batch; all of them by default.

    Example:
        >>> tree = LabelTree.from_nested({"background": {}, "bones": {"rib": {}, "hip": {}}})
        >>> loss = LabelTreeLoss(tree)
        >>> logits = torch.zeros(1, 4, 2, 2, 2, requires_grad=True)
        >>> label_map = torch.ones(1, 1, 2, 2, 2, dtype=torch.int16)  # all voxels are bones
        >>> annotated = torch.tensor([[False, True, False, False]])  # this source does not tell bones apart
        >>> loss(logits, label_map, annotated).backward()
        >>> bool(logits.grad[:, 2:].any())
        False
    """

    def __init__(
        self,
        tree: LabelTree,
        *,
        ignore_label: int | None = None,
        smooth: float = 1.0,
        dice_background: bool = False,
        formula: Literal["possible_leaves", "salt"] = "possible_leaves",
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        if formula not in ("possible_leaves", "salt"):
            raise ValueError(f"Expected the formula 'possible_leaves' or 'salt', but got {formula!r}.")
        if smooth < 0:
            raise ValueError(f"Expected a smooth of at least 0, but got {smooth}.")
        self.tree = tree
        self.ignore_label = ignore_label
        self.smooth = smooth
        self.dice_background = dice_background
        self.formula = formula
        self.process_group = process_group
        self._tables: dict[tuple[torch.device, tuple[bool, ...]], TreeTables] = {}

    @outside_autocast
    def forward(
        self,
        logits: Float[Tensor, "batch nodes *spatial"],
        label_map: Int[Tensor, "batch 1 *spatial"],
        annotated: Bool[Tensor, "batch nodes"],
        classes: Int[Tensor, " nodes"] | None = None,
    ) -> Float[Tensor, ""]:
        """Loss of the whole batch.

        Args:
            logits: One channel per node; spatial axes (z, y, x) or (y, x).
            label_map: Node integers or the ignore label. A node that the image's source does not annotate counts as
                no label, and so does 0 where the source does not annotate ``background``.
            annotated: Which nodes each image's source annotates; best kept on the CPU, where it is read.
            classes: All nodes or ``None``: siblings share a softmax, so that single heads cannot be left out. The
                argument makes the call like that of `PartialLabelLoss`.

        Raises:
            ValueError: Shapes do not fit each other.
        """
        self._check(logits, label_map, annotated)
        if self.formula == "salt":
            return salt_loss(self.tree, logits, label_map, annotated, self.ignore_label)
        tables = [self.tables(row, logits.device) for row in annotated.detach().cpu().tolist()]
        loss: Tensor = _LabelTreeFunction.apply(logits, label_map, tables, self)
        return loss

    def tables(self, annotated: list[bool], device: torch.device) -> TreeTables | None:
        """The look-up tables of one set of annotated nodes, built once; ``None`` when nothing is annotated."""
        if not any(annotated):
            return None
        key = (device, tuple(annotated))
        if key not in self._tables:
            names = {name for name, chosen in zip(self.tree.names, annotated, strict=True) if chosen}
            self._tables[key] = build_tables(self.tree, names, device, dice_background=self.dice_background)
        return self._tables[key]

    def _check(self, logits: Tensor, label_map: Tensor, annotated: Tensor) -> None:
        if logits.shape[0] != label_map.shape[0] or label_map.shape[1] != 1 or logits.shape[2:] != label_map.shape[2:]:
            raise ValueError(
                f"Expected a label map (batch, 1, *spatial) for logits {tuple(logits.shape)}, "
                f"but got {tuple(label_map.shape)}."
            )
        if logits.shape[1] != len(self.tree) or annotated.shape != logits.shape[:2]:
            raise ValueError(
                f"Expected logits (batch, {len(self.tree)}, *spatial) and annotated (batch, {len(self.tree)}), but got "
                f"{tuple(logits.shape)} and {tuple(annotated.shape)}."
            )


class _LabelTreeFunction(torch.autograd.Function):
    """Value and gradient of the loss, block of voxels by block of voxels."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, label_map: Tensor, tables: list[TreeTables | None], settings: LabelTreeLoss
    ) -> Tensor:
        flat_logits = logits.flatten(2)
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        # MPS has no float64; elsewhere the sums of many voxels lose nothing when they are added up.
        sum_dtype = torch.float32 if logits.device.type == "mps" else torch.float64
        nodes = logits.shape[1]
        sums = torch.zeros(4, nodes, dtype=sum_dtype, device=logits.device)
        likelihood = torch.zeros(2, dtype=sum_dtype, device=logits.device)  # sum of -log P(S), number of voxels
        # Holds the sibling softmax until the backward pass turns it into the gradient; channels that no table reads
        # keep the zeros that are their gradient.
        kept = torch.zeros_like(flat_logits, dtype=dtype) if logits.requires_grad else None
        for sample, table in enumerate(tables):
            if table is None:
                continue
            columns = _columns(label_map[sample], nodes, settings.ignore_label)
            row_sums = sums.new_zeros(2, len(table.channels))
            for block in _blocks(len(table.channels), columns):
                values = columns[block]
                counts = table.counts.index_select(0, values).to(dtype)
                softmax, log_likelihood = _softmax_and_likelihood(flat_logits[sample, :, block], values, table, dtype)
                likelihood[0] -= log_likelihood @ counts
                likelihood[1] += counts.sum()
                if kept is not None:
                    kept[sample, :, block].index_copy_(0, table.channels, softmax)
                probabilities = _multiply_down(softmax, table)
                row_sums[_PREDICTED] += probabilities @ counts
                for rows, present in _path_rows(values, table):
                    inside = probabilities.gather(0, rows[None])[0] * present * counts
                    row_sums[_INTERSECTION].index_add_(0, rows, inside.to(sum_dtype))
            voxels = sums.new_zeros(nodes + 1).index_add_(0, columns, sums.new_ones(1).expand(columns.numel()))
            sums[_INTERSECTION : _PREDICTED + 1, table.dice_nodes] += row_sums[:, table.dice_rows]
            reference = table.reference.to(sum_dtype) @ (voxels * table.counts)
            sums[_REFERENCE, table.dice_nodes] += reference[table.dice_rows]
            sums[_IMAGES, table.dice_nodes] += 1

        whole = torch.cat([sums.flatten(), likelihood])
        ctx.world_size = sum_over_ranks(whole, settings.process_group)
        sums, likelihood = whole[:-2].view_as(sums), whole[-2:]
        voxels_that_count = likelihood[1].clamp_min(1)
        numerator = 2 * sums[_INTERSECTION] + settings.smooth
        # Without smoothing an annotated node that nobody predicts has 0 / 0, which is to mean 0.
        denominator = (sums[_PREDICTED] + sums[_REFERENCE] + settings.smooth).clamp_min(1e-12)
        scored = sums[_IMAGES] > 0
        nodes_that_count = scored.sum().clamp_min(1)
        dice = torch.where(scored, numerator / denominator, 0).sum() / nodes_that_count
        loss = likelihood[0] / voxels_that_count - dice

        # Derivative of the loss by the probability of a node: in every voxel, and in addition in voxels of the node.
        everywhere = torch.where(scored, numerator / denominator**2, 0) / nodes_that_count
        inside = torch.where(scored, -2 / denominator, 0) / nodes_that_count
        ctx.save_for_backward(logits, label_map, everywhere.to(dtype), inside.to(dtype), voxels_that_count.to(dtype))
        ctx.tables, ctx.settings, ctx.kept = tables, settings, kept
        return loss.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_gradient: Tensor) -> tuple[Tensor | None, ...]:
        logits, label_map, everywhere, inside, voxels_that_count = ctx.saved_tensors
        flat_logits = logits.flatten(2)
        # A second pass through a retained graph finds the softmax overwritten and computes it again.
        is_kept = ctx.kept is not None
        gradient = ctx.kept if is_kept else torch.zeros_like(flat_logits, dtype=everywhere.dtype)
        ctx.kept = None
        scale = output_gradient.to(gradient.dtype) * ctx.world_size
        for sample, table in enumerate(ctx.tables):
            if table is None:
                continue
            columns = _columns(label_map[sample], logits.shape[1], ctx.settings.ignore_label)
            weight_everywhere = _by_row(everywhere * scale, table)
            weight_inside = _by_row(inside * scale, table)
            for block in _blocks(len(table.channels), columns):
                values = columns[block]
                counts = table.counts.index_select(0, values).to(gradient.dtype)
                if is_kept:
                    softmax = gradient[sample, :, block].index_select(0, table.channels)
                else:
                    softmax, _ = _softmax_and_likelihood(flat_logits[sample, :, block], values, table, gradient.dtype)
                # `slope` is first the derivative of the loss by each log p ...
                slope = _multiply_down(softmax.clone(), table)
                terms = [
                    (rows[None], slope.gather(0, rows[None]) * (weight_inside[rows] * present * counts))
                    for rows, present in _path_rows(values, table)
                ]
                slope.mul_(weight_everywhere[:, None]).mul_(counts)
                for rows, term in terms:
                    slope.scatter_add_(0, rows, term)
                posterior_weight = counts * (scale / voxels_that_count)
                _subtract_posterior(slope, flat_logits[sample, :, block], values, posterior_weight, table)
                # ... then by each log c, as log p is the sum of log c along the path ...
                for level in reversed(table.levels):
                    slope[: level.rows.start].index_add_(0, level.parents, slope[level.rows])
                # ... and at last by each logit, through the softmax of the siblings.
                group_sum = slope.new_zeros(table.group_count, slope.shape[1]).index_add_(0, table.groups, slope)
                slope.addcmul_(softmax, group_sum.index_select(0, table.groups), value=-1)
                gradient[sample, :, block].index_copy_(0, table.channels, slope)
        return gradient.to(logits.dtype).view_as(logits), None, None, None


def _columns(label_map: Tensor, nodes: int, ignore_label: int | None) -> Int[Tensor, " voxels"]:
    """Columns of the tables: label values, with the ignore label as the last one."""
    columns = label_map.flatten().long()
    return columns if ignore_label is None else columns.masked_fill(columns == ignore_label, nodes)


def _blocks(rows: int, columns: Int[Tensor, " voxels"]) -> Iterator[slice]:
    elements = _BLOCK_ELEMENTS_CPU if columns.device.type == "cpu" else _BLOCK_ELEMENTS_ACCELERATOR
    length = max(1, elements // rows)
    for start in range(0, columns.numel(), length):
        yield slice(start, min(start + length, columns.numel()))


def _by_row(by_node: Float[Tensor, " nodes"], table: TreeTables) -> Float[Tensor, " rows"]:
    """The values of the nodes that the Dice counts, 0 for all other rows."""
    return by_node.new_zeros(len(table.channels)).index_copy_(0, table.dice_rows, by_node[table.dice_nodes])


def _softmax_and_likelihood(
    logits: Float[Tensor, "nodes voxels"], values: Int[Tensor, " voxels"], table: TreeTables, dtype: torch.dtype
) -> tuple[Float[Tensor, "rows voxels"], Float[Tensor, " voxels"]]:
    """Softmax among siblings, and log P(S) computed from logarithms, which no underflow can spoil."""
    shifted = logits.index_select(0, table.channels).to(dtype)
    _shift_by_group(shifted, table)
    likelihood = shifted.new_zeros(shifted.shape[1])
    path = [(rows, (rows != NONE).to(dtype)) for rows in table.single_path.index_select(1, values)]
    for rows, present in path:
        likelihood += shifted.gather(0, rows.clamp_min(0)[None])[0] * present
    softmax = shifted.exp_()
    normaliser = softmax.new_zeros(table.group_count, len(values)).index_add_(0, table.groups, softmax)
    log_normaliser = normaliser.log()
    for rows, present in path:
        groups = table.groups[rows.clamp_min(0)]
        likelihood -= log_normaliser.gather(0, groups[None])[0] * present
    softmax.mul_(normaliser.reciprocal_().index_select(0, table.groups))
    for chosen, log_probabilities, _ in _several(logits, values, table, dtype):
        likelihood[chosen] = log_probabilities.logsumexp(0)
    return softmax, likelihood


def _subtract_posterior(
    slope: Float[Tensor, "rows voxels"],
    logits: Float[Tensor, "nodes voxels"],
    values: Int[Tensor, " voxels"],
    weight: Float[Tensor, " voxels"],
    table: TreeTables,
) -> None:
    """Subtracts weight * P(row | S) in place: the derivative of weight * log P(S) by the log p of the rows of S."""
    rows = table.single.index_select(0, values)
    slope.scatter_add_(0, rows.clamp_min(0)[None], -(weight * (rows != NONE))[None])
    for chosen, log_probabilities, members in _several(logits, values, table, slope.dtype):
        posterior = log_probabilities.softmax(0).mul_(weight[chosen])
        slope[members[:, None], chosen] -= posterior


def _several(
    logits: Float[Tensor, "nodes voxels"], values: Int[Tensor, " voxels"], table: TreeTables, dtype: torch.dtype
) -> Iterator[tuple[Int[Tensor, " chosen"], Float[Tensor, "members chosen"], Int[Tensor, " members"]]]:
    """The voxels whose label leaves several rows possible, with log p of these rows (-inf for the others)."""
    if not len(table.members):
        return
    kinds = table.several.index_select(0, values)
    chosen = (kinds != NONE).nonzero()[:, 0]
    if not len(chosen):
        return
    shifted = logits.index_select(0, table.channels).index_select(1, chosen).to(dtype)
    _shift_by_group(shifted, table)
    normaliser = shifted.new_zeros(table.group_count, len(chosen)).index_add_(0, table.groups, shifted.exp())
    shifted.sub_(normaliser.log_().index_select(0, table.groups))
    for level in table.levels:
        shifted[level.rows] += shifted.index_select(0, level.parents)
    members = table.members.any(0).nonzero()[:, 0]
    possible = table.members[:, members].T.index_select(1, kinds[chosen])
    yield chosen, shifted.index_select(0, members).masked_fill_(~possible, -torch.inf), members


def _shift_by_group(logits: Float[Tensor, "rows voxels"], table: TreeTables) -> None:
    """Subtracts the largest logit of each sibling group in place."""
    largest = logits.new_full((table.group_count, logits.shape[1]), -torch.inf)
    largest.index_reduce_(0, table.groups, logits, "amax")
    logits.sub_(largest.index_select(0, table.groups))


def _multiply_down(softmax: Float[Tensor, "rows voxels"], table: TreeTables) -> Float[Tensor, "rows voxels"]:
    """Turns conditionals into probabilities in place."""
    for level in table.levels:
        softmax[level.rows].mul_(softmax.index_select(0, level.parents))
    return softmax


def _path_rows(
    values: Int[Tensor, " voxels"], table: TreeTables
) -> Iterator[tuple[Int[Tensor, " voxels"], Bool[Tensor, " voxels"]]]:
    """For each depth: the row of the annotated node that each voxel belongs to (0 where there is none), and whether."""
    for rows in table.on_path.index_select(1, values):
        yield rows.clamp_min(0), rows != NONE
