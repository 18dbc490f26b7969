"""Draws the rooms of the package and the imports between them, as docs/rooms.svg.

    python scripts/draw_rooms.py

A room stands below all rooms that it imports. Only direct imports are drawn, and none that a room in between makes
anyway: who imports ``inference`` has what that imports.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nnunetv2_ext"
DRAWING = ROOT / "docs" / "rooms.svg"
WIDTH, HEIGHT, ACROSS, DOWN, MARGIN = 170, 40, 200, 90, 20


def imports_of_rooms(package: Path = PACKAGE) -> dict[str, set[str]]:
    """For each folder of the package the other ones that its modules import."""
    rooms = {folder.name for folder in package.iterdir() if any(folder.rglob("*.py"))}
    return {room: _imported(package / room, package.name) & rooms - {room} for room in sorted(rooms)}


def _imported(folder: Path, package: str) -> set[str]:
    names: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name.split(".")[1] for name in names if name.startswith(f"{package}.")}


def without_detours(imports: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The imports that no other import of the same room leads to, too."""
    reached = {room: _reach(room, imports) for room in imports}
    return {room: direct - set().union(*(reached[other] for other in direct)) for room, direct in imports.items()}


def _reach(room: str, imports: Mapping[str, set[str]]) -> set[str]:
    return imports[room].union(*(_reach(other, imports) for other in imports[room]))


def rows_of(imports: Mapping[str, set[str]]) -> list[list[str]]:
    """Rooms by their distance from those that import nothing, these first."""
    depth: dict[str, int] = {}
    while len(depth) < len(imports):
        ready = {room for room in imports if room not in depth and imports[room] <= depth.keys()}
        if not ready:
            raise SystemExit(f"These rooms import each other in a circle: {sorted(imports.keys() - depth.keys())}")
        depth |= {room: 1 + max((depth[other] for other in imports[room]), default=-1) for room in ready}
    return [sorted(room for room in depth if depth[room] == row) for row in range(1 + max(depth.values()))]


def drawing(imports: Mapping[str, set[str]]) -> str:
    """The SVG; commands at its top, what knows nothing of the field at its bottom."""
    rows = rows_of(imports)[::-1]
    widest = max(map(len, rows))
    place = {
        room: (MARGIN + (column + (widest - len(row)) / 2) * ACROSS, MARGIN + line * DOWN)
        for line, row in enumerate(rows)
        for column, room in enumerate(row)
    }
    width, height = 2 * MARGIN + widest * ACROSS - (ACROSS - WIDTH), 2 * MARGIN + (len(rows) - 1) * DOWN + HEIGHT
    arrows = [
        f'<line x1="{place[room][0] + WIDTH / 2:g}" y1="{place[room][1] + HEIGHT:g}" '
        f'x2="{place[other][0] + WIDTH / 2:g}" y2="{place[other][1]:g}"/>'
        for room, direct in without_detours(imports).items()
        for other in sorted(direct)
    ]
    boxes = [
        f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
        f'<text x="{x + WIDTH / 2:g}" y="{y + HEIGHT / 2 + 5:g}">{escape(room)}/</text>'
        for room, (x, y) in place.items()
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" font-family="sans-serif" '
            'font-size="15" text-anchor="middle">',
            "<title>The rooms of nnunetv2_ext: each imports from those its lines lead down to</title>",
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            '<g stroke="#8a94a6" stroke-width="1.5">',
            *arrows,
            '</g><g fill="#e8eef7" stroke="#34527a">',
            *(box.split("<text")[0] for box in boxes),
            '</g><g fill="#1b2a41">',
            *("<text" + box.split("<text")[1] for box in boxes),
            "</g></svg>",
            "",
        ]
    )


if __name__ == "__main__":
    DRAWING.write_text(drawing(imports_of_rooms()), encoding="utf-8")
