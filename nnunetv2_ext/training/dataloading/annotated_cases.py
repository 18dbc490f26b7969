"""What a loader needs to know of a collection: which classes each case annotates and how often to draw it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunetv2_ext.labels.partial_labels import PartialLabels

#: How nnU-Net's preprocessing names a class in ``class_locations``: its entry of ``labels`` as a tuple.
Region = tuple[int, ...]


def sampling_probabilities(partial_labels: PartialLabels, cases: Sequence[str]) -> npt.NDArray[np.float64]:
    """How often each case is drawn: proportional to ``1 / sqrt(n)`` with `n` cases of its source among ``cases``.

    Ulrich et al., MultiTalent, MICCAI 2023, section 2.2.4: between drawing cases uniformly, which starves small
    sources, and drawing sources uniformly, which repeats their few cases too often.

    Args:
        partial_labels: The collection.
        cases: Training (or validation) cases of the fold.

    Returns:
        Shape (cases,), summing to 1.

    Raises:
        UserError: A case belongs to no source.
    """
    sources = [partial_labels.source_of(case) for case in cases]
    counts = Counter(sources)
    weights = np.array([counts[source] ** -0.5 for source in sources])
    return weights / weights.sum()


class AnnotatedCases:
    """nnU-Net's dataset, with foreground locations of the classes that a case annotates and of no others.

    A label value may belong to classes of several sources (a region that sources share); centring patches on a class
    that the case does not annotate would waste the draw. Wrapping `load_case` leaves nnU-Net's choice of the patch
    untouched. Holds plain containers only, so that loaders reach spawned workers.

    Args:
        dataset: An nnU-Net dataset (`nnUNetBaseDataset`).
        partial_labels: The collection.
        regions: ``label_manager.foreground_regions``: one per class, in the order of the output channels.

    Raises:
        UserError: A case belongs to no source.
    """

    def __init__(self, dataset: Any, partial_labels: PartialLabels, regions: Sequence[Region]) -> None:
        self._dataset = dataset
        self._annotated = {case: partial_labels.annotated(case) for case in dataset.identifiers}
        self._regions = [tuple(region) for region in regions]
        self._foreground = set(self._regions)

    @property
    def identifiers(self) -> list[str]:
        """The cases."""
        cases: list[str] = self._dataset.identifiers
        return cases

    def annotated(self, case: str) -> npt.NDArray[np.bool_]:
        """Which classes a case annotates, shape (classes,)."""
        return self._annotated[case]

    def load_case(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Image, label map, label map of a previous stage and properties of a case, as nnU-Net's datasets return."""
        image, label_map, previous, properties = self._dataset.load_case(identifier)
        annotated = {self._regions[index] for index in np.flatnonzero(self._annotated[identifier])}
        # nnU-Net adds further entries (all annotated voxels, where there is an ignore label), which stay.
        unwanted = self._foreground - annotated
        locations = {key: where for key, where in properties["class_locations"].items() if key not in unwanted}
        return image, label_map, previous, {**properties, "class_locations": locations}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_dataset":  # while unpickling nothing is there to ask
            raise AttributeError(name)
        return getattr(self._dataset, name)
