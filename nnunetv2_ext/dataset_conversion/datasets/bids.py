"""Segmentations among the derivatives of a dataset in the Brain Imaging Data Structure (BIDS).

See https://bids-specification.readthedocs.io, "Imaging data types: Segmentations".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import Case
from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_table

_LABELS = "dseg"
# Derivatives in the same folders that are no images.
_NO_IMAGES = (_LABELS, "probseg", "mask", "xfm")
# Entities that say how a derivative was made, and not of what image.
_OF_DERIVATIVES = ("desc", "res", "den", "space", "label", "atlas", "seg")


@dataclass(frozen=True)
class _File:
    path: Path
    stem: str
    suffix: str
    entities: Mapping[str, str]

    @classmethod
    def of(cls, path: Path) -> _File:
        """Takes a name apart: ``sub-01_ses-2_T1w.nii.gz``."""
        stem = path.name.split(".")[0]
        *entities, suffix = stem.split("_")
        return cls(path, stem.removesuffix(f"_{suffix}"), suffix, dict(part.partition("-")[::2] for part in entities))


class Converter(DatasetConverter):
    """Any BIDS dataset with segmentations."""

    def cases(self) -> list[Case]:
        """Every segmentation with the images that it is of."""
        return [self._case(file) for file in self._files if file.suffix == _LABELS]

    @cached_property
    def order(self) -> LabelOrder:
        """The user's label order, or what the tables beside the label maps say."""
        if self.options.order:
            return LabelOrder.read(self.options.order)
        names = {value: name for value, name in sorted(self._tables.items()) if value}
        if not names:
            raise UserError(f"Expected the names of classes in tables (*_dseg.tsv) in {self.source}, or --order.")
        return LabelOrder(self.name, {name: value for value, name in names.items()})

    def channels(self) -> tuple[str, ...]:
        """The user's, or the suffix that all images have."""
        return self.options.channel_names or (self._suffix,)

    @cached_property
    def _files(self) -> list[_File]:
        if not self.source.is_dir():
            raise UserError(f"Expected the folder of a BIDS dataset at {self.source}, but there is none.")
        paths = (path for ending in (".nii", ".nii.gz") for path in self.source.rglob(f"sub-*/**/anat/sub-*{ending}"))
        files = [
            _File.of(path)
            for path in sorted(set(paths))
            if not any(part.startswith(".") for part in path.relative_to(self.source).parts)
        ]
        if not any(file.suffix == _LABELS for file in files):
            raise UserError(f"Expected sub-*/anat/*_dseg.nii.gz in {self.source} or its derivatives, but found none.")
        return files

    @cached_property
    def _images(self) -> Mapping[str, list[_File]]:
        """Subject -> images."""
        images: dict[str, list[_File]] = {}
        for file in self._files:
            if file.suffix not in _NO_IMAGES:
                images.setdefault(file.entities.get("sub", ""), []).append(file)
        return images

    @cached_property
    def _suffix(self) -> str:
        found = {image.suffix for label in self._files if label.suffix == _LABELS for image in self._images_of(label)}
        if len(found) != 1:
            raise UserError(
                f"Expected images of one suffix for the segmentations in {self.source}, but found "
                f"{', '.join(sorted(found)) or 'none'}; choose with --channels."
            )
        return found.pop()

    @cached_property
    def _tables(self) -> dict[int, str]:
        """Integer -> name, of all tables; where they disagree, of the first."""
        names: dict[int, str] = {}
        for file in self._files:
            if file.suffix == _LABELS:
                names = self._table(file) | names
        return names

    def _case(self, label: _File) -> Case:
        problem, images = "", []
        for channel in self.channels():
            best = self._best([image for image in self._images_of(label) if image.suffix == channel], label)
            if len(best) != 1:
                listed = ", ".join(str(image.path.relative_to(self.source)) for image in best) or "none"
                problem = f"Expected one image {channel} for {label.path.relative_to(self.source)}, but found {listed}."
            images += [image.path for image in best[:1]]
        if not self.options.order:
            table = self._table(label)
            strange = [value for value, name in table.items() if value and self._tables[value] != name]
            if strange:
                problem = (
                    f"Expected {strange[0]} to be {self._tables[strange[0]]!r} as in other tables, but it is "
                    f"{table[strange[0]]!r} in that of {label.path.relative_to(self.source)}; give --order."
                )
        return Case(label.stem, tuple(images), label=label.path, problem=problem)

    def _images_of(self, label: _File) -> Iterator[_File]:
        """Images of the same subject that differ in nothing that both of them say."""
        for image in self._images.get(label.entities["sub"], ()):
            said = {name: value for name, value in image.entities.items() if name not in ("desc", "res", "den")}
            missing = label.entities.keys() - said.keys() - {*_OF_DERIVATIVES}
            if said.items() <= label.entities.items() and not missing:
                yield image

    @staticmethod
    def _best(images: list[_File], label: _File) -> list[_File]:
        """Images beside the label map before others, and those that say most of what it says."""
        ranks = [
            (image.path.parent == label.path.parent, len(image.entities.items() & label.entities.items()))
            for image in images
        ]
        return [image for image, rank in zip(images, ranks, strict=True) if rank == max(ranks)]

    def _table(self, label: _File) -> dict[int, str]:
        """Integer -> name of the table nearest to a label map: a table is of all files that have its entities."""
        for folder in label.path.parents:
            tables = [_File.of(path) for path in sorted(folder.glob("*dseg.tsv"))]
            fitting = [table for table in tables if table.entities.items() <= label.entities.items()]
            if fitting:
                nearest = max(fitting, key=lambda table: len(table.entities))
                return self._read(nearest.path)
            if folder == self.source:
                break
        return {}

    def _read(self, table: Path) -> dict[int, str]:
        names = {}
        for row in read_table(table, ("index", "name"), "\t"):
            if not row["index"].isdecimal():
                raise UserError(f"Expected integers as index in {table}, but found {row['index']!r}.")
            names[int(row["index"])] = row["name"]
        return names
