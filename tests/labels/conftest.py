"""Random label trees."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from nnunetv2_ext.labels.label_tree import LabelTree


def _tree(draw) -> LabelTree:
    """A tree of 2 to 16 nodes without single children: every step gives one leaf two or three children."""
    parents: dict[str, str | None] = {}
    leaves: list[str | None] = [None]
    for _ in range(draw(st.integers(1, 5))):
        parent = leaves.pop(draw(st.integers(0, len(leaves) - 1)))
        for _ in range(draw(st.integers(2, 3))):
            name = f"n{len(parents)}"
            parents[name] = parent
            leaves.append(name)
    return LabelTree(parents)


@pytest.fixture(scope="session")
def label_trees():
    """A hypothesis strategy of random label trees."""
    return st.composite(_tree)()
