"""Which classes are scored, and which integers they have in references and in predictions.

Names decide, integers follow: references and predictions may use different orders.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunetv2_ext.evaluation.metrics import DEFAULT_TOLERANCE_MM, ScoredClass
from nnunetv2_ext.labels.dataset_json import read_dataset_json
from nnunetv2_ext.labels.label_mapping import LabelMapping
from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.labels.label_tree import BACKGROUND
from nnunetv2_ext.labels.label_tree import SECTION as LABEL_TREE
from nnunetv2_ext.labels.partial_labels import SECTION, PartialLabels
from nnunetv2_ext.labels.tree_sources import DeterminedNodes, TreeSources
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.names import quoted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class References:
    """What the label maps of the reference folder mean.

    Attributes:
        classes: What is scored.
        ignore_label: Value of voxels that count for nothing, or ``None``.
        explained: Every value that may occur in the references.
        partial_labels: Which case annotates which class; ``None`` where every case annotates all.
        default_order: The order that predictions have unless something else is known.
        default_is_a_guess: Whether that is not the order of the references themselves.
    """

    classes: tuple[ScoredClass, ...]
    ignore_label: int | None
    explained: frozenset[int]
    partial_labels: PartialLabels | DeterminedNodes | None
    default_order: LabelOrder
    default_is_a_guess: bool = False

    def with_choice(
        self, classes: Sequence[str] | None, tolerances: Mapping[str, float], lesions: Sequence[str]
    ) -> References:
        """The same, with what the user asks for; see `evaluate_folder`.

        Raises:
            UserError: A name is none of a class.
        """
        wanted = self._named(classes) if classes is not None else {reference.name for reference in self.classes}
        counted = self._named(lesions)
        allowed = {name: mm for wish, mm in tolerances.items() for name in self._named([wish])}
        chosen = (
            replace(
                reference,
                wanted=reference.name in wanted,
                tolerance=allowed.get(reference.name, DEFAULT_TOLERANCE_MM),
                lesions=reference.name in counted,
            )
            for reference in self.classes
        )
        return replace(self, classes=tuple(chosen))

    def _named(self, wishes: Iterable[str]) -> set[str]:
        """The classes of these names; of several sources where the name says none."""
        names = [reference.name for reference in self.classes]
        found = set[str]()
        for wish in wishes:
            alike = [wish] if wish in names else [name for name in names if name.rpartition("/")[2] == wish]
            if not alike:
                raise UserError(f"Expected the name of a class ({', '.join(names)}), but got {quoted(wish)}.")
            found.update(alike)
        return found


def find_dataset_json(folder: Path) -> Path | None:
    """The dataset.json that describes a folder of label maps: in it or beside it (labelsTr, gt_segmentations)."""
    return next((file for file in (folder / "dataset.json", folder.parent / "dataset.json") if file.is_file()), None)


def read_references(
    folder: Path, *, dataset_json: Path | None = None, order: str | None = None, mapping: str | None = None
) -> References:
    """Finds out what the references mean.

    Args:
        folder: The reference label maps.
        dataset_json: File that describes them; by default the one in or beside the folder.
        order: Label order that describes them instead.
        mapping: Name of a direct-inference table that says what is compared with what.

    Raises:
        UserError: Nothing describes the references, or the description contradicts itself.
    """
    if order is not None:
        return _from_order(LabelOrder.read(order))
    dataset_json = dataset_json or find_dataset_json(folder)
    content = read_dataset_json(dataset_json) if dataset_json else None
    if mapping is not None:
        return _from_mapping(LabelMapping.read(mapping), content, dataset_json)
    if content is None or dataset_json is None:
        raise UserError(
            f"Expected a dataset.json in or beside {folder}, but found none; say what the label values mean with "
            "-djfile, --order or --mapping."
        )
    return _from_dataset_json(content, dataset_json)


def read_prediction_order(folder: Path, references: References, named: str | None = None) -> LabelOrder:
    """What the label maps of a prediction folder mean.

    Args:
        folder: The predictions; a dataset.json (nnU-Net writes one there) or labels.json in it is taken at its word.
        references: Say what is used where the folder says nothing.
        named: A label order that is used instead.
    """
    if named is not None:
        return LabelOrder.read(named)
    file = folder / "dataset.json"
    if file.is_file():
        return LabelOrder.from_dataset_json(read_dataset_json(file), file)
    file = folder / "labels.json"
    if file.is_file():
        return LabelOrder.from_dataset_json({"name": folder.name, **read_dataset_json(file)}, file)
    level = logging.WARNING if references.default_is_a_guess else logging.INFO
    message = "Nothing in %s says what its label values mean; they are read in the order %s (see --pred_order)."
    logger.log(level, message, folder, references.default_order.name)
    return references.default_order


def explained_by(order: LabelOrder) -> frozenset[int]:
    """The values that an order gives a meaning: its classes, background and the ignore label."""
    return frozenset((0, *order.values, *(() if order.ignore_label is None else (order.ignore_label,))))


def match_classes(classes: Sequence[ScoredClass], predictions: LabelOrder) -> list[ScoredClass]:
    """Gives every reference class its label values in the predictions; classes that they do not have are left out.

    A predicted class also counts where a class drawn on top of it hides it: in a label map whose liver is 1 and whose
    tumour is 2, the liver is 1 and 2 if the references say that it contains the tumour.
    """
    own: dict[str, tuple[int, ...]] = {}
    for reference in classes:
        found = [_find(predictions, name) for name in reference.predicted_as]
        if None not in found:
            values = {value for name in found if name is not None for value in _integers(predictions.labels[name])}
            own[reference.name] = tuple(sorted(values))
    with_value: dict[int, list[ScoredClass]] = {}
    for reference in classes:
        if reference.name in own:
            for value in reference.reference:
                with_value.setdefault(value, []).append(reference)
    scored = []
    for reference in classes:
        if reference.name not in own:
            continue
        others = {other.name: other for value in reference.reference for other in with_value[value]}
        inner = (other for other in others.values() if set(other.reference) < set(reference.reference))
        values = {value for other in inner for value in own[other.name]} | set(own[reference.name])
        if reference.wanted:
            scored.append(replace(reference, prediction=tuple(sorted(values))))
    if not scored:
        wanted = sorted({name for reference in classes if reference.wanted for name in reference.predicted_as})
        raise UserError(
            f"Expected predictions with classes such as {', '.join(wanted[:5])}, but {predictions.name} has "
            f"{', '.join(list(predictions.names)[:5])}; name their order with --pred_order."
        )
    return scored


def find_name(wanted: str, names: Iterable[str]) -> str | None:
    """``wanted`` itself, or the only name that is equal to it but for the source in front (``<source>/<class>``)."""
    names = list(names)
    if wanted in names:
        return wanted
    alike = [name for name in names if name.rpartition("/")[2] == wanted.rpartition("/")[2]]
    # Two sources that annotate the same structure are two classes; only a name without source may stand for either.
    alike = [name for name in alike if "/" not in name or "/" not in wanted]
    return alike[0] if len(alike) == 1 else None


def _find(order: LabelOrder, name: str) -> str | None:
    return order.find(name) or find_name(name, order.names)


def _from_dataset_json(content: Mapping[str, Any], file: Path) -> References:
    order = LabelOrder.from_dataset_json(content, file)
    if LABEL_TREE in content:
        return _from_label_tree(TreeSources.from_dataset_json(content), order)
    keys = {name: str(tuple(v)) if isinstance(v, list) else str(v) for name, v in content["labels"].items()}
    classes = tuple(
        ScoredClass(name, keys[name], _integers(value), predicted_as=(name,)) for name, value in order.labels.items()
    )
    partial_labels = PartialLabels.from_dataset_json(content) if SECTION in content else None
    return References(_with_own_keys(classes), order.ignore_label, explained_by(order), partial_labels, order)


def _from_label_tree(sources: TreeSources, order: LabelOrder) -> References:
    """Every node but the background, inner ones with all that lies below them, where a case determines it."""
    classes = []
    for name, row in zip(sources.tree.names, sources.region_table(), strict=True):
        if name != BACKGROUND:
            values = tuple(int(value) for value in row.nonzero()[0])
            classes.append(ScoredClass(name, _key(values), values, predicted_as=(name,)))
    explained = explained_by(order)
    return References(_with_own_keys(tuple(classes)), order.ignore_label, explained, sources.determined(), order)


def _from_order(order: LabelOrder) -> References:
    # Where the field evaluates a union under the name of one of its parts (liver with tumour), it takes the name.
    parts_of = {name: (name,) for name in order.labels} | dict(order.regions)
    classes = []
    for name, parts in parts_of.items():
        values = tuple(sorted({value for part in parts for value in _integers(order.labels[part])}))
        classes.append(ScoredClass(name, _key(values), values, predicted_as=tuple(parts)))
    return References(_with_own_keys(classes), order.ignore_label, explained_by(order), None, order)


def _from_mapping(mapping: LabelMapping, content: Mapping[str, Any] | None, file: Path | None) -> References:
    target = mapping.target_order
    if content is not None and file is not None:
        described = LabelOrder.from_dataset_json(content, file)
        names = {name for mapped in mapping.classes for name in mapped.target}
        known = {name for name in names if _target_name(target, name, described) is not None}
        if known == names:
            target = described
        elif known:
            raise UserError(
                f"Expected the classes of {mapping.target_order.name} in {file}, but it lacks "
                f"{', '.join(sorted(names - known))}; name them as label_orders/{mapping.target_order.name}.json does."
            )
        else:
            logger.warning(
                "No class of %s occurs in %s; the references are read with the integers of %s.",
                mapping.name,
                file,
                mapping.target_order.name,
            )
    classes = []
    for mapped in mapping.classes:
        names_there = [_target_name(mapping.target_order, name, target) for name in mapped.target]
        values = tuple(sorted({v for name in names_there if name is not None for v in _integers(target.labels[name])}))
        classes.append(ScoredClass(mapped.name, _key(values), values, predicted_as=mapped.source))
    explained = explained_by(target)
    return References(_with_own_keys(classes), target.ignore_label, explained, None, mapping.source_order, True)


def _target_name(order: LabelOrder, name: str, described: LabelOrder) -> str | None:
    return order.name_in(described, name) or find_name(name, described.names)


def _with_own_keys(classes: Sequence[ScoredClass]) -> tuple[ScoredClass, ...]:
    """Refuses classes with equal label values, which nnU-Net's summary format cannot tell apart."""
    twice = [key for key, count in Counter(reference.key for reference in classes).items() if count > 1]
    if twice:
        names = ", ".join(reference.name for reference in classes if reference.key in twice)
        raise UserError(f"The classes {names} have the same label values {twice[0]} in the references; remove one.")
    return tuple(classes)


def _key(values: tuple[int, ...]) -> str:
    return str(values) if len(values) > 1 else str(values[0])


def _integers(value: Any) -> tuple[int, ...]:
    return tuple(sorted({int(v) for v in value})) if isinstance(value, list | tuple) else (int(value),)
