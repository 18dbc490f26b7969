"""Targets that exist, overlap with the source, cannot be written, or are no folders; nnU-Net's folders missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from attacks import fixtures
from attacks.fixtures import CONFIGURATION
from attacks.judge import judge_process
from attacks.recipes import RECIPES, Recipe
from attacks.runner import Stage
from attacks.sandbox import Sandbox, changes, snapshot
from attacks.table import ANY, REFUSED, Expect, SetUp, Try, kind

WRITING = (
    "predict",
    "export",
    "export_bundle",
    "import",
    "plan",
    "convert",
    "merge",
    "remap",
    "evaluate",
    "tree",
    "report",
    "serve",
)


def _convert_from(place: Callable[[Sandbox], Path]) -> SetUp:
    """A conversion with --overwrite whose source lies at, above or below its target."""

    def set_up(box: Sandbox) -> Sequence[str]:
        argv = RECIPES["convert"](box)
        target = place(box)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(box.inputs / "data", target, dirs_exist_ok=True)
        return [*(str(target) if word == str(box.inputs / "data") else word for word in argv), "--overwrite"]

    return set_up


def _convert_through_link(box: Sandbox) -> Sequence[str]:
    argv = _convert_from(lambda box: box.raw / "Dataset101_New")(box)
    (box.inputs / "link").symlink_to(box.raw / "Dataset101_New")
    return [str(box.inputs / "link") if word == str(box.raw / "Dataset101_New") else word for word in argv]


@kind("source_overlaps_target")
def overlaps() -> Iterator[Try]:
    """Nothing may change at all: the source would be deleted or grow while it is read."""
    nothing = Expect(REFUSED, ())
    for name, place in (
        ("source is the target", lambda box: box.raw / "Dataset101_New"),
        ("source below the target", lambda box: box.raw / "Dataset101_New" / "source"),
        ("source above the target", lambda box: box.raw),
    ):
        yield Try("convert_dataset", name, (_convert_from(place),), nothing)
    yield Try("convert_dataset", "source is a link to the target", (_convert_through_link,), nothing)

    def merge_into_source(box: Sandbox) -> Sequence[str]:
        RECIPES["merge"](box)
        return ["1", "2", "-d", "1", "-n", "Tiny", "-np", "1", "--overwrite", "--copy"]

    yield Try("merge_datasets", "target is a source", (merge_into_source,), nothing)

    def remap_in_place(box: Sandbox) -> Sequence[str]:
        argv = RECIPES["remap"](box)
        return [*(str(box.inputs / "maps") if word == str(box.out) else word for word in argv), "--overwrite"]

    yield Try("remap_labels", "in place", (remap_in_place,), Expect(ANY, ("in/maps",)))

    def export_over_plans(box: Sandbox) -> Sequence[str]:
        argv = RECIPES["export"](box)
        target = str(box.inputs / "model" / "plans.json")
        return [*(target if word.endswith("net.ts") else word for word in argv), "--overwrite"]

    yield Try("export", "over the model's plans", (export_over_plans,), nothing)

    def bundle_over_model(box: Sandbox) -> Sequence[str]:
        argv = RECIPES["export_bundle"](box)
        return [*(str(box.inputs / "model") if word.endswith("/bundle") else word for word in argv), "--overwrite"]

    yield Try("export", "a bundle over its model", (bundle_over_model,), nothing)

    def import_over_itself(box: Sandbox) -> Sequence[str]:
        folder = box.results / "Dataset050_Imported" / fixtures.MODEL_NAME
        box.bring("model", folder)
        return [str(folder), "-d", "Dataset050_Imported", "--overwrite"]

    yield Try(
        "import_weights",
        "over its source",
        (import_over_itself,),
        Expect(ANY, ("nnUNet_results",), checks=(_has_model,)),
    )

    def predict_over_images(box: Sandbox) -> Sequence[str]:
        argv = RECIPES["predict"](box)
        for case in ("bad", "good"):
            (box.inputs / f"images/{case}_0000.nii.gz").rename(box.inputs / f"images/{case}.nii.gz")
        return [*(str(box.inputs / "images") if word == str(box.out) else word for word in argv), "--overwrite"]

    yield Try("predict", "over its images", (predict_over_images,), nothing)


def _has_model(box: Sandbox, output: str) -> Iterator[str]:
    if not list((box.results / "Dataset050_Imported").rglob("checkpoint_final.pth")):
        yield "the model is gone"


def _runs_twice(stage: Stage, box: Sandbox) -> Iterator[str]:
    """The second run finds what the first has written and leaves it as it is."""
    for number, codes in enumerate((frozenset({0}), REFUSED | ({0} if stage.attempt.command in _GOING_ON else set()))):
        before = snapshot(box.root)
        process = stage.start(log=f"run{number}")
        process.wait_or_end(60)
        yield from judge_process(process, Expect(codes))
    yield from (f"the second run {change}" for change in changes(before, snapshot(box.root), _reports(stage)))


# What the commands that go on with their earlier work write anew.
_GOING_ON = {
    "convert_dataset": ("nnUNet_raw/Dataset101_New/conversion_report.json", "nnUNet_preprocessed/Dataset101_New"),
    "merge_datasets": ("nnUNet_raw/Dataset100_Both/merge_report.json", "nnUNet_preprocessed/Dataset100_Both"),
}


def _reports(stage: Stage) -> tuple[str, ...]:
    return _GOING_ON.get(stage.attempt.command, ())


@kind("target_exists")
def existing_targets() -> Iterator[Try]:
    """Nothing is replaced without --overwrite."""
    for name in WRITING:
        if name != "serve":  # goes on with the jobs that are there
            recipe = RECIPES[name]
            yield Try(recipe.command, name, (recipe,), Expect(targets=recipe.targets), driver=_runs_twice)


def _spoil_target(recipe: Recipe, spoil: Callable[[Path], object]) -> SetUp:
    def set_up(box: Sandbox) -> Sequence[str]:
        argv = recipe(box)
        spoil(box.root / recipe.targets[0])
        return argv

    return set_up


def _be_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text("a file of the user", encoding="utf-8")


def _be_closed(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o555)


def _be_closed_above(path: Path) -> None:
    if path.parent.name.startswith("nnUNet_"):
        path.parent.chmod(0o555)
    else:
        _be_closed(path)


def _be_dangling_link(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.symlink_to("/nonexistent/folder")


@kind("target_is_a_file")
def file_targets() -> Iterator[Try]:
    """A file of the user where the folder for results is to be; it stays."""
    for name in WRITING:
        if name != "plan":
            recipe = RECIPES[name]
            # What has a name of its own is refused as existing, whatever it is.
            yield Try(recipe.command, name, (_spoil_target(recipe, _be_file),), Expect(REFUSED, ()))


@kind("target_not_writable")
def closed_targets() -> Iterator[Try]:
    """A folder that the user may not write."""
    for name in (*WRITING, "train", "finetune"):
        recipe = RECIPES[name]
        for what, spoil in (("folder", _be_closed), ("folder above", _be_closed_above)):
            # What is prepared for training lies there already, and may be added to.
            admits = name == "plan" and what == "folder above"
            expect = Expect(ANY, RECIPES[name].targets) if admits else Expect(REFUSED, ())
            options = {"obeys_permissions": True}
            yield Try(recipe.command, f"{name} {what}", (_spoil_target(recipe, spoil),), expect, options=options)
    demo = Try("demo", "demo", (_closed_demo,), Expect(REFUSED, ()), options={"obeys_permissions": True})
    yield demo


def _closed_demo(box: Sandbox) -> Sequence[str]:
    (box.root / "closed").mkdir()
    (box.root / "closed").chmod(0o555)
    return ["--output", str(box.root / "closed" / "demo")]


def _demo_in_dangling_link(box: Sandbox) -> Sequence[str]:
    _be_dangling_link(box.out)
    return ["--output", str(box.out)]


@kind("target_is_a_dangling_link")
def dangling_targets() -> Iterator[Try]:
    """A link to nowhere where the folder for results is to be."""
    for name in WRITING:
        if name != "plan":
            recipe = RECIPES[name]
            yield Try(recipe.command, name, (_spoil_target(recipe, _be_dangling_link),), Expect(ANY, ()))
    yield Try("demo", "demo", (_demo_in_dangling_link,), Expect(REFUSED, ()))


@kind("demo_target")
def demo_targets() -> Iterator[Try]:
    """The tour only takes place in a new folder."""

    def existing(box: Sandbox) -> Sequence[str]:
        (box.out / "nnUNet_raw").mkdir(parents=True)
        (box.out / "kept.txt").write_text("kept")
        return ["--output", str(box.out)]

    def file(box: Sandbox) -> Sequence[str]:
        box.out.write_text("kept")
        return ["--output", str(box.out)]

    def below_file(box: Sandbox) -> Sequence[str]:
        return ["--output", str(box.root / "secret.bin" / "demo")]

    def long(box: Sandbox) -> Sequence[str]:
        return ["--output", str(box.root / ("x" * 5000))]

    for set_up in (existing, file, below_file, long):
        yield Try("demo", set_up.__name__, (set_up,), Expect(REFUSED, ()))


# nnU-Net's folders ---------------------------------------------------------------------------------------------------

_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
_USED = {
    "convert": _VARIABLES[:1], "merge": _VARIABLES[:1], "plan": _VARIABLES[:2], "import": _VARIABLES[2:],
    "train": _VARIABLES[1:], "finetune": _VARIABLES[1:], "report": _VARIABLES[:1],
}  # fmt: skip


@kind("environment_folders")
def environment() -> Iterator[Try]:
    """nnU-Net's variables empty, or naming a file, a folder that is not there, or one with an odd name."""
    for name, variables in _USED.items():
        recipe = RECIPES[name]
        for variable in variables:
            for what, value in (
                ("empty", ""),
                ("file", "secret.bin"),
                ("below a file", "secret.bin/x"),
                ("long", "x" * 5000),
            ):
                options = {"environment": {variable: value}}
                yield Try(
                    recipe.command, f"{name}: {variable} is {what}", (recipe,), Expect(REFUSED, ()), options=options
                )
    for what, value in (("empty", ""), ("file", "secret.bin"), ("missing", "nowhere"), ("long", "x" * 5000)):
        for variable in _VARIABLES:
            options = {"environment": {variable: value}}
            yield Try(
                "info",
                f"environment: {variable} is {what}",
                (lambda _: ["environment"],),
                Expect(REFUSED, ()),
                options=options,
            )


@kind("temporary_folder_not_writable")
def temporary() -> Iterator[Try]:
    """No folder for temporary files."""
    for name in WRITING:
        recipe = RECIPES[name]
        options = {"environment": dict.fromkeys(("TMPDIR", "TEMP", "TMP"), "/nonexistent")}
        yield Try(recipe.command, name, (recipe,), Expect(ANY, recipe.targets), options=options)


# Too few cases -------------------------------------------------------------------------------------------------------


def _few(name: str, cases: int) -> SetUp:
    def set_up(box: Sandbox) -> Sequence[str]:
        argv = RECIPES[name](box)
        folder = box.preprocessed / "Dataset001_Tiny"
        (folder / "splits_final.json").unlink()
        for case in fixtures.CASES[cases:]:
            for file in [*(folder / "tiny").glob(f"{case}*"), *(box.raw / "Dataset001_Tiny").rglob(f"{case}*")]:
                file.unlink()
        return argv

    return set_up


@kind("fewer_cases_than_folds")
def few_cases() -> Iterator[Try]:
    """Said before the training starts, with the number of cases."""
    for name in ("train", "finetune"):
        for cases in (0, 1, 3, 4):
            says = "fold" if cases else ""
            yield Try(name, f"{cases} cases", (_few(name, cases),), Expect(REFUSED, RECIPES[name].targets, says))
    for fold in ("99", "-1", "x"):
        for name in ("train", "finetune"):

            def set_up(box: Sandbox, name: str = name, fold: str = fold) -> Sequence[str]:
                argv = list(RECIPES[name](box))
                assert argv[1] == CONFIGURATION
                return [*argv[:2], fold, *argv[3:]]

            yield Try(name, f"fold {fold}", (set_up,), Expect(ANY if fold == "99" else REFUSED, RECIPES[name].targets))
