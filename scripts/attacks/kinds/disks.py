"""Disks that are full before or while a command writes, and files that may not grow any further."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from attacks import fixtures
from attacks.recipes import RECIPES, Recipe
from attacks.sandbox import Sandbox
from attacks.table import ANY, REFUSED, Expect, SetUp, Try, kind


def _cannot_mount() -> str:
    """Why no small file system can be mounted here; empty where one can."""
    if os.geteuid() != 0:
        return "mounting a small file system needs root"
    with tempfile.TemporaryDirectory() as folder:
        command = ["mount", "-t", "tmpfs", "-o", "size=64k", "attack", folder]
        if subprocess.run(command, capture_output=True).returncode:
            return "mounting a file system is not permitted"
        subprocess.run(["umount", folder], check=True)
    return ""


def _full(recipe: Recipe, disk: Callable[[Sandbox], Path], left: int) -> SetUp:
    def set_up(box: Sandbox) -> Sequence[str]:
        folder = disk(box)
        box.mount(folder, "8m")
        argv = recipe(box)
        _enlarge(recipe, box)
        box.fill(folder, left)
        return argv

    return set_up


def _enlarge(recipe: Recipe, box: Sandbox) -> None:
    """Makes results that do not fit into what is left."""
    for role in ("image", "label", "reference"):
        if role in recipe.roles and recipe.name in ("remap", "convert", "merge"):
            shape = (40, 40, 30)
            voxels = fixtures.ct(3, shape) if role == "image" else (fixtures.ct(4, shape) % 3).astype("uint8")
            fixtures.write_nifti(recipe.file(box, role), voxels)


DISKS: dict[str, Callable[[Sandbox], Path]] = {
    "predict": lambda box: box.out,
    "export": lambda box: box.out,
    "export_bundle": lambda box: box.out,
    "import": lambda box: box.results,
    "plan": lambda box: box.preprocessed,
    "convert": lambda box: box.raw,
    "convert_masks": lambda box: box.raw,
    "merge": lambda box: box.raw,
    "remap": lambda box: box.out,
    "evaluate": lambda box: box.out,
    "tree": lambda box: box.out,
    "report": lambda box: box.out,
    "train": lambda box: box.results,
    "finetune": lambda box: box.results,
}


def _ends_in_a_sentence(box: Sandbox, output: str) -> Iterator[str]:
    if not any(
        word in output for word in ("No space", "space left", "full", "writing", "written", "too large", "write")
    ):
        yield "the output does not say that writing failed"


@kind("disk_full", needs=_cannot_mount)
def full_disks() -> Iterator[Try]:
    """A disk with nothing, or with only a few pages left."""
    for name, disk in DISKS.items():
        recipe = RECIPES[name]
        for left in (0, 4096, 12288) if name not in ("tree", "train", "finetune") else (0,):
            # What fits after all may be written; then all of it has to be good.
            codes = REFUSED if left == 0 else ANY
            checks = (_ends_in_a_sentence,) if left == 0 else ()
            targets = (*recipe.targets, "nnUNet_preprocessed/Dataset100_Both")
            expect = Expect(codes, targets, checks=checks)
            yield Try(recipe.command, f"{name}, {left} bytes left", (_full(recipe, disk, left),), expect)

    def demo(box: Sandbox) -> Sequence[str]:
        box.mount(box.root / "disk", "64k")
        return ["--output", str(box.root / "disk" / "demo")]

    yield Try("demo", "64 kB", (demo,), Expect(targets=("disk",), checks=(_ends_in_a_sentence,)))


def _replacing(recipe: Recipe, disk: Callable[[Sandbox], Path]) -> SetUp:
    """--overwrite of good results on a disk that has no room for new ones: the old ones stay."""

    def set_up(box: Sandbox) -> Sequence[str]:
        folder = disk(box)
        box.mount(folder, "8m")
        argv = recipe(box)
        _enlarge(recipe, box)
        if recipe.name == "remap":
            fixtures.write_nifti(box.out / "bad.nii.gz", fixtures.label_map(5))
            fixtures.write_nifti(box.out / "good.nii.gz", fixtures.label_map(5))
        elif recipe.name == "predict":
            for name in ("bad.nii.gz", "good.nii.gz"):
                fixtures.write_nifti(box.out / name, fixtures.label_map(5))
        elif recipe.name == "merge":
            fixtures.write_raw(box.raw / "Dataset100_Both", fixtures.LABELS, ("old",))
        elif recipe.name == "export":
            box.bring("model/fold_0/checkpoint_final.pth", box.out / "net.ts")
        elif recipe.name == "plan":
            box.bring("model/plans.json", box.preprocessed / "Dataset001_Tiny" / "new.json")
        elif recipe.name == "import":
            box.bring("model", box.results / "Dataset050_Imported" / fixtures.MODEL_NAME)
        box.fill(folder, 4096 if recipe.name in ("predict", "plan") else 8192)
        return [*argv, "--overwrite"]

    return set_up


def _old_or_good(box: Sandbox, output: str) -> Iterator[str]:
    """Good results are there as before, or new ones, all of them readable (which the judge looks at)."""
    expected = {
        "out/bad.nii.gz": box.out / "bad.nii.gz",
        "out/net.ts": box.out / "net.ts",
        "plans": box.preprocessed / "Dataset001_Tiny" / "new.json",
        "merged": box.raw / "Dataset100_Both" / "dataset.json",
        "model": box.results / "Dataset050_Imported" / fixtures.MODEL_NAME / "plans.json",
    }
    used = {
        "remap": "out/bad.nii.gz",
        "predict": "out/bad.nii.gz",
        "export": "out/net.ts",
        "plan": "plans",
        "merge": "merged",
    }
    name = (box.root / "recipe").read_text()
    if not expected[used.get(name, "model")].is_file():
        yield f"{used.get(name, 'model')} is gone"


def _noted(set_up: SetUp, name: str) -> SetUp:
    def noting(box: Sandbox) -> Sequence[str]:
        (box.root / "recipe").write_text(name)
        return set_up(box)

    return noting


@kind("disk_full_overwrite", needs=_cannot_mount)
def full_disks_overwrite() -> Iterator[Try]:
    """A good result is never lost to a disk that is full."""
    for name in ("remap", "predict", "merge", "export", "plan", "import"):
        recipe = RECIPES[name]
        set_up = _noted(_replacing(recipe, DISKS[name]), name)
        yield Try(recipe.command, name, (set_up,), Expect(ANY, recipe.targets, checks=(_old_or_good,)))


#: Bytes that a file may have at most: fewer than the command's results have, more than it prints.
_LIMITS = {
    "predict": 1100, "export": 9000, "export_bundle": 9000, "import": 9000, "convert": 9000, "merge": 9000,
        "remap": 9000,
    "evaluate": 9000, "plan": 3000,
}  # fmt: skip


def _enlarged(recipe: Recipe) -> SetUp:
    def set_up(box: Sandbox) -> Sequence[str]:
        argv = recipe(box)
        _enlarge(recipe, box)
        return argv

    return set_up


@kind("file_size_limit")
def file_size() -> Iterator[Try]:
    """Writes that fail with EFBIG, which needs no root to try."""
    for name, limit in _LIMITS.items():
        recipe = RECIPES[name]
        options = {"limits": {"RLIMIT_FSIZE": limit}}
        expect = Expect(ANY if name == "evaluate" else REFUSED, recipe.targets)
        yield Try(recipe.command, name, (_enlarged(recipe),), expect, options=options, seconds=60)


@kind("too_few_open_files")
def open_files() -> Iterator[Try]:
    """A process that may open no more than a few files."""
    for name in ("convert", "merge", "remap", "evaluate", "predict", "export", "import"):
        recipe = RECIPES[name]
        for limit in (12, 20):
            options = {"limits": {"RLIMIT_NOFILE": limit}}
            yield Try(recipe.command, f"{name} {limit}", (recipe,), Expect(ANY, recipe.targets), options=options)


@kind("memory_limit")
def memory() -> Iterator[Try]:
    """A scan for which there is not memory enough fails its case, not the run."""
    for name in ("convert", "merge", "remap", "evaluate", "predict", "report"):
        recipe = RECIPES[name]

        def set_up(box: Sandbox, recipe: Recipe = recipe) -> Sequence[str]:
            argv = recipe(box)
            role = "label" if "label" in recipe.roles else "image"
            header = {"dim": {1: 1000, 2: 1000, 3: 700}}
            voxels = fixtures.label_map() if role == "label" else fixtures.ct()
            path = recipe.file(box, role)
            import gzip

            content = fixtures.nifti_bytes(voxels, fields=header)[:352]
            size = 700_000_000 * voxels.itemsize
            path.write_bytes(gzip.compress(content) + gzip.compress(bytes(1 << 24), 9) * (size // (1 << 24) + 1))
            return argv

        options = {"limits": {"RLIMIT_DATA": 1 << 30}}
        # Label maps are small enough to be remapped with what is there.
        codes, says = (ANY, "") if name == "remap" else (REFUSED, "bad")
        yield Try(recipe.command, name, (set_up,), Expect(codes, recipe.targets, says), options=options)
