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

_SECTIONS: dict[str, Split] = {"training": "train", "validation": "val", "test": "test", "testing": "test"}


class MonaiDatalist(DatasetConverter):
    """Any MONAI datalist, the JSON form of the Decathlon that MONAI's loaders, Auto3DSeg and bundles read.

    Expects the JSON file, or a folder with a ``dataset.json`` or one other JSON file; its paths are relative to it::

        {"labels": {"0": "background", "1": "spleen"},
         "training": [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz", "fold": 0}],
         "validation": [{"image": "imagesTr/b.nii.gz", "label": "labelsTr/b.nii.gz"}],
         "test": ["imagesTs/c.nii.gz"]}

    ``image`` may be a list with one file per channel. Class names come from ``--order`` or from ``labels``. ``fold``
    numbers become the folds of the splits; ``validation`` becomes the validation set of the one fold that is written.
    """

    name = "monai_datalist"
    title = "MonaiDatalist"
    is_generic = True

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
        content = read_json(self.file)
        if not isinstance(content, dict) or not any(isinstance(content.get(section), list) for section in _SECTIONS):
            raise UserError(f'Expected a MONAI datalist with a list "training" in {self.file}, but it has none.')
        return content

    def cases(self) -> list[Case]:
        """All cases of all sections."""
        if self.options.image or self.options.label:
            raise UserError("Expected no --image and --label with a datalist, because it names its files itself.")
        return [case for section, split in _SECTIONS.items() for case in self._cases(section, split)]

    @cached_property
    def order(self) -> LabelOrder:
        """The user's label order, or the names in the datalist."""
        if self.options.order:
            return LabelOrder.read(self.options.order)
        labels = self.content.get("labels")
        if not isinstance(labels, dict):
            raise UserError(f'Expected "labels" in {self.file}, but found {labels!r}; name a label order with --order.')
        classes = {str(name).strip(): int(value) for value, name in labels.items() if int(value) != 0}
        description = str(self.content.get("description", ""))
        return LabelOrder(self.file.stem, classes, description, licence=str(self.content.get("licence", "")))

    def _cases(self, section: str, split: Split) -> Iterator[Case]:
        for entry in self.content.get(section, ()):
            entry = entry if isinstance(entry, dict) else {"image": entry}
            images = entry.get("image")
            names = [str(name) for name in (images if isinstance(images, list) else [images] if images else [])]
            if not names:
                raise UserError(f'Expected "image" in every entry of {section} in {self.file}, but found {entry!r}.')
            label = entry.get("label")
            yield Case(
                self._identifier(names[0]),
                tuple(self.file.parent / name for name in names),
                label=self.file.parent / label if label else None,
                split=split,
                fold=int(entry["fold"]) if split == "train" and "fold" in entry else None,
                problem="" if label or split == "test" else f'Expected "label" for {names[0]} in {section}.',
            )

    @cached_property
    def _ambiguous(self) -> bool:
        """Whether file names alone do not tell cases apart, as in ``<case>/image.nii.gz``."""
        entries = [entry for section in _SECTIONS for entry in self.content.get(section, ())]
        images = [entry["image"] if isinstance(entry, dict) and "image" in entry else entry for entry in entries]
        names = [str(image[0] if isinstance(image, list) else image) for image in images]
        return len({Path(name).name for name in names}) < len(names)

    def _identifier(self, name: str) -> str:
        path = Path(name)
        stem = re.sub(r"(_0000)?\.(nii(\.gz)?|nrrd|mha|mhd)$", "", path.name)
        return "_".join([*path.parent.parts, stem]) if self._ambiguous else stem
