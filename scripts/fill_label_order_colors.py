"""Gives every class in ``label_orders/*.json`` that has no colour yet one that is unlike those already given.

Run it after adding a label order. A class keeps its colour for ever, and has the same one in every order, so that the
liver looks alike whatever the source. Organs take the colour of 3D Slicer's anatomy table where it has one; the others
get, of some hundred candidates that depend on the name alone, the one furthest from all colours given before.
"""

from __future__ import annotations

import colorsys
import json
import re
import zlib
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "label_orders"
CANDIDATES = 128
LIST = re.compile(r"\[\s+([^\[\]{}]*?)\s+\]")

# 3D Slicer, GenericAnatomyColors.
SLICER_COLORS = {
    "aorta": (224, 97, 76),
    "bones": (241, 214, 145),
    "brain": (250, 250, 225),
    "colon": (204, 168, 143),
    "duodenum": (255, 253, 229),
    "esophagus": (211, 171, 143),
    "gallbladder": (139, 150, 98),
    "heart": (206, 110, 84),
    "inferior_vena_cava": (0, 151, 206),
    "kidneys": (185, 102, 83),
    "liver": (221, 130, 101),
    "lungs": (197, 165, 145),
    "muscles": (192, 104, 88),
    "pancreas": (249, 180, 111),
    "portal_vein_and_splenic_vein": (0, 112, 165),
    "prostate": (230, 158, 140),
    "small_bowel": (205, 167, 142),
    "spinal_cord": (244, 214, 49),
    "spleen": (157, 108, 162),
    "stomach": (216, 132, 105),
    "subcutaneous_tissue": (230, 220, 70),
    "thyroid_gland": (62, 162, 114),
    "trachea": (182, 228, 255),
    "urinary_bladder": (222, 154, 132),
    "uterus": (255, 181, 158),
}


def candidate(name: str, attempt: int) -> tuple[int, int, int]:
    """A clear, not too dark colour that depends on nothing but the name and the attempt."""
    digest = zlib.crc32(f"{name}/{attempt}".encode())
    hue, saturation, value = (digest & 0xFFF) / 4096, 0.35 + (digest >> 12 & 0xFF) / 425, 0.55 + (digest >> 20) / 9102
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def choose(name: str, taken: dict[str, tuple[int, int, int]]) -> tuple[int, int, int]:
    """The colour of the anatomy table, else the candidate furthest from the colours taken."""
    bare = name.rsplit("/", 1)[-1]
    if name == bare and name in SLICER_COLORS and SLICER_COLORS[name] not in taken.values():
        return SLICER_COLORS[name]
    distances = {
        color: min(
            (sum((a - b) ** 2 for a, b in zip(color, other, strict=True)) for other in taken.values()), default=0
        )
        for color in (candidate(name, attempt) for attempt in range(CANDIDATES))
    }
    return max(distances, key=lambda color: distances[color])


def dump(content: dict[str, object]) -> str:
    """JSON with each list on one line, which is how the label orders are kept readable."""
    text = json.dumps(content, indent=4, ensure_ascii=False)
    return LIST.sub(lambda match: f"[{' '.join(match[1].split())}]", text) + "\n"


def main() -> None:
    """Fills the missing colours of all label orders in place."""
    files = {file: json.loads(file.read_text(encoding="utf-8")) for file in sorted(FOLDER.glob("*.json"))}
    taken = {name: tuple(color) for content in files.values() for name, color in content.get("colors", {}).items()}
    for file, content in files.items():
        for name in content["labels"]:
            if name not in taken:
                taken[name] = choose(name, taken)
        content["colors"] = {name: list(taken[name]) for name in content["labels"]}
        file.write_text(dump(content), encoding="utf-8")


if __name__ == "__main__":
    main()
