"""What the integers of a label map mean, and how to say the same in other integers.

Two published label maps of the same patient rarely use the same integers: STU-Net's weights differ from
TotalSegmentator's own numbers in every class. A `LabelOrder` keeps the integers with their names, so that label maps
are translated by name and never by position.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nnunetv2_ext.labels.channels import BACKGROUND, IGNORE
from nnunetv2_ext.labels.dataset_json import LABEL_VALUE, dataset_json_shape
from nnunetv2_ext.labels.label_order_checks import (
    LABEL_ORDER,
    LabelValue,
    as_tuples,
    check_label_order,
    integers_of,
    listed,
    spelling,
)
from nnunetv2_ext.resources import list_resources, resource_folder
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json
from nnunetv2_ext.utilities.validation import check, entries

# How far a floating-point label may be from a whole number.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class LabelOrder:
    """Class names and the integers that stand for them; 0 is always background and is not listed.

    Attributes:
        name: Identifier, the file name for those that ship with the package.
        labels: Class name to integer, or to the integers whose union the class is (a region).
        description: One line for listings.
        source: Citation and address.
        licence: Licence of the data.
        modality: ``"CT"``, ``"MR"`` or both; empty where unknown.
        ignore_label: Integer of voxels that nobody annotated; None where there are none.
        aliases: Class name to other names of the same structure. Case, blanks and hyphens never count.
        left_right_pairs: (left, right) class names, of the patient's own sides.
        regions: Overlapping classes that the field evaluates, to the labels whose union each is.
        sources: For orders that join several datasets: dataset to its classes.
        colors: Class name to red, green and blue (0 to 255).
        plausible_intensities: Class name to the lowest and highest mean (HU) that it can have in a CT.
        codes: Class name to its codes in SNOMED CT (category, type, laterality, organ), as ``images.segments`` reads
            them; to nothing where none is known.
        codes_source: Where the codes are from.

    Example:
        >>> import numpy as np
        >>> ours, theirs = LabelOrder.read("stunet_totalsegmentator"), LabelOrder.read("totalsegmentator_v1")
        >>> int(ours.remap(np.array(ours.value("spleen")), to=theirs))
        1
    """

    name: str
    labels: Mapping[str, LabelValue]
    description: str = ""
    source: str = ""
    licence: str = ""
    modality: str = ""
    ignore_label: int | None = None
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    left_right_pairs: tuple[tuple[str, str], ...] = ()
    regions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    colors: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    plausible_intensities: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    codes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    codes_source: str = ""

    def __post_init__(self) -> None:
        check_label_order(self)

    @classmethod
    def read(cls, name_or_path: str | Path) -> LabelOrder:
        """Reads an order that ships with the package, a file of the same form, a dataset.json, or a label map's header.

        Args:
            name_or_path: ``"totalsegmentator_v2"``; a JSON file; a folder with a ``dataset.json``; or a label map
                (``.nii.gz``, ``.seg.nrrd``) that carries its names.

        Raises:
            UserError: Nothing of that name, or the file cannot be understood.
        """
        text = str(name_or_path)
        if text in list_resources("label_orders"):
            return cls.from_json(read_json(resource_folder("label_orders") / f"{text}.json"), text)
        path = Path(name_or_path)
        if path.is_dir():
            path = path / "dataset.json"
        if not path.exists():
            raise UserError(
                f"Expected a label order, a JSON file, a dataset folder or a label map with names, but {text!r} is "
                f"none; the label orders that ship with the package are {', '.join(list_resources('label_orders'))}."
            )
        if path.suffix != ".json":
            # Imported here: headers are rarely asked for, and their reader needs a further library.
            from nnunetv2_ext.images.names import read_header_names

            return cls(path.name.split(".")[0], read_header_names(path))
        content = read_json(path)
        if isinstance(content, dict) and "channel_names" in content:
            return cls.from_dataset_json(content, path)
        return cls.from_json(content, text)

    @classmethod
    def from_json(cls, content: Any, where: str = "the given JSON") -> LabelOrder:
        """Builds an order from the content of a ``label_orders`` file (see ``label_orders/schemas``)."""
        values = {"name": Path(where).stem, **check(content, LABEL_ORDER, where)}
        return cls(**{name: as_tuples(value) for name, value in values.items()})

    @classmethod
    def from_dataset_json(cls, content: Mapping[str, Any], where: str | Path = "dataset.json") -> LabelOrder:
        """Builds an order from an nnU-Net ``dataset.json``: ``labels``, without background, and the ignore label."""
        labels = check(content, dataset_json_shape("labels"), where)["labels"]
        check(labels, entries({IGNORE: LABEL_VALUE}), f"the labels of {where}")
        classes: dict[str, LabelValue] = {}
        for name, value in labels.items():
            if name in (BACKGROUND, IGNORE):
                continue
            # nnU-Net needs at least two entries to see a region, so [3, 3] is how this package writes one integer.
            values = tuple(dict.fromkeys(value)) if isinstance(value, list | tuple) else value
            classes[name] = values[0] if isinstance(values, tuple) and len(values) == 1 else values
        name = str(content.get("name") or Path(where).parent.name)
        return cls(name, classes, ignore_label=labels.get(IGNORE))

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in the order of the file."""
        return tuple(self.labels)

    @property
    def values(self) -> tuple[int, ...]:
        """The integers that stand for classes, ascending; neither background nor the ignore label."""
        return tuple(sorted(self.classes_of_value))

    @cached_property
    def classes_of_value(self) -> dict[int, frozenset[str]]:
        """Which classes each integer belongs to; more than one where classes overlap."""
        found: dict[int, set[str]] = {}
        for name, value in self.labels.items():
            for part in integers_of(value):
                found.setdefault(part, set()).add(name)
        return {part: frozenset(names) for part, names in found.items()}

    @cached_property
    def _byspelling(self) -> dict[str, str]:
        spellings = {spelling(alias): name for name, others in self.aliases.items() for alias in others}
        return spellings | {spelling(name): name for name in self.labels}

    def find(self, name_or_alias: str) -> str | None:
        """This order's own name of a class that is given by name or alias; None where it has no such class."""
        return self._byspelling.get(spelling(name_or_alias))

    def value(self, name_or_alias: str) -> int:
        """The integer of a class.

        Raises:
            UserError: No such class, or the class is a union of several integers.
        """
        name = self.find(name_or_alias)
        if name is None:
            raise UserError(f"Expected a class of {self.name}, but {name_or_alias!r} is none of {listed(self.labels)}.")
        integers = integers_of(self.labels[name])
        if len(integers) > 1:
            raise UserError(f"Expected one integer for {name!r} in {self.name}, but it is the union of {integers}.")
        return integers[0]

    def name_in(self, other: LabelOrder, name: str) -> str | None:
        """What ``other`` calls this order's class ``name``: by its name first, then by the names both know it by."""
        found = map(other.find, (name, *self.aliases.get(name, ())))
        return next((theirs for theirs in found if theirs is not None), None)

    def missing_in(self, other: LabelOrder) -> list[str]:
        """Names of this order's classes that ``other`` does not have."""
        return [name for name in self.labels if self.name_in(other, name) is None]

    def remap(
        self, label_map: npt.ArrayLike, to: LabelOrder, *, drop: Collection[str] | Literal["all"] = ()
    ) -> npt.NDArray[Any]:
        """Says the same in the integers of another order.

        Args:
            label_map: Integers of this order, any shape. Floating-point arrays of whole numbers are accepted, because
                NIfTI headers with a scale factor produce them.
            to: The order to translate into.
            drop: Names or aliases of classes that may become background; ``"all"`` for whatever ``to`` lacks.

        Returns:
            An array of the same shape, of the smallest unsigned integer type that holds ``to``.

        Raises:
            UserError: The label map holds an integer that this order does not know, or a class that ``to`` does not
                have and that ``drop`` does not name.
        """
        integers = as_integers(label_map)
        table, lost = self._lookup_table(to, drop)
        dtype = table.dtype
        if integers.size == 0:
            return integers.astype(dtype)
        lowest, highest = int(integers.min()), int(integers.max())
        if lowest < 0 or highest >= len(table):
            bad = lowest if lowest < 0 else highest
            raise UserError(
                f"Expected the integers of {self.name} in the label map, but found {bad}; name the order the label map "
                "is really in."
            )
        if lost:
            marks = np.zeros(len(table), dtype=bool)
            marks[list(lost)] = True
            if marks[integers].any():
                self._explain_loss(integers, lost, to)
        return table[integers]

    def _lookup_table(
        self, to: LabelOrder, drop: Collection[str] | Literal["all"]
    ) -> tuple[npt.NDArray[Any], dict[int, frozenset[str] | None]]:
        """Target integer of each source integer, and the integers that cannot be translated with the classes at stake.

        An integer stands for a set of classes (one, unless classes overlap); it becomes the integer that stands for the
        same set in the other order.
        """
        dropped = set(self.missing_in(to)) if drop == "all" else {self._own_name(name) for name in drop}
        target_values = {names: value for value, names in to.classes_of_value.items()}
        top = max((*self.classes_of_value, self.ignore_label or 0))
        table = np.zeros(top + 1, dtype=np.min_scalar_type(max((*to.classes_of_value, to.ignore_label or 0))))
        lost: dict[int, frozenset[str] | None] = dict.fromkeys(range(1, top + 1))
        for value, names in self.classes_of_value.items():
            kept = names - dropped
            translated = [self.name_in(to, name) for name in kept]
            target = target_values.get(frozenset(name for name in translated if name is not None))
            if not kept or (None not in translated and target is not None):
                table[value] = target or 0
                del lost[value]
            else:
                lost[value] = frozenset(
                    name for name, other in zip(kept, translated, strict=True) if other is None
                ) or frozenset(kept)
        if self.ignore_label is not None and to.ignore_label is not None:
            table[self.ignore_label] = to.ignore_label
            del lost[self.ignore_label]
        return table, lost

    def _own_name(self, name_or_alias: str) -> str:
        name = self.find(name_or_alias)
        if name is None:
            raise UserError(f"Expected classes of {self.name} to drop, but {name_or_alias!r} is none of its classes.")
        return name

    def _explain_loss(
        self, integers: npt.NDArray[Any], lost: Mapping[int, frozenset[str] | None], to: LabelOrder
    ) -> None:
        present = [int(value) for value in np.unique(integers) if int(value) in lost]
        unknown = [value for value in present if lost[value] is None and value != self.ignore_label]
        if unknown:
            raise UserError(
                f"Expected the integers of {self.name} in the label map, but found {listed(unknown)}; name the order "
                "the label map is really in."
            )
        if self.ignore_label in present:
            raise UserError(
                f"Expected an ignore label in {to.name}, because the label map has voxels that {self.name} ignores; "
                "choose an order with an ignore label."
            )
        names = sorted(set().union(*(lost[value] or frozenset() for value in present)))
        raise UserError(
            f"Expected classes of {to.name}, but the label map has {listed(names)}, which {to.name} cannot express; "
            "drop them by name if that is meant."
        )

    def subset(self, names: Iterable[str]) -> LabelOrder:
        """The order with only the given classes (names or aliases), which keep their integers."""
        kept = {self._own_name(name) for name in names}
        sections = ("labels", "aliases", "colors", "plausible_intensities", "codes")
        of_kept: dict[str, Any] = {
            section: {name: value for name, value in getattr(self, section).items() if name in kept}
            for section in sections
        }
        pairs = tuple(pair for pair in self.left_right_pairs if kept.issuperset(pair))
        regions = {name: parts for name, parts in self.regions.items() if kept.issuperset(parts)}
        return replace(self, left_right_pairs=pairs, regions=regions, sources={}, **of_kept)

    def consecutive(self) -> LabelOrder:
        """The order with its integers closed up to 1, 2, 3 ..., as nnU-Net wants them; the ignore label comes last."""
        new = {old: value for value, old in enumerate(self.values, start=1)}
        closed: dict[str, LabelValue] = {
            name: new[value] if isinstance(value, int) else tuple(new[integer] for integer in value)
            for name, value in self.labels.items()
        }
        ignore = None if self.ignore_label is None else len(new) + 1
        return replace(self, labels=closed, ignore_label=ignore)

    def to_json(self) -> dict[str, Any]:
        """The content of a ``label_orders`` file."""
        content = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value for name, value in content.items() if value is not None and (value or name in _REQUIRED)}

    def nnunet_labels(self) -> dict[str, int | list[int]]:
        """``labels`` for a ``dataset.json``: background, the classes by their integers, and the ignore label last."""
        labels: dict[str, int | list[int]] = {BACKGROUND: 0}
        for name, value in self.labels.items():
            labels[name] = value if isinstance(value, int) else list(value)
        if self.ignore_label is not None:
            labels[IGNORE] = self.ignore_label
        return labels


_REQUIRED = {"name", "description", "source", "licence", "labels", "aliases", "left_right_pairs", "colors"}


def list_label_orders() -> list[str]:
    """Names of the label orders that ship with the package."""
    return list_resources("label_orders")


def as_integers(label_map: npt.ArrayLike) -> npt.NDArray[Any]:
    """The label map as an array of an integer type, without a copy where it has one already.

    Raises:
        UserError: It holds NaN, infinity or fractions.
    """
    array = np.asarray(label_map)
    if array.dtype.kind in "ui":
        return array
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    rounded = np.rint(array)
    with np.errstate(invalid="ignore"):
        # A scale factor in the header may leave 2.0000002; NaN and infinity fail this comparison too.
        whole = (np.abs(array - rounded) <= _ROUNDING) & (np.abs(rounded) <= np.iinfo(np.int32).max)
    if not whole.all():
        odd = array[~whole].flat[0]
        raise UserError(
            f"Expected whole numbers in the label map, but found {odd}; it may be an image or probabilities."
        )
    return rounded.astype(np.int32)
