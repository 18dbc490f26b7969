"""Draws a label tree as text and as SVG."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from nnunetv2_ext.labels.label_tree import LabelTree

_ROW_HEIGHT = 18
_INDENT = 26
_MARGIN = 16
_CHARACTER_WIDTH = 7.2


def tree_as_text(tree: LabelTree) -> str:
    """One line per node with its integer, children indented below their parent.

    Example:
        >>> print(tree_as_text(LabelTree.from_nested({"background": {}, "bones": {"rib": {}, "hip": {}}})))
        root
        ├── background (0)
        └── bones (1)
            ├── rib (2)
            └── hip (3)
    """
    return "\n".join(["root", *_lines(tree, None, "")])


def tree_as_svg(tree: LabelTree) -> str:
    """An SVG drawing: one row per node, inner nodes bold, leaves with a dot, elbows from parents to children."""
    rows = {name: row for row, name in enumerate(tree.descendants(), start=1)}
    width = _MARGIN * 2 + max(
        _left(tree.depth(name)) + 20 + len(f"{name} ({tree.value(name)})") * _CHARACTER_WIDTH for name in rows
    )
    height = _MARGIN * 2 + _ROW_HEIGHT * (len(rows) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        *_row_svg("root", 0, 0, is_leaf=False),
    ]
    for name, row in rows.items():
        parent = tree.parent(name)
        x, y = _left(tree.depth(name) - 1), _top(rows[parent] if parent is not None else 0)
        parts.append(f'<path d="M{x} {y + 5}V{_top(row)}H{_left(tree.depth(name)) - 5}" fill="none" stroke="#8a94a6"/>')
        parts += _row_svg(f"{name} ({tree.value(name)})", tree.depth(name), row, is_leaf=not tree.children(name))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _lines(tree: LabelTree, name: str | None, indent: str) -> Iterator[str]:
    children = tree.children(name)
    for child in children:
        last = child == children[-1]
        yield f"{indent}{'└── ' if last else '├── '}{child} ({tree.value(child)})"
        yield from _lines(tree, child, indent + ("    " if last else "│   "))


def _left(depth: int) -> int:
    return _MARGIN + _INDENT * depth


def _top(row: int) -> int:
    return _MARGIN + _ROW_HEIGHT * row + _ROW_HEIGHT // 2


def _row_svg(text: str, depth: int, row: int, *, is_leaf: bool) -> Iterator[str]:
    fill = "#2f7ed8" if is_leaf else "#1d3557"
    weight = "normal" if is_leaf else "bold"
    yield f'<circle cx="{_left(depth)}" cy="{_top(row)}" r="{3 if is_leaf else 4}" fill="{fill}"/>'
    yield (
        f'<text x="{_left(depth) + 9}" y="{_top(row) + 4}" font-weight="{weight}" fill="#1d3557">{escape(text)}</text>'
    )
