"""Any MONAI datalist."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import Case, Split
from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json
from nnunetv2_ext.utilities.validation import either, entries, integer, list_of, mapping_of, nullable, text

_SECTIONS: dict[str, Split] = {"training": "train", "validation": "val", "test": "test", "testing": "test"}
_IMAGE = either(text(), list_of(text(), at_least=1))
_CASE = entries({"image": _IMAGE, "label": nullable(text()), "fold": nullable(integer(0, 1000))}, needed=("image",))
_ENTRIES = {
    "labels": mapping_of(text(), text(r"\d{1,5}", "a label value")),
    **dict.fromkeys(("description", "licence"), text()),
}
#: What the Decathlon's own dataset.json must look like.
DECATHLON = entries(_ENTRIES, needed=("labels",))
_DATALIST = entries({**_ENTRIES, **dict.fromkeys(_SECTIONS, list_of(either(_IMAGE, _CASE)))})


class Converter(DatasetConverter):
    """Any MONAI datalist."""

    @cached_property
    def file(self) -> Path:
        """The JSON file."""
        if self.source.is_file():
            return self.source
        files = sorted(self.source.glob("*.json")) if self.source.is_dir() else []
        chosen = [file for file in files if file.name == "dataset.json"] or files
        if len(chosen) != 1:
            names = ", ".join(file.name for file in files)
            raise UserError(f"Expected one JSON file in {self.source}, but found {names or 'none'}; name the file.")
        return chosen[0]

    @cached_property
    def content(self) -> Mapping[str, Any]:
        """The content of the JSON file."""
        content: Mapping[str, Any] = read_json(self.file, _DATALIST)
        if not any(section in content for section in _SECTIONS):
            raise UserError(f'Expected a MONAI datalist with a list "training" in {self.file}, but it has none.')
        return content

    def cases(self) -> list[Case]:
        """All cases of all sections."""
        return [case for section, split in _SECTIONS.items() for case in self._cases(section, split)]

    @cached_property
    def order(self) -> LabelOrder:
        """The user's label order, or the names in the datalist."""
        if self.options.order:
            return LabelOrder.read(self.options.order)
        if "labels" not in self.content:
            raise UserError(f'Expected "labels" in {self.file}, but found none; name a label order with --order.')
        classes = {name.strip(): int(value) for value, name in self.content["labels"].items() if int(value)}
        description, licence = (self.content.get(name, "") for name in ("description", "licence"))
        return LabelOrder(self.file.stem, classes, description, licence=licence)

    def _cases(self, section: str, split: Split) -> Iterator[Case]:
        for entry in self.content.get(section, ()):
            entry = entry if isinstance(entry, dict) else {"image": entry}
            names = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
            label = entry.get("label")
            yield Case(
                self._identifier(names[0]),
                tuple(self.file.parent / name for name in names),
                label=self.file.parent / label if label else None,
                split=split,
                fold=entry.get("fold") if split == "train" else None,
                problem="" if label or split == "test" else f'Expected "label" for {names[0]} in {section}.',
            )

    @cached_property
    def _ambiguous(self) -> bool:
        """Whether file names alone do not tell cases apart, as in ``<case>/image.nii.gz``."""
        listed = [entry for section in _SECTIONS for entry in self.content.get(section, ())]
        images = [entry["image"] if isinstance(entry, dict) else entry for entry in listed]
        names = [image[0] if isinstance(image, list) else image for image in images]
        return len({Path(name).name for name in names}) < len(names)

    def _identifier(self, name: str) -> str:
        path = Path(name)
        stem = re.sub(r"(_0000)?\.(nii(\.gz)?|nrrd|mha|mhd)$", "", path.name)
        return "_".join([*path.parent.parts, stem]) if self._ambiguous else stem
