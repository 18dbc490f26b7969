"""What DICOM objects say of each class: name, colour, and its codes in SNOMED CT.

Codes stand in the label orders, as texts in SNOMED's own notation (``"64033007 |Kidney|"``): category, type, laterality
and, for what is found within an organ, that organ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Integer

from nnunetv2_ext.images.colours import Colour, display_colours
from nnunetv2_ext.resources import list_resources, resource_folder
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json
from nnunetv2_ext.utilities.label_counts import count_label_values

_NOTATION = re.compile(r"(\d+) \|([^|]+)\|")
# Names in DICOM (long strings): their length, and what parts several of them.
_LONGEST, _SEPARATOR = 64, "\\"


@dataclass(frozen=True)
class Code:
    """A concept of SNOMED CT."""

    value: str
    meaning: str

    @classmethod
    def parse(cls, text: str) -> Code:
        """Reads SNOMED's notation: ``"64033007 |Kidney|"``.

        Raises:
            UserError: It is written otherwise.
        """
        match = _NOTATION.fullmatch(text)
        if match is None:
            raise UserError(
                f"Expected a code of SNOMED CT such as '64033007 |Kidney|', but found {text!r}; correct it."
            )
        return cls(*match.groups())

    def concept(self) -> Any:
        """As an item of a DICOM sequence."""
        from highdicom.sr import CodedConcept

        return CodedConcept(self.value, "SCT", self.meaning)


@dataclass(frozen=True)
class SegmentCodes:
    """What a segment is.

    Attributes:
        category: Such as anatomical structure.
        type: Such as kidney.
        laterality: Left or right: of the region where there is one, else of the type.
        region: The organ of something that is found within one.
    """

    category: Code
    type: Code
    laterality: Code | None = None
    region: Code | None = None

    @classmethod
    def parse(cls, texts: Sequence[str]) -> SegmentCodes:
        """Reads what a label order says of a class: two to four codes, of which the third may be empty."""
        laterality, region = (Code.parse(text) if text else None for text in (*texts[2:], "", "")[:2])
        return cls(Code.parse(texts[0]), Code.parse(texts[1]), laterality, region)

    def items(self) -> tuple[Any, Any, Any]:
        """Category, type and region (None where there is none) as items of DICOM sequences.

        The laterality is within the item that it modifies.
        """
        kind, region = self.type.concept(), self.region.concept() if self.region else None
        if self.laterality and region is not None:
            region.AnatomicRegionModifierSequence = [self.laterality.concept()]
        elif self.laterality:
            kind.SegmentedPropertyTypeModifierCodeSequence = [self.laterality.concept()]
        return self.category.concept(), kind, region


#: Of classes of which no code is known; 3D Slicer and dcmqi take the same.
GENERAL = SegmentCodes(Code("85756007", "Tissue"), Code("85756007", "Tissue"))


@dataclass(frozen=True)
class Segment:
    """A class of a label map.

    Attributes:
        value: Its integer.
        name: At most 64 characters.
        colour: Red, green, blue, 0 to 255.
        codes: What it is.
    """

    value: int
    name: str
    colour: Colour
    codes: SegmentCodes


def segments_of(
    labels: Integer[np.ndarray, "z y x"], names: Mapping[int, str], own_codes: Mapping[str, Sequence[str]] | None = None
) -> list[Segment]:
    """The classes that occur in a label map, by their integers; all of them where none occurs.

    Args:
        labels: ``(z, y, x)``.
        names: Class name of every integer but 0.
        own_codes: Codes of a label order that does not ship with the package: class name to texts.

    Raises:
        UserError: An integer has no name, or a code is none.
    """
    size = max(int(labels.max(initial=0)), *names, 0) + 1
    found = [int(value) for value in np.flatnonzero(count_label_values(labels, size)) if value]
    unknown = [value for value in found if value not in names]
    if unknown:
        listed = ", ".join(map(str, unknown[:8]))
        raise UserError(
            f"Expected a name for every integer of the label map, but found none for {listed}; name the order that the "
            "label map is really in."
        )
    colours, codes = display_colours(names), {**_published_codes(), **(own_codes or {})}

    def segment(value: int) -> Segment:
        name = names[value]
        texts = codes.get(name) or codes.get(name.rsplit("/", 1)[-1])
        plain = name.replace(_SEPARATOR, "/")[:_LONGEST]
        return Segment(value, plain, colours[value], SegmentCodes.parse(texts) if texts else GENERAL)

    return [segment(value) for value in found or sorted(names)]


@lru_cache(maxsize=1)
def _published_codes() -> dict[str, list[str]]:
    """Class name to codes over all label orders; the first order in the alphabet wins."""
    codes: dict[str, list[str]] = {}
    for order in list_resources("label_orders"):
        for name, texts in read_json(resource_folder("label_orders") / f"{order}.json").get("codes", {}).items():
            if texts:
                codes.setdefault(name, texts)
    return codes
