"""How each command is run on good files: where each kind of file lies, so that a hostile one can take its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attacks import fixtures
from attacks.fixtures import CASES, CONFIGURATION
from attacks.sandbox import Sandbox

Build = Callable[[Sandbox, str], list[str]]

#: JSON files are plans, dataset (dataset.json), order, datalist, exceptions, fingerprint, splits and tree.
JSON_ROLES = ("plans", "dataset", "order", "datalist", "exceptions", "fingerprint", "splits", "tree")
BATCH = ("predict", "convert", "convert_masks", "remap", "evaluate")


@dataclass(frozen=True)
class Recipe:
    """One way to run a command.

    Attributes:
        name: Of the recipe.
        command: Without ``nnUNetv2_ext_``.
        build: Puts good files into a sandbox; images end with the given ending. Returns the arguments.
        roles: Role -> path of the file in the sandbox; ``{ending}`` stands for the ending of images.
        targets: What the command writes.
    """

    name: str
    command: str
    build: Build
    roles: Mapping[str, str] = field(default_factory=dict)
    targets: tuple[str, ...] = ("out",)

    def __call__(self, box: Sandbox) -> list[str]:
        """Puts everything into a sandbox, all good."""
        return self.build(box, ".nii.gz")

    def file(self, box: Sandbox, role: str, ending: str = ".nii.gz") -> Path:
        """Where the file of a role is."""
        return box.root / self.roles[role].replace("{ending}", ending)


RECIPES: dict[str, Recipe] = {}


def recipe(
    name: str, command: str = "", *, targets: tuple[str, ...] = ("out",), **roles: str
) -> Callable[[Build], Build]:
    """Enters a recipe into the table."""

    def enter(build: Build) -> Build:
        RECIPES[name] = Recipe(name, command or name, build, roles, targets)
        return build

    return enter


def with_role(*roles: str) -> Iterator[tuple[Recipe, str]]:
    """All recipes that meet a file of one of these roles."""
    for each in RECIPES.values():
        for role in each.roles:
            if role.rstrip("2") in roles:
                yield each, role


#: Whether every fault is put into every place where a command could meet it, and not only into one per command.
EVERY_PLACE = False


def per_command(turn: int, *roles: str) -> Iterator[tuple[Recipe, str]]:
    """For every command one of the places where it meets a file of these roles, another one at every turn."""
    places: dict[str, list[tuple[Recipe, str]]] = {}
    for recipe, role in with_role(*roles):
        places.setdefault(recipe.command, []).append((recipe, role))
    for of_command in places.values():
        yield from of_command if EVERY_PLACE else [of_command[turn % len(of_command)]]


_MODEL: dict[str, Any] = {
    "plans": "in/model/plans.json",
    "dataset": "in/model/dataset.json",
    "checkpoint": "in/model/fold_0/checkpoint_final.pth",
}
_TRAINING_OPTIONS = [
    *("--num_epochs", "1", "--warmup_heads", "0", "--warmup_network", "0", "--iterations_per_epoch", "1"),
    *("--val_iterations_per_epoch", "1", "--num_workers", "0", "-device", "cpu", "--quiet"),
]


@recipe("predict", image="in/images/bad_0000{ending}", **_MODEL)
def _predict(box: Sandbox, ending: str) -> list[str]:
    model = box.bring("model", box.inputs / "model")
    for number, case in enumerate(("bad", "good")):
        fixtures.write_image(box.inputs / "images" / f"{case}_0000{ending}", fixtures.ct(number))
    return f"-i {box.inputs}/images -o {box.out} -m {model} -f 0 -device cpu -npp 1 -nps 1".split()


@recipe("serve", **{f"served_{role}": path for role, path in _MODEL.items()})
def _serve(box: Sandbox, ending: str) -> list[str]:
    model = box.bring("model", box.inputs / "model")
    return f"-m model={model} -o {box.out} --port 0 -device cpu".split()


@recipe("export", **_MODEL)
def _export(box: Sandbox, ending: str) -> list[str]:
    model = box.bring("model", box.inputs / "model")
    return f"-m {model} -o {box.out}/net.ts --format torchscript".split()


@recipe("export_bundle", "export", **_MODEL)
def _export_bundle(box: Sandbox, ending: str) -> list[str]:
    model = box.bring("model", box.inputs / "model")
    return f"-m {model} -o {box.out}/bundle --format monai_bundle".split()


_IMPORTED = "nnUNet_results/Dataset050_Imported"


@recipe("import", "import_weights", targets=(_IMPORTED,), **_MODEL)
def _import(box: Sandbox, ending: str) -> list[str]:
    model = box.bring("model", box.inputs / "model")
    return f"{model} -d Dataset050_Imported".split()


@recipe(
    "import_options",
    "import_weights",
    targets=(_IMPORTED,),
    plans="in/plans.json",
    order="in/labels.json",
    checkpoint="in/net.pth",
)
def _import_options(box: Sandbox, ending: str) -> list[str]:
    box.bring("model/fold_0/checkpoint_final.pth", box.inputs / "net.pth")
    box.bring("model/plans.json", box.inputs / "plans.json")
    box.bring("order.json", box.inputs / "labels.json")
    files = f"--plans {box.inputs}/plans.json --labels {box.inputs}/labels.json"
    return f"{box.inputs}/net.pth -d Dataset050_Imported {files}".split()


@recipe("import_file", "import_weights", targets=(_IMPORTED,), checkpoint="in/net.pth")
def _import_file(box: Sandbox, ending: str) -> list[str]:
    box.bring("model/fold_0/checkpoint_final.pth", box.inputs / "net.pth")
    return f"{box.inputs}/net.pth -d Dataset050_Imported".split()


@recipe("import_v1", "import_weights", targets=(_IMPORTED,), pickle="in/v1/x.model.pkl")
def _import_v1(box: Sandbox, ending: str) -> list[str]:
    return f"{box.bring('v1', box.inputs / 'v1')}/x.model -d Dataset050_Imported".split()


def _tiny(box: Sandbox) -> None:
    box.bring("Dataset001_Tiny", box.raw / "Dataset001_Tiny")
    box.bring("preprocessed", box.preprocessed / "Dataset001_Tiny")


_OWN = "nnUNet_preprocessed/Dataset001_Tiny"
_TRAINED = ("nnUNet_results/Dataset001_Tiny", _OWN)


@recipe(
    "train",
    targets=_TRAINED,
    plans=f"{_OWN}/nnUNetPlans.json",
    dataset=f"{_OWN}/dataset.json",
    splits=f"{_OWN}/splits_final.json",
    plans2="in/model/plans.json",
    dataset2="in/model/dataset.json",
    checkpoint="in/model/fold_0/checkpoint_final.pth",
)
def _train(box: Sandbox, ending: str) -> list[str]:
    _tiny(box)
    model = box.bring("model", box.inputs / "model")
    return [*f"1 {CONFIGURATION} 0 -tr FineTuneTrainer_unet -pretrained_weights {model}".split(), *_TRAINING_OPTIONS]


@recipe(
    "finetune",
    targets=_TRAINED,
    plans=f"{_OWN}/nnUNetPlans.json",
    dataset=f"{_OWN}/dataset.json",
    plans2="in/model/plans.json",
    dataset2="in/model/dataset.json",
    checkpoint="in/model/fold_0/checkpoint_final.pth",
)
def _finetune(box: Sandbox, ending: str) -> list[str]:
    _tiny(box)
    model = box.bring("model", box.inputs / "model")
    return [*f"1 {CONFIGURATION} 0 -p nnUNetPlans -pretrained_weights {model}".split(), *_TRAINING_OPTIONS]


@recipe("train_v1", "train", targets=_TRAINED, pickle="in/v1/x.model.pkl")
def _train_v1(box: Sandbox, ending: str) -> list[str]:
    _tiny(box)
    weights = f"{box.bring('v1', box.inputs / 'v1')}/x.model"
    return [*f"1 {CONFIGURATION} 0 -tr FineTuneTrainer_unet -pretrained_weights {weights}".split(), *_TRAINING_OPTIONS]


@recipe("finetune_v1", "finetune", targets=_TRAINED, pickle="in/v1/x.model.pkl")
def _finetune_v1(box: Sandbox, ending: str) -> list[str]:
    _tiny(box)
    weights = f"{box.bring('v1', box.inputs / 'v1')}/x.model"
    return [*f"1 {CONFIGURATION} 0 -p nnUNetPlans -pretrained_weights {weights}".split(), *_TRAINING_OPTIONS]


@recipe(
    "plan",
    targets=(_OWN,),
    plans="in/template.json",
    dataset="nnUNet_raw/Dataset001_Tiny/dataset.json",
    fingerprint=f"{_OWN}/dataset_fingerprint.json",
)
def _plan(box: Sandbox, ending: str) -> list[str]:
    _tiny(box)
    box.bring("model/plans.json", box.inputs / "template.json")
    return f"-d 1 -t {box.inputs}/template.json --name new -np 1".split()


_CONVERTED = ("nnUNet_raw/Dataset101_New", "nnUNet_preprocessed/Dataset101_New")


@recipe(
    "convert",
    "convert_dataset",
    targets=_CONVERTED,
    order="in/order.json",
    image="in/data/images/bad{ending}",
    label="in/data/labels/bad{ending}",
)
def _convert(box: Sandbox, ending: str) -> list[str]:
    for number, case in enumerate(("bad", "good", "third")):
        fixtures.write_image(box.inputs / "data/images" / f"{case}{ending}", fixtures.ct(number))
        fixtures.write_image(box.inputs / "data/labels" / f"{case}{ending}", fixtures.label_map(number))
    box.bring("order.json", box.inputs / "order.json")
    return [
        *f"label_maps -i {box.inputs}/data -d 101 -n New -np 1 --order {box.inputs}/order.json --copy_images".split(),
        *f"--image images/{{case}}{ending} --label labels/{{case}}{ending}".split(),
    ]


@recipe(
    "convert_masks",
    "convert_dataset",
    targets=_CONVERTED,
    image="in/data/bad/ct{ending}",
    label="in/data/bad/segmentations/liver{ending}",
)
def _convert_masks(box: Sandbox, ending: str) -> list[str]:
    for number, case in enumerate(("bad", "good", "third")):
        folder = box.inputs / "data" / case
        fixtures.write_image(folder / f"ct{ending}", fixtures.ct(number))
        for value, name in enumerate(("liver", "spleen"), start=1):
            mask = (fixtures.label_map(number) == value).astype("uint8")
            fixtures.write_image(folder / "segmentations" / f"{name}{ending}", mask)
    return [
        *f"masks -i {box.inputs}/data -d 101 -n New -np 1 --image {{case}}/ct{ending}".split(),
        *f"--label {{case}}/segmentations/{{class}}{ending}".split(),
    ]


@recipe("convert_datalist", "convert_dataset", targets=_CONVERTED, datalist="in/data/dataset.json")
def _convert_datalist(box: Sandbox, ending: str) -> list[str]:
    box.bring("Dataset001_Tiny", box.inputs / "data")
    fixtures.write_json(box.inputs / "data/dataset.json", datalist())
    return f"monai_datalist -i {box.inputs}/data -d 101 -n New -np 1".split()


def datalist() -> dict[str, object]:
    """A MONAI datalist of the tiny dataset."""
    entries = [
        {"image": f"imagesTr/{case}_0000.nii.gz", "label": f"labelsTr/{case}.nii.gz", "fold": number % 2}
        for number, case in enumerate(CASES[:3])
    ]
    return {"labels": {"0": "background", "1": "liver", "2": "spleen"}, "training": entries}


@recipe(
    "convert_salt", "convert_dataset", targets=_CONVERTED, text="in/data/labels.txt", text2="in/data/tree-labels.txt"
)
def _convert_salt(box: Sandbox, ending: str) -> list[str]:
    data = box.inputs / "data"
    for number, case in enumerate(("bad", "good")):
        fixtures.write_image(data / "train/images" / f"{case}.nii.gz", fixtures.ct(number))
        fixtures.write_image(data / "train/labels" / f"{case}.nii.gz", fixtures.label_map(number))
    (data / "labels.txt").write_text("background\nliver\nspleen\n")
    (data / "tree-labels.txt").write_text("background\nbody,liver\nbody,spleen\n")
    return f"salt -i {data} -d 101 -n New -np 1".split()


@recipe(
    "merge",
    "merge_datasets",
    targets=("nnUNet_raw/Dataset100_Both", "nnUNet_preprocessed/Dataset100_Both"),
    dataset="nnUNet_raw/Dataset001_Tiny/dataset.json",
    exceptions="in/exceptions.json",
    image="nnUNet_raw/Dataset001_Tiny/imagesTr/bad_0000{ending}",
    label="nnUNet_raw/Dataset001_Tiny/labelsTr/bad{ending}",
)
def _merge(box: Sandbox, ending: str) -> list[str]:
    cases = CASES[:3]
    fixtures.write_raw(box.raw / "Dataset001_Tiny", fixtures.LABELS, cases, ending)
    fixtures.write_raw(box.raw / "Dataset002_Other", fixtures.OTHER_LABELS, cases, ending, seed=50)
    fixtures.write_json(box.inputs / "exceptions.json", {"Tiny/good": ["Tiny/spleen"]})
    return f"1 2 -d 100 -n Both -np 1 --exceptions {box.inputs}/exceptions.json --copy".split()


@recipe(
    "report",
    dataset="nnUNet_raw/Dataset001_Tiny/dataset.json",
    image="nnUNet_raw/Dataset001_Tiny/imagesTr/bad_0000{ending}",
    label="nnUNet_raw/Dataset001_Tiny/labelsTr/bad{ending}",
)
def _report(box: Sandbox, ending: str) -> list[str]:
    fixtures.write_raw(box.raw / "Dataset001_Tiny", fixtures.LABELS, CASES[:3], ending)
    return f"1 -o {box.out} -np 1".split()


@recipe("remap", "remap_labels", order="in/from.json", order2="in/to.json", label="in/maps/bad{ending}")
def _remap(box: Sandbox, ending: str) -> list[str]:
    for number, case in enumerate(("bad", "good")):
        fixtures.write_image(box.inputs / "maps" / f"{case}{ending}", fixtures.label_map(number))
    box.bring("order.json", box.inputs / "from.json")
    box.bring("other_order.json", box.inputs / "to.json")
    return f"-i {box.inputs}/maps -o {box.out} --from {box.inputs}/from.json --to {box.inputs}/to.json -np 1".split()


@recipe("evaluate", dataset="in/dataset.json", label="in/pred/bad{ending}", reference="in/gt/bad{ending}")
def _evaluate(box: Sandbox, ending: str) -> list[str]:
    _pairs(box, ending)
    fixtures.write_json(box.inputs / "dataset.json", fixtures.dataset_json(fixtures.LABELS, ending=ending))
    return [*_evaluation(box), "-djfile", str(box.inputs / "dataset.json")]


@recipe("evaluate_order", "evaluate", order="in/order.json", order2="in/pred_order.json")
def _evaluate_order(box: Sandbox, ending: str) -> list[str]:
    _pairs(box, ending)
    box.bring("order.json", box.inputs / "order.json")
    box.bring("order.json", box.inputs / "pred_order.json")
    return [*_evaluation(box), *f"--order {box.inputs}/order.json --pred_order {box.inputs}/pred_order.json".split()]


def _pairs(box: Sandbox, ending: str) -> None:
    for number, case in enumerate(("bad", "good")):
        for folder in ("gt", "pred"):
            fixtures.write_image(box.inputs / folder / f"{case}{ending}", fixtures.label_map(number))


def _evaluation(box: Sandbox) -> list[str]:
    return f"-gt {box.inputs}/gt -pred {box.inputs}/pred -o {box.out} -np 1".split()


@recipe("view", order="in/order.json", image="in/scan/bad{ending}", label="in/drawn/bad{ending}")
def _view(box: Sandbox, ending: str) -> list[str]:
    fixtures.write_image(box.inputs / f"scan/bad{ending}", fixtures.ct(0))
    fixtures.write_image(box.inputs / f"drawn/bad{ending}", fixtures.label_map(0))
    box.bring("order.json", box.inputs / "order.json")
    files = f"{box.inputs}/scan/bad{ending} {box.inputs}/drawn/bad{ending}"
    return f"{files} --order {box.inputs}/order.json --html {box.out}/view.html".split()


@recipe("to_dicom", order="in/order.json", label="in/drawn/bad{ending}")
def _to_dicom(box: Sandbox, ending: str) -> list[str]:
    from attacks.kinds.dicom import series_slices, write_series

    slices = series_slices(0, "good")
    for number, content in enumerate(slices):
        # Where NIfTI files of the tries lie.
        content.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]
        content.ImagePositionPatient = [0, 0, fixtures.SPACING[2] * number]
        content.PixelSpacing = [fixtures.SPACING[1], fixtures.SPACING[0]]
    write_series(box.inputs / "series", slices)
    fixtures.write_image(box.inputs / f"drawn/bad{ending}", fixtures.label_map(0))
    box.bring("order.json", box.inputs / "order.json")
    flags = f"-series {box.inputs}/series --order {box.inputs}/order.json -o {box.out}/seg.dcm"
    return f"{box.inputs}/drawn/bad{ending} {flags}".split()


@recipe("tree", "info", tree="in/tree.json")
def _tree(box: Sandbox, ending: str) -> list[str]:
    fixtures.write_json(
        box.inputs / "tree.json", {"background": {}, "body": {"bones": {"rib": {}, "hip": {}}, "rest": {}}}
    )
    return f"tree {box.inputs}/tree.json --svg {box.out}/tree.svg".split()
