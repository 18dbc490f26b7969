"""Any folder of DICOM image series with annotations (SEG, RTSTRUCT) of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Set
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import Case
from nnunetv2_ext.images.dicom import Series, find_annotated, own_name
from nnunetv2_ext.images.dicom_annotations import (
    STRUCTURE_SET,
    Annotation,
    plain_name,
    read_annotation,
    read_object,
    referred_series,
)
from nnunetv2_ext.images.dicom_seg import Segmentation
from nnunetv2_ext.images.reading import read_slices
from nnunetv2_ext.images.rtstruct import StructureSet
from nnunetv2_ext.images.volumes import Volume
from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.executors import in_a_worker
from nnunetv2_ext.utilities.names import quoted

if TYPE_CHECKING:
    from nnunetv2_ext.images.geometry import Grid


class Converter(DatasetConverter):
    """Any folder of DICOM image series with annotations of them."""

    def cases(self) -> list[Case]:
        """Every annotated series, and every annotation that belongs to none."""
        annotated, lost = self._found
        return [self._case(series, annotations) for series, annotations in annotated] + lost

    @cached_property
    def order(self) -> LabelOrder:
        """The classes that the user names, numbered from 1."""
        if not self.options.classes:
            annotations = [annotation for _, found in self._found[0] for annotation in found]
            names = Counter(name for annotation in annotations for name in annotation.names)
            listed = ", ".join(f"{quoted(name)} ({count})" for name, count in sorted(names.items()))
            raise UserError(f"Expected --classes with what to convert; the annotations name {listed or 'nothing'}.")
        return LabelOrder(self.name, {name: value for value, name in enumerate(self._wanted, start=1)})

    def channels(self) -> tuple[str, ...]:
        """The user's, or the modality of the series."""
        return self.options.channel_names or (self._modality,)

    def settings(self) -> dict[str, Any]:
        """Those of every dataset, and what the classes are called by the annotations."""
        return super().settings() | {"classes": {name: sorted(wanted) for name, wanted in self._wanted.items()}}

    def read_image(self, case: Case) -> list[Volume]:
        """The series."""
        return [read_slices(case.images)]

    def read_masks(self, case: Case, grid: Grid) -> Iterator[Volume]:
        """The union of what the annotations call by the names of a class, class by class."""
        annotations = [_open(file) for file in case.annotations]
        for name, wanted in self._wanted.items():
            first: tuple[Segmentation | StructureSet, Any] | None = None
            for annotation in annotations:
                if wanted & annotation.names:
                    mask = annotation.mask(wanted, grid)
                    if first is not None and not np.array_equal(mask, first[1]):
                        raise UserError(
                            f"Expected {name} of {case.identifier} once, but {first[0].file} and {annotation.file} "
                            "delineate it differently; leave one of them out."
                        )
                    first = annotation, mask
            if first is not None:
                yield Volume(first[1], grid)

    @cached_property
    def _wanted(self) -> Mapping[str, Set[str]]:
        """Class -> plain names of what it is the union of."""
        wanted: dict[str, set[str]] = defaultdict(set)
        for text in self.options.classes or ():
            name, _, structure = text.partition("=")
            wanted[name].add(plain_name(structure or name))
        return dict(wanted)

    @cached_property
    def _modality(self) -> str:
        found = Counter(series.modality for series, _ in self._found[0])
        if len(found) != 1:
            listed = ", ".join(f"{quoted(name)} ({count})" for name, count in sorted(found.items()))
            raise UserError(
                f"Expected annotated series of one modality in {self.source}, but found {listed or 'none'}; name the "
                "channel with --channels, or part them."
            )
        return next(iter(found))

    @cached_property
    def _found(self) -> tuple[list[tuple[Series, list[Annotation]]], list[Case]]:
        """The annotated series, and annotations without one."""
        if not self.source.is_dir():
            raise UserError(f"Expected a folder of DICOM series at {self.source}, but there is none.")
        series, files = find_annotated(self.source)
        if not files:
            raise UserError(f"Expected annotations (SEG, RTSTRUCT) in {self.source}, but found none.")
        taken = {one.name for one in series}
        annotations: dict[str, list[Annotation]] = defaultdict(list)
        lost = []
        for number, file in enumerate(files, start=1):
            header: dict[str, str] = {}
            try:
                # Where a crash costs this file alone.
                annotation = in_a_worker(read_annotation, file, file)
                header = annotation.header
                annotations[referred_series(annotation, series).name].append(annotation)
            except UserError as error:
                lost.append(Case(own_name(header, number, taken), (), problem=str(error)))
        return [(one, annotations[one.name]) for one in series if one.name in annotations], lost

    def __getstate__(self) -> dict[str, Any]:
        # Workers are told of their case alone.
        return {name: value for name, value in self.__dict__.items() if name != "_found"}

    def _case(self, series: Series, annotations: list[Annotation]) -> Case:
        masks: dict[str, Path] = {}
        for name, wanted in self._wanted.items():
            naming = [each.file for each in annotations if wanted & each.names]
            masks |= {name: naming[0]} if naming else {}
        problem = ""
        if not masks and self._wanted:
            named = sorted({name for each in annotations for name in each.names})
            shown = ", ".join(map(quoted, named[:8])) or "nothing"
            problem = f"Expected some of the classes in {annotations[0].file}, but it delineates {shown}."
        files = tuple(each.file for each in annotations)
        return Case(series.name, series.files, masks=masks, annotations=files, problem=problem)


def _open(file: Path) -> Segmentation | StructureSet:
    kind = read_object(file, stop_before_pixels=True, specific_tags=["SOPClassUID"]).SOPClassUID
    return StructureSet(file) if kind == STRUCTURE_SET else Segmentation(file)
