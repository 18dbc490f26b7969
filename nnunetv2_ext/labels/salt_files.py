"""SALT's two text files: ``labels.txt`` (names) and ``tree-labels.txt`` (paths in the label tree).

The line number, counted from 0, is the label value. ``-`` or an empty line stands for a value without a node.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_ext.labels.label_tree import BACKGROUND, LabelTree
from nnunetv2_ext.labels.tree_parents import LabelTreeError
from nnunetv2_ext.utilities.errors import UserError

_NONE = ("", "-")
# SALT gives the remainder of several structures the same name; a node of a LabelTree has a name of its own.
_REMAINDER = "other"


@dataclass(frozen=True)
class SaltLabels:
    """The label values of one dataset in SALT's layout.

    Attributes:
        names: Name of each label value, ``None`` where the dataset uses no such value.
        paths: Path of each label value from below the root to its node, ``None`` where it has no node.
    """

    names: tuple[str | None, ...]
    paths: tuple[tuple[str, ...] | None, ...]

    @property
    def nodes(self) -> tuple[str | None, ...]:
        """Node of each label value, ``None`` where it has no node."""
        return tuple(path[-1] if path else None for path in self.paths)

    @property
    def annotated(self) -> tuple[str, ...]:
        """The nodes that the dataset annotates, each once, in the order of the label values."""
        return tuple(dict.fromkeys(node for node in self.nodes if node is not None))

    def tree(self) -> LabelTree:
        """The label tree of this dataset alone, with the leaves that it needs to be complete.

        ``background`` comes first, as nnU-Net wants it; a node with a single child gets a sibling ``<parent>_other``.
        """
        return merge_salt_trees([self])


def read_salt_labels(folder: Path | str) -> SaltLabels:
    """Reads ``labels.txt`` and ``tree-labels.txt``.

    Args:
        folder: Folder that holds both files.

    Raises:
        UserError: A file is missing, or the tree has a path for a value that has no name.
    """
    names = [None if line in _NONE else line for line in _lines(Path(folder) / "labels.txt")]
    paths = [_path(line) for line in _lines(Path(folder) / "tree-labels.txt")]
    length = max(len(names), len(paths))
    names += [None] * (length - len(names))
    paths += [None] * (length - len(paths))
    for value, (name, path) in enumerate(zip(names, paths, strict=True)):
        if path and name is None:
            raise LabelTreeError(
                f"Label value {value} of {folder} has the path {','.join(path)} in tree-labels.txt but no name in "
                "labels.txt; name it there or replace the path by '-'."
            )
    return SaltLabels(tuple(names), tuple(paths))


def merge_salt_trees(datasets: Iterable[SaltLabels]) -> LabelTree:
    """The union of several datasets' trees; appending a dataset to the list never renumbers the nodes before it.

    Raises:
        LabelTreeError: The datasets contradict each other.
    """
    tree = LabelTree({BACKGROUND: None}, check_single_children=False)
    for dataset in datasets:
        paths = [path for path in dataset.paths if path]
        tree = tree.union(LabelTree.from_paths(paths, check_single_children=False)).complete()
    return tree


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise UserError(f"Expected the file {file} of a SALT dataset, but it does not exist.")
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Expected text in UTF-8 in {file}, but it cannot be read ({error}).") from None


def _path(line: str) -> tuple[str, ...] | None:
    if line in _NONE:
        return None
    parts = [part.strip() for part in line.split(",")]
    return tuple(
        f"{parts[position - 1]}_{_REMAINDER}" if part == _REMAINDER and position else part
        for position, part in enumerate(parts)
    )
