"""Colours of classes, the same in label tables, segmentations for Slicer and previews."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from functools import lru_cache

from nnunetv2_ext.resources import list_resources, resource_folder
from nnunetv2_ext.utilities.files import read_json

#: Red, green, blue, 0 to 255.
Colour = tuple[int, int, int]

# Steps of the golden ratio around the colour wheel keep any number of first hues far apart.
_GOLDEN_RATIO = 0.618033988749895


def display_colours(names: Mapping[int, str]) -> dict[int, Colour]:
    """A colour per label: the published one where a label order knows the class, else one told apart by its number.

    Args:
        names: Class name of every integer; ``<source>/<class>`` is looked up by the class.
    """
    published = _published_colours()
    return {value: published.get(name.rsplit("/", 1)[-1]) or _generated(value) for value, name in names.items()}


def _generated(value: int) -> Colour:
    hue = (value * _GOLDEN_RATIO) % 1
    # Two rings of saturation and three of brightness part labels whose hues come close.
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85 - 0.3 * (value % 2), 1.0 - 0.2 * (value % 3))
    return round(red * 255), round(green * 255), round(blue * 255)


@lru_cache(maxsize=1)
def _published_colours() -> dict[str, Colour]:
    """Class name to colour over all label orders; the first order in the alphabet wins."""
    colours: dict[str, Colour] = {}
    for order in list_resources("label_orders"):
        for name, colour in read_json(resource_folder("label_orders") / f"{order}.json").get("colors", {}).items():
            colours.setdefault(name, (int(colour[0]), int(colour[1]), int(colour[2])))
    return colours
