"""Label maps whose values no class explains, and cases whose names mean something, collide or cannot be written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attacks import fixtures
from attacks.kinds.scans import good_case_is_there
from attacks.recipes import RECIPES, Recipe, with_role
from attacks.sandbox import Sandbox
from attacks.table import ANY, REFUSED, Expect, SetUp, Try, file_names, kind

Change = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]


def _changed(recipe: Recipe, role: str, change: Change) -> SetUp:
    def set_up(box: Sandbox) -> Sequence[str]:
        argv = recipe(box)
        fixtures.write_nifti(recipe.file(box, role), change(fixtures.label_map(0)))
        return argv

    return set_up


def _voxel(value: Any, dtype: str) -> Change:
    def change(voxels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        changed = voxels.astype(dtype)
        changed[4, 4, 4] = value
        return changed

    return change


#: What the voxel becomes, and what the refusal has to name.
VALUES: dict[str, tuple[Change, str]] = {
    "unexplained_value": (_voxel(77, "uint8"), "77"),
    "negative_value": (_voxel(-3, "int16"), "-3"),
    "value_of_two_billion": (_voxel(2_000_000_000, "int32"), "2000000000|2e"),
    "fraction": (_voxel(1.5, "float32"), "1.5|whole|integer"),
    "value_300_that_is_44_in_a_byte": (_voxel(300, "int16"), "300"),
}


def _register_value(name: str, change: Change, says: str) -> None:
    @kind(f"label_{name}")
    def make() -> Iterator[Try]:
        for recipe, role in with_role("label", "reference"):
            if recipe.name == "convert_masks":
                continue  # a mask is what is not 0
            if recipe.name == "view" and name in ("unexplained_value", "value_300_that_is_44_in_a_byte"):
                continue  # shown by its number
            checks = () if recipe.command == "merge_datasets" else (good_case_is_there,)
            expect = Expect(REFUSED, recipe.targets, f"(?=.*bad)(?=.*({says}))", checks)
            yield Try(recipe.command, f"{recipe.name}/{role}", (_changed(recipe, role, change),), expect)


for _name, (_change, _says) in VALUES.items():
    _register_value(_name, _change, _says)


@kind("label_other_grid")
def other_grid() -> Iterator[Try]:
    """A label map of other shape than its image or reference."""
    for recipe, role in with_role("label", "reference"):
        if recipe.command != "remap_labels":
            expect = Expect(REFUSED, recipe.targets, "bad")
            yield Try(recipe.command, f"{recipe.name}/{role}", (_changed(recipe, role, lambda v: v[:-2]),), expect)


# Names of cases ----------------------------------------------------------------------------------------------------

#: Names of two further cases, which are to stay two cases.
NAMES: dict[str, tuple[str, str]] = {
    "seg_suffix": ("bad_seg", "bad_segm"),
    "settings": ("settings", "setting"),
    "other_scripts": ("Läsion ä", "心臓"),
    "only_one_letter_apart": ("ä", "ö"),
    "upper_and_lower": ("Case", "case"),
    "spaces": ("a b", "a  b"),
    "leading_dash": ("-rf", "--overwrite"),
    "newline": ("a\nb", "a\n\nb"),
    "escape_codes": ("a\x1b[31mb", "a\x1b]0;x\x07b"),
    "not_utf8": ("a\udcff", "a\udcfe"),
    "markup": ("<b>&amp;", "{{7*7}}"),
    "formula": ("=1+1", "@SUM"),
    "quotes": ("it's", 'a"b'),
    "shell": ("$(touch x)", "`touch x`"),
    "long": ("l" * 200, "l" * 199),
    "channel_number": ("x_0000", "x_0001"),
    "our_files": ("dataset", "labels"),
    "dots": ("a.b.c", "a..b"),
    "percent": ("%s%n", "%(x)s"),
    "backslash": ("a\\b", "x\\..\\y"),
    "composed_letters": ("e\u0301", "\u00e9"),
    "directions_of_writing": ("a\u202egpj", "a\u200b"),
}


def _bring(folder: Path, name: str, good: str) -> None:
    (folder / name).write_bytes((folder / good).read_bytes())


def _named(recipe: Recipe, names: Sequence[str]) -> SetUp:
    def set_up(box: Sandbox) -> Sequence[str]:
        argv = recipe(box)
        for name in names:
            if recipe.name == "predict":
                _bring(box.inputs / "images", f"{name}_0000.nii.gz", "good_0000.nii.gz")
            elif recipe.name == "merge":
                _bring(box.raw / "Dataset001_Tiny/imagesTr", f"{name}_0000.nii.gz", "good_0000.nii.gz")
                _bring(box.raw / "Dataset001_Tiny/labelsTr", f"{name}.nii.gz", "good.nii.gz")
            else:
                folders = {"convert": ("data/images", "data/labels"), "remap": ("maps",), "evaluate": ("gt", "pred")}
                for folder in folders[recipe.name]:
                    _bring(box.inputs / folder, f"{name}.nii.gz", "good.nii.gz")
        return argv

    return set_up


def _all_cases(expected: int, folder: str) -> Callable[[Sandbox, str], Iterator[str]]:
    """If the command took everything, as many results are there as cases were given."""

    def check(box: Sandbox, output: str) -> Iterator[str]:
        found = [name for name in file_names(box.root / folder) if name.endswith(".nii.gz")]
        refused = "Expected" in output or "refused" in output.lower()
        if len(found) != expected and not refused:
            yield f"{len(found)} results of {expected} cases, and not a word about it"
        seg = [name for name in found if name.endswith("_seg.nii.gz")]
        if seg and folder.startswith("nnUNet_raw"):
            yield f"{seg[0]} is taken for a segmentation by nnU-Net"

    return check


_RESULTS = {
    "predict": (4, "out"),
    "remap": (4, "out"),
    "convert": (5, "nnUNet_raw/Dataset101_New/labelsTr"),
    "merge": (8, "nnUNet_raw/Dataset100_Both/labelsTr"),
}


def _register_name(name: str, names: tuple[str, str]) -> None:
    @kind(f"case_{name}")
    def make() -> Iterator[Try]:
        for each in ("predict", "convert", "merge", "remap", "evaluate"):
            recipe = RECIPES[each]
            checks = (_all_cases(*_RESULTS[each]),) if each in _RESULTS else ()
            yield Try(recipe.command, each, (_named(recipe, names),), Expect(ANY, recipe.targets, "", checks))


for _name, _names in NAMES.items():
    _register_name(_name, _names)


# Two files of one name -----------------------------------------------------------------------------------------------


def _twice(recipe: Recipe, overwrite: bool) -> SetUp:
    """A second file of the same case in another format, with other content."""

    def set_up(box: Sandbox) -> Sequence[str]:
        argv = list(recipe(box))
        other = np.flip(fixtures.label_map(0), 0)
        if recipe.name == "predict":
            fixtures.write_image(box.inputs / "images/bad_0000.nrrd", fixtures.ct(9))
        elif recipe.name == "remap":
            fixtures.write_image(box.inputs / "maps/bad.nrrd", np.ascontiguousarray(other))
        else:
            fixtures.write_image(box.inputs / "pred/bad.nrrd", np.ascontiguousarray(other))
        return [*argv, "--overwrite"] if overwrite else argv

    return set_up


@kind("two_files_of_one_case")
def two_files() -> Iterator[Try]:
    """Refused before the work: one of the two would be lost."""
    for each in ("predict", "remap", "evaluate"):
        for overwrite in (False, True):
            title = f"{each}{' --overwrite' if overwrite else ''}"
            yield Try(RECIPES[each].command, title, (_twice(RECIPES[each], overwrite),), Expect(says="bad"))


@kind("lone_channel_number")
def lone_channel() -> Iterator[Try]:
    """A prediction and a reference that are both called ``x_0000`` are one case."""

    def set_up(box: Sandbox) -> Sequence[str]:
        argv = RECIPES["evaluate"](box)
        for folder in ("gt", "pred"):
            for name in ("bad", "good"):
                (box.inputs / folder / f"{name}.nii.gz").rename(box.inputs / folder / f"{name}_0000.nii.gz")
        return argv

    yield Try("evaluate", "both", (set_up,), Expect(frozenset({0})))
