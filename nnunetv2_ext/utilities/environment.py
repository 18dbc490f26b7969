"""Checks of the set-up: versions, nnU-Net's folders, and whether nnU-Net finds the trainers of this package."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import os
import platform
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from nnunetv2_ext.utilities.paths import NNUNET_VARIABLES

DISTRIBUTION = "nnunetv2-ext"
LOOKUP_VARIABLE = "nnUNet_extTrainer"
"""Folders in which nnU-Net looks for trainers, separated as in ``PATH``; this package appends one of its own."""
DISCOVERY_FOLDER = Path(__file__).resolve().parents[1] / "discovery"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        state: ``"broken"`` findings make the set-up unusable; ``"note"`` ones tell what may be of interest.
        subject: What was looked at.
        message: What was found and, where something is broken, what to do.
    """

    state: Literal["ok", "note", "broken"]
    subject: str
    message: str


def check_environment(trainer: str) -> Iterator[Finding]:
    """Looks at versions, folders, hardware and the trainer lookup; yields findings as they come.

    Args:
        trainer: Name of a trainer of this package that nnU-Net is to find.
    """
    yield Finding("note", "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield from _packages()
    yield from map(_folder, NNUNET_VARIABLES)
    yield from _hardware()
    yield _discovery(trainer)


def _packages() -> Iterator[Finding]:
    try:
        distribution = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            "broken",
            DISTRIBUTION,
            "is not installed, only its source is on the path: run 'pip install -e .' in its folder, so that nnU-Net "
            "finds the trainers and the commands exist.",
        )
        return
    yield Finding("ok", DISTRIBUTION, distribution.version)
    optional: dict[str, list[str]] = {}
    for requirement in map(Requirement, distribution.requires or []):
        if requirement.name == DISTRIBUTION:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _package(requirement)
        else:
            for extra in distribution.metadata.get_all("Provides-Extra") or []:
                if extra != "test" and requirement.marker.evaluate({"extra": extra}):
                    optional.setdefault(extra, []).append(requirement.name)
    for extra, names in optional.items():
        missing = [name for name in names if _version(name) is None]
        how = f"missing: {', '.join(missing)}; pip install '{DISTRIBUTION}[{extra}]' where needed"
        yield Finding("note", f"extra {extra}", how if missing else "installed")


def _package(requirement: Requirement) -> Finding:
    found = _version(requirement.name)
    wanted = f"pip install '{requirement.name}{requirement.specifier}'"
    if found is None:
        return Finding("broken", requirement.name, f"is not installed; {wanted}.")
    if not requirement.specifier.contains(found, prereleases=True):
        return Finding("broken", requirement.name, f"expected {requirement.specifier}, found {found}; {wanted}.")
    return Finding("ok", requirement.name, found)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _folder(variable: str) -> Finding:
    value = os.environ.get(variable, "").strip()
    if not value:
        return Finding("broken", variable, f'is not set; for example: export {variable}="$HOME/nnUNet/{variable}"')
    folder = Path(value)
    if not folder.is_dir():
        return Finding("broken", variable, f"is {folder}, which is no folder; mkdir -p {shlex.quote(value)}")
    # Raw data are often mounted read-only, and nnU-Net can live with that.
    if not os.access(folder, os.W_OK | os.X_OK) and variable != "nnUNet_raw":
        return Finding(
            "broken", variable, f"is {folder}, which is not writable; change its permissions or use another."
        )
    writable = "" if os.access(folder, os.W_OK) else " (read-only)"
    return Finding("ok", variable, f"{folder}{writable}")


def _hardware() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("note", "CPU", f"{cores} cores")
    try:
        import torch
    except Exception as error:
        # A broken binary raises OSError, a half-installed one anything; it is reported, not passed over.
        yield Finding("broken", "torch", f"cannot be imported ({_first_line(error)}); install it again.")
        return
    if not torch.cuda.is_available():
        yield Finding("note", "GPU", "no CUDA device; pass -device cpu (or mps) to nnU-Net's commands.")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Finding("ok", f"GPU {index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")


def _discovery(trainer: str) -> Finding:
    folders = [folder for folder in os.environ.get(LOOKUP_VARIABLE, "").split(os.pathsep) if folder.strip()]
    if not any(Path(folder).resolve() == DISCOVERY_FOLDER for folder in folders):
        return Finding(
            "broken",
            "trainer lookup",
            "nnUNet_extTrainer does not hold this package's folder, which it should since Python started: install the "
            f"package again, or export nnUNet_extTrainer='{os.pathsep.join([*folders, str(DISCOVERY_FOLDER)])}'.",
        )
    try:
        from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

        with contextlib.redirect_stdout(io.StringIO()):
            found = recursive_find_trainer_class_by_name(trainer)
    except Exception as error:
        # The lookup imports every trainer of nnU-Net and of the user's folders: any of them may raise anything.
        return Finding(
            "broken",
            "trainer lookup",
            f"nnU-Net cannot find {trainer} ({type(error).__name__}: {_first_line(error)}); it imports all trainers of "
            "nnU-Net and of the folders in nnUNet_extTrainer, so mend what that message names.",
        )
    return Finding("ok", "trainer lookup", f"nnU-Net finds {found.__name__} in {found.__module__}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
