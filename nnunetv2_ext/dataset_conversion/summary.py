"""What a conversion tells its user in a terminal."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from nnunetv2_ext.dataset_conversion.case_record import SYMBOLIC_LINK, ConversionResult
from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.findings import KINDS
from nnunetv2_ext.dataset_conversion.layout import named_cases

# How many bad cases are listed; the report has them all.
_MOST = 20


def describe_cases(converter: DatasetConverter) -> str:
    """What a conversion would find, without reading a voxel."""
    cases = named_cases(converter.cases())
    good = [case for case in cases if not case.problem]
    splits = Counter(case.split for case in good)
    counts = ", ".join(f"{splits[split]} {split}" for split in ("train", "val", "test") if splits[split])
    lines = [f"{converter.name}: {len(good)} complete cases ({counts or 'none'}) in {converter.source}"]
    if good:
        lines.append(f"names: {', '.join(case.identifier for case in good[:5])}{' ...' if len(good) > 5 else ''}")
    lines.append(f"channels: {', '.join(converter.channels())}")
    names = converter.target_order.names
    lines.append(f"{len(names)} classes: {', '.join(names[:12])}{' ...' if len(names) > 12 else ''}")
    lines += _listed([f"{case.identifier}: {case.problem}" for case in cases if case.problem])
    return "\n".join(lines)


def describe_result(converter: DatasetConverter, result: ConversionResult) -> str:
    """How many cases were converted, what was odd, and every case that was not, with the reason."""
    lines = [f"{len(result.converted)} of {len(result.records)} cases are in {result.folder}."]
    kinds = Counter(kind for record in result.converted for kind in {finding.kind for finding in record.findings})
    lines += [f"{count} case(s): {KINDS[kind].meaning}." for kind, count in kinds.most_common()]
    if result.failed:
        lines.append(f"{len(result.failed)} case(s) could not be converted:")
        lines += _listed([f"{record.identifier}: {record.findings[-1].message}" for record in result.failed])
    lines += [result.mixed_orientations] if result.mixed_orientations else []
    if links := result.placed[SYMBOLIC_LINK]:
        lines.append(
            f"{links} image(s) are symbolic links into {converter.source}, and lost when that is moved or deleted; "
            "run the command again with --copy_images to copy them."
        )
    lines.append(f"Details: {result.folder / converter.report_file}")
    lines.append(offer_page(result.folder))
    return "\n".join(lines)


def offer_page(folder: Path) -> str:
    """Names the command that shows a dataset."""
    return f"To look at it: nnUNetv2_ext_report {int(folder.name[len('Dataset') : len('DatasetXXX')])}"


def _listed(items: list[str]) -> list[str]:
    shown = [f"  {item}" for item in items[:_MOST]]
    return shown + ([f"  and {len(items) - _MOST} more"] if len(items) > _MOST else [])
