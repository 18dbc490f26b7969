"""What a label order must look like, in a file and in itself."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from nnunetv2_ext.labels.channels import BACKGROUND, IGNORE
from nnunetv2_ext.labels.dataset_json import HIGHEST_LABEL, LABEL_VALUE, MOST_CLASSES, NAMES
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.names import check_label_names
from nnunetv2_ext.utilities.validation import either, entries, integer, list_of, mapping_of, number, text

if TYPE_CHECKING:
    from nnunetv2_ext.labels.label_order import LabelOrder

LabelValue = int | tuple[int, ...]
# What label_orders/schemas/label_order.schema.json says, but for what only the files that ship must have.
_VALUE = integer(1, HIGHEST_LABEL)
LABEL_ORDER = entries(
    {
        "name": text(),
        "labels": mapping_of(either(_VALUE, list_of(_VALUE, at_least=1)), at_most=HIGHEST_LABEL),
        **{name: text() for name in ("description", "source", "licence", "modality")},
        "ignore_label": LABEL_VALUE,
        "aliases": mapping_of(NAMES),
        **{name: mapping_of(NAMES, at_most=MOST_CLASSES) for name in ("regions", "sources")},
        "left_right_pairs": list_of(list_of(text(), 2, 2)),
        "colors": mapping_of(list_of(integer(0, 255), 3, 3)),
        "plausible_intensities": mapping_of(list_of(number(), 2, 2)),
        "codes": mapping_of(list_of(text(), at_most=4)),
        "codes_source": text(),
    },
    needed=("labels",),
    closed=True,
)


def check_label_order(order: LabelOrder) -> None:
    """Refuses an order that contradicts itself.

    Raises:
        UserError: It does.
    """

    def complain(expected: str, found: str) -> None:
        raise UserError(f"Expected {expected} in the label order {order.name!r}, but found {found}.")

    if not order.labels:
        complain("at least one class", "none")
    check_label_names(order.labels, f"the label order {order.name!r}")
    for name, value in order.labels.items():
        if name in (BACKGROUND, IGNORE):
            complain("no entry for background (always 0) or ignore (its own field)", repr(name))
        for part in integers_of(value):
            if part < 1:
                complain("integers of at least 1", f"{name!r}: {value!r}")
            if part == order.ignore_label:
                complain("an ignore label that no class uses", f"{part} for {name!r} too")
    plain = [value for value in order.labels.values() if isinstance(value, int)]
    has_regions = len(plain) < len(order.labels)
    if len(set(plain)) < len(plain):
        twice = sorted(value for value, count in Counter(plain).items() if count > 1)
        complain("one class per integer", f"several classes for {listed(twice)}")
    spellings: dict[str, str] = {spelling(name): name for name in order.labels}
    if len(spellings) < len(order.labels):
        complain("names that differ in more than case, blanks and hyphens", listed(order.labels))
    for name, others in order.aliases.items():
        for alias in others:
            owner = spellings.setdefault(spelling(alias), name)
            if owner != name:
                complain("aliases of one class each", f"{alias!r} for {owner!r} and {name!r}")
    sides = [side for pair in order.left_right_pairs for side in pair]
    members = [member for names in (*order.regions.values(), *order.sources.values()) for member in names]
    for name in (*order.aliases, *sides, *members, *order.colors, *order.plausible_intensities, *order.codes):
        if name not in order.labels:
            complain("aliases, pairs, regions, sources, colours, intensities and codes of its own classes", repr(name))
    for name, codes in order.codes.items():
        if len(codes) == 1:
            complain("a category and a type as codes", f"{codes[0]!r} alone for {name!r}")
    if any(left == right for left, right in order.left_right_pairs):
        complain("pairs of two different classes", str(order.left_right_pairs))
    if has_regions and order.regions:
        complain("regions either as labels or in their own section", "both")


def integers_of(value: LabelValue) -> tuple[int, ...]:
    """The integers of a class."""
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def as_tuples(value: Any) -> Any:
    """Lists become tuples, so that an order can be shared without anybody changing it by accident."""
    if isinstance(value, dict):
        return {key: as_tuples(item) for key, item in value.items()}
    return tuple(as_tuples(item) for item in value) if isinstance(value, list) else value


def spelling(name: str) -> str:
    """A name without what never counts: case, blanks and hyphens."""
    return re.sub(r"[\s\-]+", "_", name.strip()).lower()


def listed(items: Iterable[Any], most: int = 8) -> str:
    """The first few, for a sentence."""
    texts = [str(item) for item in items]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")
