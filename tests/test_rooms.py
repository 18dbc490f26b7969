"""scripts/draw_rooms.py: the drawing in the docs is that of today's imports."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def draw_rooms(load_script):
    return load_script("draw_rooms")


def test_the_drawing_in_the_docs_is_up_to_date(draw_rooms):
    drawn = (ROOT / "docs" / "rooms.svg").read_text(encoding="utf-8")
    assert drawn == draw_rooms.drawing(draw_rooms.imports_of_rooms()), "run python scripts/draw_rooms.py"


def test_rows_and_detours(tmp_path, draw_rooms):
    for room, line in {"a": "import p.b.x\nfrom p import c", "b": "from p.c import y", "c": "import os"}.items():
        (tmp_path / "p" / room).mkdir(parents=True)
        (tmp_path / "p" / room / "m.py").write_text(line)
    imports = draw_rooms.imports_of_rooms(tmp_path / "p")
    assert imports == {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert draw_rooms.without_detours(imports) == {"a": {"b"}, "b": {"c"}, "c": set()}
    assert draw_rooms.rows_of(imports) == [["c"], ["b"], ["a"]]


def test_circles_are_told(draw_rooms):
    with pytest.raises(SystemExit, match="circle"):
        draw_rooms.rows_of({"a": {"b"}, "b": {"a"}})
