"""Largest connected components: nnU-Net's postprocessing of finished label maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Integer

from nnunetv2_ext.checkpoints.plain_pickle import PlainUnpickler
from nnunetv2_ext.inference.deciding.outputs import OutputMap, OutputPlan
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.validation import check, integer, list_of

_NNUNETS = "nnunetv2.postprocessing.remove_connected_components.remove_all_but_largest_component_from_segmentation"


class _Unpickler(PlainUnpickler):
    # The one function that nnU-Net's file names, as its name.
    names: ClassVar[dict[str, Any]] = {**PlainUnpickler.names, _NNUNETS: _NNUNETS}


@dataclass(frozen=True)
class LargestComponents:
    """Keeps the largest connected component of labels.

    Attributes:
        steps: For every output, by name: sets of labels, each of which is one structure, one after the other.
    """

    steps: Mapping[str, tuple[tuple[int, ...], ...]]

    def __call__(self, labels: Integer[np.ndarray, "z y x"], output: OutputMap) -> Integer[np.ndarray, "z y x"]:
        """A label map in which all other components are background."""
        from nnunetv2.postprocessing import remove_connected_components

        for together in self.steps.get(output.name, ()):
            labels = remove_connected_components.remove_all_but_largest_component_from_segmentation(labels, [*together])
        return labels


def keep_largest_of(plan: OutputPlan, classes: Iterable[str]) -> LargestComponents:
    """Of each of some classes; what is painted over them does not count.

    Raises:
        UserError: A class is not written.
    """
    written = {name for output in plan.maps for name in output.names.values()}
    if unknown := sorted(set(classes) - written):
        raise UserError(
            f"Expected classes that are written ({', '.join(sorted(written))}) for --keep_largest, but got "
            f"{', '.join(unknown)}."
        )
    return LargestComponents(
        {
            output.name: tuple(
                output.parts.get(value, (value,)) for value, name in output.names.items() if name in set(classes)
            )
            for output in plan.maps
        }
    )


def read_postprocessing(file: Path, plan: OutputPlan) -> LargestComponents:
    """What ``nnUNetv2_determine_postprocessing`` found, from its ``postprocessing.pkl``; nothing in it is executed.

    Raises:
        UserError: The file is missing or another one, or other than merged label maps are written.
    """
    if plan.kind != "merged":
        raise UserError(f"Expected merged label maps for -pp_pkl_file, but got {plan.kind}.")
    try:
        with file.open("rb") as opened:
            functions, options = _Unpickler(opened).load()
        if set(functions) - {_NNUNETS}:
            raise ValueError("other functions")
    except FileNotFoundError:
        raise UserError(f"Expected nnU-Net's postprocessing in {file}, but it does not exist.") from None
    except Exception as error:
        # Damaged pickles raise almost anything.
        raise UserError(
            f"Expected nnU-Net's postprocessing (postprocessing.pkl) in {file}, but it holds something else "
            f"({' '.join(str(error).split())[:100]})."
        ) from None
    steps = []
    for given in options:
        labels = given.get("labels_or_regions") if isinstance(given, dict) else None
        parts = labels if isinstance(labels, list) else [labels]
        together = [value for part in parts for value in (part if isinstance(part, tuple) else (part,))]
        check(together, list_of(integer(0)), file)
        steps.append(tuple(map(int, together)))
    return LargestComponents({"": tuple(steps)})
