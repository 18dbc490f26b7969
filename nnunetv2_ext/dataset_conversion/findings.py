"""What can be odd about a case, and how serious it is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from nnunetv2_ext.utilities.errors import UserError

NOTE, WARNING, ERROR = "note", "warning", "error"


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        severity: A case with an error is not converted; a warning becomes an error with ``--strict``.
        acceptable: Whether ``--accept`` can turn the error into a warning.
        meaning: One line for the documentation.
    """

    severity: str
    meaning: str
    acceptable: bool = False


KINDS: dict[str, Kind] = {
    "incomplete": Kind(ERROR, "an image without its label, or a label without its image"),
    "unreadable": Kind(
        ERROR, "a file that is truncated, damaged, of the wrong kind, or of voxels or a geometry that cannot be"
    ),
    "grids_differ": Kind(ERROR, "image and label lie on different grids (see --resample_labels)"),
    "unknown_values": Kind(ERROR, "the label map has integers that the label order does not know"),
    "missing_masks": Kind(ERROR, "some classes have no mask file in this case", acceptable=True),
    "not_a_number": Kind(ERROR, "the image has NaN or infinite voxels (accepted: set to its minimum)", acceptable=True),
    "mirrored": Kind(ERROR, "most left structures lie to the right of their partners", acceptable=True),
    "outside_crop": Kind(ERROR, "most of the annotation lies outside the published crop", acceptable=True),
    "implausible": Kind(
        ERROR, "the image under the label is not what its classes can be in a CT (HU)", acceptable=True
    ),
    "pair_swapped": Kind(WARNING, "single left structures lie to the right of their partners"),
    "empty_label": Kind(WARNING, "no voxel of the label map belongs to any class"),
    "constant_image": Kind(WARNING, "all voxels of the image are equal"),
    "duplicate": Kind(WARNING, "another case has the same image"),
    "overlapping_masks": Kind(WARNING, "masks that should exclude each other overlap (the last one wins)"),
    "axes_mended": Kind(WARNING, "the axes in the header were not at right angles"),
    "resampled": Kind(NOTE, "the label map was resampled onto the image, as asked"),
    "label_placed": Kind(NOTE, "the label map took the image's grid, because this dataset's label headers are wrong"),
    "label_turned": Kind(NOTE, "the label map was turned front to back: only so the image under it is plausible"),
    "values_rewritten": Kind(NOTE, "integers without a class became another class or background, as documented"),
}

ACCEPTABLE = tuple(name for name, kind in KINDS.items() if kind.acceptable or kind.severity == WARNING)


@dataclass(frozen=True)
class Finding:
    """One odd thing about one case, said in one sentence."""

    kind: str
    message: str


class BadCaseError(UserError):
    """A case that cannot be converted."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.finding = Finding(kind, message)


def severity(kind: str, *, strict: bool, accepted: Collection[str]) -> str:
    """How serious a kind of finding is under the user's settings."""
    known = KINDS[kind]
    if kind in accepted:
        return WARNING
    return ERROR if strict and known.severity == WARNING else known.severity
