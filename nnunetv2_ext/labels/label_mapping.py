"""Scoring predictions in one label order against references in another: direct inference.

STU-Net (Huang et al. 2023) evaluates networks trained on TotalSegmentator on fourteen other datasets: each class of the
dataset is compared with a union of TotalSegmentator classes. Those tables ship as ``label_orders/mappings/*.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.resources import resource_folder
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json
from nnunetv2_ext.utilities.validation import check, entries, integer, list_of, mapping_of, text

_NAMES = list_of(text(), at_least=1)
# As label_orders/schemas/mapping.schema.json.
_TEXTS = ("name", "target_order", "source_order", "description", "source")
_MAPPING = entries(
    {
        **dict.fromkeys(_TEXTS, text()),
        "classes": list_of(
            entries({"name": text(), "target": _NAMES, "source": _NAMES}, ("name", "target", "source")), at_least=1
        ),
        "excluded": mapping_of(integer()),
    },
    needed=(*_TEXTS, "classes", "excluded"),
)


@dataclass(frozen=True)
class MappedClass:
    """One scored class: the union of ``target`` in the references against the union of ``source`` in predictions."""

    name: str
    target: tuple[str, ...]
    source: tuple[str, ...]


@dataclass(frozen=True)
class LabelMapping:
    """Which classes of predictions are scored against which classes of references.

    Attributes:
        name: Identifier.
        target_order: Label order of the references.
        source_order: Label order whose class names ``MappedClass.source`` uses. Predictions may be in any order that
            knows these names: TotalSegmentator v1 or v2, STU-Net, MONAI whole body.
        classes: What is scored.
        excluded: Classes of the target that are not scored, with their integers.
        description: One line for listings.
        source: Citation.
    """

    name: str
    target_order: LabelOrder
    source_order: LabelOrder
    classes: tuple[MappedClass, ...]
    excluded: Mapping[str, int]
    description: str = ""
    source: str = ""

    @classmethod
    def read(cls, name_or_path: str | Path) -> LabelMapping:
        """Reads a mapping that ships with the package by name, or a file of the same form.

        Raises:
            UserError: Nothing of that name, or it names classes that its orders do not have.
        """
        path = resource_folder("label_orders") / "mappings" / f"{name_or_path}.json"
        if not path.is_file():
            path = Path(name_or_path)
        if not path.is_file():
            raise UserError(
                f"Expected a mapping, but {str(name_or_path)!r} is neither a file nor one of "
                f"{', '.join(list_mappings())}."
            )
        return cls.from_json(read_json(path), path)

    @classmethod
    def from_json(cls, content: Any, where: Path | str = "the given JSON") -> LabelMapping:
        """Builds a mapping from the content of a file (see ``label_orders/schemas/mapping.schema.json``)."""
        check(content, _MAPPING, where)
        target, source = (LabelOrder.read(content[key]) for key in ("target_order", "source_order"))
        classes = tuple(
            MappedClass(entry["name"], tuple(entry["target"]), tuple(entry["source"])) for entry in content["classes"]
        )
        for order, names in (
            (target, {name for mapped in classes for name in mapped.target} | set(content["excluded"])),
            (source, {name for mapped in classes for name in mapped.source}),
        ):
            foreign = sorted(names - set(order.labels))
            if foreign:
                raise UserError(
                    f"Expected classes of {order.name} in the mapping {content['name']!r}, "
                    f"but found {', '.join(foreign)}."
                )
        return cls(
            content["name"],
            target,
            source,
            classes,
            dict(content["excluded"]),
            content["description"],
            content["source"],
        )

    def target_values(self, mapped: MappedClass) -> tuple[int, ...]:
        """Integers of a scored class in the references."""
        return tuple(self.target_order.value(name) for name in mapped.target)


def list_mappings() -> list[str]:
    """Names of the mappings that ship with the package."""
    return sorted(file.stem for file in (resource_folder("label_orders") / "mappings").glob("*.json"))
