"""What became of a case, and of all of them, as it is noted while a dataset is written and told in its report."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nnunetv2_ext import __version__
from nnunetv2_ext.dataset_conversion.duplicates import DuplicateGroup, ImageFingerprint
from nnunetv2_ext.dataset_conversion.findings import KINDS, BadCaseError, Finding
from nnunetv2_ext.dataset_conversion.layout import Case
from nnunetv2_ext.dataset_conversion.splits import Splits
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
    "orientation": text(),
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
#: What the record of a case must look like when it is read back; earlier versions did not note orientations.
RECORD = entries(_RECORD, needed=_RECORD.keys() - {"orientation"}, closed=True)


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
        orientation: See `Grid.orientation`; empty where it is not known.
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
    orientation: str = ""
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


@dataclass(frozen=True)
class ConversionResult:
    """What came of a conversion.

    Attributes:
        folder: The nnU-Net raw dataset.
        records: All cases, those that failed included.
        duplicates: Cases that show the same image.
        splits: Content of ``splits_final.json``; empty where there is none.
    """

    folder: Path
    records: tuple[CaseRecord, ...]
    duplicates: tuple[DuplicateGroup, ...] = ()
    splits: Splits = field(default_factory=list)

    @property
    def converted(self) -> list[CaseRecord]:
        """Cases that are in the dataset."""
        return [record for record in self.records if not record.failed]

    @property
    def failed(self) -> list[CaseRecord]:
        """Cases that are not, with the reason as their last finding."""
        return [record for record in self.records if record.failed]

    @property
    def placed(self) -> Counter[str]:
        """How many image files came into the dataset in which way."""
        return Counter(how for record in self.converted for how in record.placed)

    @property
    def orientations(self) -> Counter[str]:
        """How many cases lie in which orientation (`Grid.orientation`)."""
        return Counter(record.orientation or "not known" for record in self.converted)

    @property
    def orientation(self) -> str | None:
        """The one of all cases for training; None where they differ or one is not known."""
        found = {record.orientation for record in self.converted if record.split != "test"}
        return found.pop() or None if len(found) == 1 else None

    @property
    def mixed_orientations(self) -> str:
        """A sentence where cases for training lie differently; else empty."""
        if self.orientation is not None or len(self.orientations) < 2:
            return ""
        listed = ", ".join(f"{number} {name}" for name, number in sorted(self.orientations.items()))
        return (
            f"Images lie differently ({listed}), and nnU-Net takes voxels in the order of their files; --orientation "
            "RAS (or another) turns all of them to it, and notes it for predictions."
        )

    def report(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The content of the report that lies beside dataset.json."""
        voxels: Counter[str] = Counter()
        cases: Counter[str] = Counter()
        kinds: Counter[str] = Counter()
        for record in self.records:
            kinds.update({finding.kind for finding in record.findings})
            if not record.failed:
                voxels.update(record.voxels)
                cases.update(name for name, count in record.voxels.items() if count)
        return {
            "settings": settings,
            "version": __version__,
            "converted": len(self.converted),
            "failed": {record.identifier: record.findings[-1].message for record in self.failed},
            "findings": dict(kinds),
            "image_files": dict(self.placed),
            "orientations": dict(self.orientations),
            "duplicates": [{"cases": list(group.cases), "identical": group.identical} for group in self.duplicates],
            "classes": {name: {"voxels": voxels[name], "cases": cases[name]} for name in voxels},
            "cases": {record.identifier: record.to_json() for record in self.records},
        }


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
