"""Finding the cases of a dataset by the names of its files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.names import case_names, refuse_equal_names

Split = Literal["train", "val", "test"]

# Fields that tell files of one case apart, instead of cases.
_WITHIN_CASE = ("class", "channel")


@dataclass(frozen=True)
class Case:
    """One patient image of a dataset and where its annotation is.

    Attributes:
        identifier: Name of the case; that in the nnU-Net dataset is made of it by `named_cases`.
        images: One file per channel, one file with all channels, or one DICOM folder; or the slices of a DICOM series,
            in their order, where that has annotations of its own.
        label: Label map, or whatever the dataset's own reader understands (an RTSTRUCT file).
        masks: Class name to the file with the mask of that class.
        annotations: DICOM objects that annotate the series.
        split: ``"train"`` and ``"val"`` go to imagesTr, ``"test"`` to imagesTs.
        fold: The fold whose validation set the case belongs to, where the source says so.
        source: Name of the dataset that a case of a collection comes from; empty where that is not known.
        own_name: What it is called there.
        values: What becomes of the integers of its label map, where that is not the same for all cases.
        crop: Index bounds ``(first, end)`` along x, y, z of the image oriented left, posterior, superior.
        problem: Why the case cannot be converted, in one sentence; empty where nothing is known against it.
    """

    identifier: str
    images: tuple[Path, ...]
    label: Path | None = None
    masks: Mapping[str, Path] = field(default_factory=dict)
    annotations: tuple[Path, ...] = ()
    split: Split = "train"
    fold: int | None = None
    source: str = ""
    own_name: str = ""
    values: Mapping[int, int] | None = None
    crop: tuple[tuple[int, int], ...] | None = None
    problem: str = ""


@dataclass(frozen=True)
class FilePattern:
    """Where the files of a case lie, relative to the dataset's folder.

    A field in braces stands for a part of one folder or file name and tells cases apart; ``*`` stands for anything,
    ``**`` for any folders. ``{class}`` in ``label`` means one mask file per class; ``{channel}`` in ``image`` one file
    per channel. ``.nii.gz`` also finds ``.nii``.

    Attributes:
        image: For example ``"RawData/Training/img/img{case}.nii.gz"``. A DICOM folder where it has no file ending.
        label: The same for label maps or masks; None for a part of the dataset that has no annotation.
        split: Part of the dataset.
        identifier: What the source calls the case, from the fields.
        channels: What ``{channel}`` stands for, in the order of the images, where files that are no channel match, too.
    """

    image: str
    label: str | None = None
    split: Split = "train"
    identifier: str = "{case}"
    channels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for pattern in filter(None, (self.image, self.label)):
            if pattern.startswith("/") or ".." in pattern.split("/"):
                raise UserError(f"Expected a pattern below the dataset's folder, but got {pattern!r}.")

    @property
    def has_masks(self) -> bool:
        """Whether there is one label file per class."""
        return self.label is not None and "{class}" in self.label


def find_root(source: Path, patterns: Sequence[FilePattern], name: str) -> Path:
    """The folder that the patterns are relative to: ``source``, or the one folder in it that holds the dataset.

    Raises:
        UserError: No file matches the first pattern in ``source`` or up to two levels below.
    """
    if not source.is_dir():
        raise UserError(f"Expected the folder of {name} at {source}, but there is none.")
    for depth in ("", "*/", "*/*/"):
        roots = [source] if not depth else [path for path in sorted(source.glob(depth)) if path.is_dir()]
        found = [root for root in roots if any(_has_match(root, pattern.image) for pattern in patterns)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f"Expected one copy of {name} in {source}, but found {', '.join(map(str, found))}; name one of them."
            )
    entries = sorted(entry.name for entry in source.iterdir() if not entry.name.startswith("."))
    raise UserError(
        f"Expected {patterns[0].image} in {source}, which is the layout of {name}, but found "
        f"{', '.join(entries[:6]) or 'nothing'}{' ...' if len(entries) > 6 else ''}."
    )


def find_cases(root: Path, patterns: Sequence[FilePattern], channels: Sequence[str] = ()) -> list[Case]:
    """All cases of all patterns, sorted by pattern and identifier; incomplete ones with the reason in ``problem``.

    Args:
        root: The folder that the patterns are relative to.
        patterns: Where files lie; a test case needs no label.
        channels: What ``{channel}`` stands for, in the order of the images; numbers stand for places in that order.
    """
    return [case for pattern in patterns for case in _cases_of(root, pattern, channels)]


def named_cases(cases: Sequence[Case]) -> list[Case]:
    """Cases under the names that they get in the nnU-Net dataset.

    Raises:
        UserError: Two cases have one name.
    """
    refuse_equal_names((case.identifier, next(iter(case.images), Path(case.identifier))) for case in cases)
    names = case_names(case.identifier for case in cases)
    return [replace(case, identifier=names[case.identifier]) for case in cases]


def annotated_only(cases: Sequence[Case]) -> list[Case]:
    """Leaves out images that nobody annotated, for labels of part of a larger collection of images.

    A label whose image is in none of the places that the patterns name stays, once, with its problem.
    """
    complete = {case.identifier: case for case in cases if not case.problem}
    orphans = {case.identifier: case for case in cases if not case.images and case.identifier not in complete}
    return [*complete.values(), *orphans.values()]


def _cases_of(root: Path, pattern: FilePattern, channels: Sequence[str]) -> Iterator[Case]:
    images = _files(root, pattern.image)
    labels = _files(root, pattern.label) if pattern.label else {}
    for key in sorted(images):
        fields = dict(key)
        found = labels.get(key, {})
        problem = ""
        ordered, found_channels = images[key], ", ".join(sorted(images[key]))
        if "{channel}" in pattern.image:
            wanted = pattern.channels or channels
            named = {name: file for name, file in images[key].items() if not pattern.channels or name in wanted}
            ordered = _by_channel(named, wanted)
            if not ordered:
                problem = f"Expected one file for each of the channels {', '.join(wanted)}, but found {found_channels}."
        if not problem and pattern.label and not found and pattern.split != "test":
            expected = pattern.label
            for name, value in fields.items():
                expected = expected.replace(f"{{{name}}}", value)
            problem = f"Expected its label at {expected}, but there is none."
        yield Case(
            pattern.identifier.format_map(fields),
            tuple(ordered.values()),
            label=found.get("") if not pattern.has_masks else None,
            masks=found if pattern.has_masks else {},
            split=pattern.split,
            problem=problem,
        )
    for key in sorted(labels.keys() - images.keys()):
        first = next(iter(labels[key].values()))
        yield Case(
            pattern.identifier.format_map(dict(key)),
            (),
            split=pattern.split,
            problem=f"Expected an image for the label {first.relative_to(root)}, but there is none.",
        )


def _by_channel(files: Mapping[str, Path], channels: Sequence[str]) -> dict[str, Path]:
    """The files in the order of the channels; empty where they are those of other ones."""
    if all(name.isdecimal() for name in files):
        named = dict(zip(channels, sorted(files, key=int), strict=False))
    else:
        named = {channel: name for channel in channels for name in files if name.casefold() == channel.casefold()}
    fits = len(named) == len(channels) == len(files)
    return {channel: files[named[channel]] for channel in channels} if fits else {}


def _files(root: Path, template: str) -> dict[tuple[tuple[str, str], ...], dict[str, Path]]:
    """Fields that tell cases apart -> class or channel (empty where there is none) -> file."""
    expression = re.compile(_expression(template))
    matches = [
        (expression.fullmatch(path.relative_to(root).as_posix()), path) for path in matching_files(root, template)
    ]
    refuse_equal_names(("/".join(match.groupdict().values()), path) for match, path in matches if match)
    found: dict[tuple[tuple[str, str], ...], dict[str, Path]] = {}
    for match, path in matches:
        if match:
            fields = match.groupdict()
            within = "".join(fields.pop(name, "") for name in _WITHIN_CASE)
            found.setdefault(tuple(sorted(fields.items())), {})[within] = path
    return found


def _expression(template: str) -> str:
    parts: list[str] = []
    seen: set[str] = set()
    for text in re.split(r"(\{\w+\}|\*\*/|\*)", template):
        name = text[1:-1]
        if text == "**/":
            parts.append("(?:[^/]+/)*")
        elif text == "*":
            parts.append("[^/]*")
        elif re.fullmatch(r"\{\w+\}", text):
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+)")
            seen.add(name)
        else:
            parts.append(re.escape(text))
    return re.sub(r"\\\.nii\\\.gz$", r"\\.nii(?:\\.gz)?", "".join(parts))


def matching_files(root: Path, template: str) -> Iterator[Path]:
    """Files below a folder that a template may mean, whatever its fields stand for."""
    pattern = re.sub(r"\{\w+\}", "*", template)
    variants = [pattern, pattern.removesuffix(".gz")] if pattern.endswith(".nii.gz") else [pattern]
    for variant in variants:
        for path in root.glob(variant):
            # Archives made on a Mac are full of "._name" files that look like images.
            if not any(part.startswith(".") for part in path.relative_to(root).parts):
                yield path


def _has_match(root: Path, template: str) -> bool:
    expression = re.compile(_expression(template))
    return any(expression.fullmatch(path.relative_to(root).as_posix()) for path in matching_files(root, template))
