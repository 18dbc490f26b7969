"""What became of a case, as it is noted while a dataset is written and told in its report."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from nnunetv2_ext.dataset_conversion.duplicates import ImageFingerprint
from nnunetv2_ext.dataset_conversion.findings import KINDS, BadCaseError, Finding
from nnunetv2_ext.dataset_conversion.layout import Case
from nnunetv2_ext.labels.atoms import Combination
from nnunetv2_ext.utilities.validation import (
    choice,
    either,
    entries,
    flag,
    integer,
    list_of,
    mapping_of,
    nullable,
    number,
    text,
)

# How an image came into a dataset.
HARD_LINK, SYMBOLIC_LINK, COPY, REWRITTEN = "hard link", "symbolic link", "copy", "rewritten"

_COUNT = integer(0)
_RECORD = {
    **dict.fromkeys(("identifier", "split", "stamp"), text()),
    "fold": nullable(_COUNT),
    **dict.fromkeys(("sources", "images"), list_of(text())),
    "failed": flag,
    "placed": list_of(choice(HARD_LINK, SYMBOLIC_LINK, COPY, REWRITTEN)),
    "label": nullable(text()),
    "shape": list_of(_COUNT),
    "spacing": list_of(number()),
    "voxels": mapping_of(_COUNT),
    "combinations": list_of(list_of(either(list_of(_COUNT), _COUNT), 2, 2)),
    "fingerprint": nullable(
        entries(
            {"voxel_hash": text(), "shape": list_of(_COUNT), "statistics": list_of(number())},
            needed=("voxel_hash", "shape", "statistics"),
        )
    ),
    "findings": list_of(entries({"kind": choice(*KINDS), "message": text()}, needed=("kind", "message"), closed=True)),
}
#: What the record of a case must look like when it is read back.
RECORD = entries(_RECORD, needed=tuple(_RECORD), closed=True)


@dataclass
class CaseRecord:
    """What became of one case; the entry of the conversion report.

    Attributes:
        identifier: Name of the case.
        split: ``"train"``, ``"val"`` or ``"test"``.
        fold: Fold whose validation set it belongs to, where the source says so.
        stamp: Tells whether anything that it was made from has changed since (`stamp_of`).
        sources: The files it was made from, masks left out.
        images: Its image files, relative to the dataset.
        placed: How each of them came there.
        label: Its label file, relative to the dataset; None where it has none.
        shape: Voxels (z, y, x).
        spacing: mm (z, y, x).
        voxels: Class -> number of voxels.
        combinations: (indices of classes, voxels) for every combination of overlapping masks.
        fingerprint: What tells whether two cases show the same image.
        findings: Everything odd.
        failed: Whether it was not converted.
    """

    identifier: str
    split: str
    fold: int | None = None
    stamp: str = ""
    sources: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    placed: list[str] = field(default_factory=list)
    label: str | None = None
    shape: list[int] = field(default_factory=list)
    spacing: list[float] = field(default_factory=list)
    voxels: dict[str, int] = field(default_factory=dict)
    combinations: list[tuple[Combination, int]] = field(default_factory=list)
    fingerprint: ImageFingerprint | None = None
    findings: list[Finding] = field(default_factory=list)
    failed: bool = False

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> CaseRecord:
        """Reads what `to_json` wrote."""
        findings = [Finding(**entry) for entry in content.pop("findings")]
        combinations = [(tuple(indices), count) for indices, count in content.pop("combinations")]
        seen = content.pop("fingerprint")
        fingerprint = seen and ImageFingerprint(seen["voxel_hash"], tuple(seen["shape"]), tuple(seen["statistics"]))
        return cls(**content, findings=findings, combinations=combinations, fingerprint=fingerprint)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, case: Case) -> CaseRecord:
        """The record of a case before its conversion."""
        # A series has hundreds of slices, in one folder.
        images = [case.images[0].parent] if case.annotations and case.images else case.images
        sources = [str(path) for path in (*images, *([case.label] if case.label else []), *case.annotations)]
        return cls(case.identifier, case.split, case.fold, stamp_of(case), sources)

    @property
    def files(self) -> list[str]:
        """Its files, relative to the dataset."""
        return [*self.images, *([self.label] if self.label else [])]

    def fail(self, error: Exception) -> None:
        """Notes why the case is not in the dataset."""
        self.findings.append(error.finding if isinstance(error, BadCaseError) else Finding("unreadable", str(error)))
        self.failed = True

    @property
    def overlaps(self) -> bool:
        """Whether several classes share a voxel and the label map therefore depends on all cases."""
        return any(len(indices) > 1 for indices, _ in self.combinations)


def stamp_of(case: Case) -> str:
    """Changes with the case's place in the dataset, its crop, and the names, sizes and times of all its files."""
    paths = [*case.images, *([case.label] if case.label else []), *case.masks.values(), *case.annotations]
    noted: list[Any] = [case.split, case.fold, case.crop, case.values, sorted(case.masks)]
    for path in paths:
        try:
            # The voxels of .mhd and .nhdr lie in a file of their own.
            beside = path.parent.glob(f"{path.stem}.*") if path.suffix in (".mhd", ".nhdr") else [path]
            for file in sorted(path.rglob("*") if path.is_dir() else beside):
                status = file.stat()
                noted.append((os.path.abspath(file), status.st_size, status.st_mtime_ns))
        except OSError as error:
            # What cannot be read is told by who reads it.
            noted.append((os.path.abspath(path), error.errno))
    return hashlib.blake2b(repr(noted).encode(), digest_size=16).hexdigest()
