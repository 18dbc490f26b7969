"""The softmax among siblings of a label tree, in log space, as ordinary torch operations.

Source: Becker et al., "SALT: Introducing a framework for hierarchical segmentations in medical imaging using label
trees", Scientific Reports 15, 44140 (2025): among siblings the softmax gives the conditional probability of a child
given its parent, and log p of a node is the sum of the log conditionals along its path.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, nn


class TreeSoftmax(nn.Module):
    """Log probabilities of the nodes of a tree from one logit per node.

    Args:
        parents: Integer of each node's parent, -1 for children of the root; shape (nodes,).

    Attributes:
        parents: The same as a buffer. It travels with the weights, so that a loaded network knows its tree.

    Example:
        >>> softmax = TreeSoftmax([-1, -1, 1, 1])  # 0 and 1 below the root, 2 and 3 below 1
        >>> softmax.log_probabilities(torch.zeros(1, 4)).exp()
        tensor([[0.5000, 0.5000, 0.2500, 0.2500]])
    """

    parents: Tensor
    by_group: Tensor
    from_group: Tensor
    ancestors: Tensor
    leaves: Tensor

    def __init__(self, parents: ArrayLike | Tensor) -> None:
        super().__init__()
        self.register_buffer("parents", torch.as_tensor(parents, dtype=torch.int64).clone())
        for name in ("by_group", "from_group", "ancestors", "leaves"):
            self.register_buffer(name, torch.empty(0, dtype=torch.int64), persistent=False)
        self._group_sizes: list[int] = []
        self._derive()

    def set_parents(self, parents: ArrayLike | Tensor) -> None:
        """Replaces the tree by another one with as many nodes.

        Raises:
            ValueError: The number of nodes differs, or the parents run in a circle.
        """
        given = torch.as_tensor(parents, dtype=torch.int64)
        if given.shape != self.parents.shape:
            raise ValueError(f"Expected a tree of {len(self.parents)} nodes, but got one of {len(given)}.")
        self.parents.copy_(given)
        self._derive()

    def log_conditionals(self, logits: Float[Tensor, "*axes"], dim: int = 1) -> Float[Tensor, "*axes"]:
        """Log of the softmax among siblings, along the axis of nodes."""
        groups = logits.index_select(dim, self.by_group).split(self._group_sizes, dim)
        return torch.cat([group.log_softmax(dim) for group in groups], dim).index_select(dim, self.from_group)

    def log_probabilities(self, logits: Float[Tensor, "*axes"], dim: int = 1) -> Float[Tensor, "*axes"]:
        """Log of the product of the conditionals along each node's path; the leaves' probabilities sum to 1."""
        conditionals = self.log_conditionals(logits, dim)
        return self._sum_up(conditionals, conditionals, self.ancestors, dim)

    def leaf_log_probabilities(self, logits: Float[Tensor, "*axes"], dim: int = 1) -> Float[Tensor, "*axes"]:
        """The same for the leaves alone, in the order of the attribute ``leaves``."""
        conditionals = self.log_conditionals(logits, dim)
        ancestors = self.ancestors.index_select(1, self.leaves)
        return self._sum_up(conditionals.index_select(dim, self.leaves), conditionals, ancestors, dim)

    @staticmethod
    def _sum_up(own: Tensor, conditionals: Tensor, ancestors: Tensor, dim: int) -> Tensor:
        shape = [-1 if axis == dim % own.ndim else 1 for axis in range(own.ndim)]
        for above in ancestors:
            own = own + conditionals.index_select(dim, above.clamp_min(0)) * (above >= 0).view(shape)
        return own

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._derive()

    def _derive(self) -> None:
        """Look-up tables: nodes by sibling group, the nodes above each node (-1 where none), leaves."""
        device, parents = self.parents.device, self.parents.cpu()
        _, groups = torch.unique(parents, return_inverse=True)
        by_group = torch.argsort(groups, stable=True)
        above: list[Tensor] = []
        current = parents
        while bool((current >= 0).any()):
            if len(above) == len(parents):
                raise ValueError("Expected a tree, but the parents run in a circle.")
            above.append(current)
            current = torch.where(current >= 0, parents[current.clamp_min(0)], current)
        has_children = torch.zeros(len(parents) + 1, dtype=torch.bool)
        has_children[parents] = True  # -1 marks the extra last entry
        self._group_sizes = torch.bincount(groups).tolist()
        self.by_group = by_group.to(device)
        self.from_group = torch.argsort(by_group).to(device)
        self.ancestors = (torch.stack(above) if above else parents.new_empty(0, len(parents))).to(device)
        self.leaves = (~has_children[:-1]).nonzero()[:, 0].to(device)
