"""The guided tour: from data to evaluation, each step the command that a user would type.

Three hospitals annotated different structures, partly the same ones by contradicting rules. Their data become one
collection, one network learns all of it, is fine-tuned on a fourth dataset with a structure that nobody had drawn
before, and is measured on patients that it has never seen.
"""

from __future__ import annotations

import logging
import shlex
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from nnunetv2_ext.demo.commands import Runner, run_as_subprocess
from nnunetv2_ext.demo.phantom_datasets import Protocol, write_raw_dataset
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json, require_writable, write_json
from nnunetv2_ext.utilities.locks import output_lock
from nnunetv2_ext.utilities.paths import NNUNET_VARIABLES

logger = logging.getLogger(__name__)

SOURCES = (
    # This liver holds the tumour ...
    Protocol(901, "LiverTumour", {"liver": ("liver", "liver_tumour"), "tumour": ("liver_tumour",)}),
    # ... and this one does not.
    Protocol(902, "Abdomen", {"liver": ("liver",), "spleen": ("spleen",), "kidneys": ("kidneys",)}),
    Protocol(903, "Torso", {"kidneys": ("kidneys",), "aorta": ("aorta",), "spine": ("vertebrae",)}),
)
TARGET = Protocol(
    904,
    "Target",
    {
        "liver": ("liver", "liver_tumour"),
        "spleen": ("spleen",),
        "kidneys": ("kidneys",),
        "aorta": ("aorta",),
        "spine": ("vertebrae",),
        "lungs": ("lungs",),
    },
)
COLLECTION_ID, COLLECTION = 910, "Collection"
PLANS = "demo_cpu"
CONFIGURATION = "3d_fullres"
TRAINER = "MultiTalentTrainer_stunet_small"


# Mean Dice over held-out patients: model -> class (and "mean") -> Dice.
DiceTable = dict[str, dict[str, float]]


@dataclass(frozen=True)
class TourSize:
    """How much data and training the tour takes.

    The defaults reach a mean Dice of at least 0.85 on held-out phantoms in about ten minutes on two CPU cores.

    Attributes:
        training_cases: Annotated patients per hospital.
        test_cases: Held-out patients per hospital.
        pretraining_epochs: Epochs on the collection.
        finetuning_epochs: Epochs on the fourth dataset.
        iterations_per_epoch: Training batches per epoch.
        spacing: mm, of all axes, instead of the template's.
        seed: Of patients and trainings.
    """

    training_cases: int = 5
    test_cases: int = 2
    pretraining_epochs: int = 6
    finetuning_epochs: int = 4
    iterations_per_epoch: int = 50
    spacing: float | None = None
    seed: int = 0


def take_tour(
    folder: Path,
    *,
    keep: bool,
    device: str = "cpu",
    size: TourSize | None = None,
    runner: Runner = run_as_subprocess,
) -> DiceTable:
    """Runs the whole tour in a new folder.

    Args:
        folder: Must not exist, or be empty.
        keep: Whether nnU-Net's folders and the predictions stay; the table, the evaluations and the logs always do.
        device: ``"cpu"``, ``"cuda"`` or ``"mps"``.
        size: How much data and training.
        runner: Runs one command.

    Raises:
        UserError: The folder holds something, or a command failed; its log is named.
    """
    folder, size = folder.resolve(), size or TourSize()
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; delete it, or choose another folder with --output.")
    beginning = time.perf_counter()
    with output_lock(folder, inside=True):
        # What a user would export: nnU-Net's three folders, and few processes for little data.
        environment = {v: str(folder / v) for v in NNUNET_VARIABLES} | {"nnUNet_def_n_proc": "1"}
        for name, value in environment.items():
            logger.info("$ export %s=%s", name, shlex.quote(value))
        _make_datasets(folder, size)
        for number, (title, command) in enumerate(_steps(folder, size, device), start=1):
            logger.info("\n%d. %s\n$ %s", number, title, shlex.join(command))
            log, start = folder / "logs" / f"{number:02d}_{command[0]}.log", time.perf_counter()
            runner(command, environment, log)
            logger.info("   took %.0f s; output in %s", time.perf_counter() - start, log)
        models = {f"all sources at once: {protocol.name}": protocol for protocol in SOURCES}
        models[f"fine-tuned: {TARGET.name}"] = TARGET
        pages = folder / "evaluation"
        table = {model: read_dice(pages / one.folder_name / "summary.json") for model, one in models.items()}
        write_json(table, folder / "dice.json")
        if not keep:
            for name in (*NNUNET_VARIABLES, "new_patients", "predictions"):
                shutil.rmtree(folder / name)
    minutes = (time.perf_counter() - beginning) / 60
    logger.info("\nThe tour took %.1f minutes. Patients are drawn in %s.", minutes, pages / "*" / "evaluation.html")
    return table


def read_dice(summary_file: Path) -> dict[str, float]:
    """Mean Dice per class name, and their mean, from a ``summary.json`` of ``nnUNetv2_ext_evaluate``."""
    summary = read_json(summary_file)
    dice = {summary["class_names"][key]: means["Dice"] for key, means in summary["mean"].items()}
    return dice | {"mean": fmean(dice.values())}


def as_text(table: DiceTable) -> str:
    """The table for a terminal."""
    rows = [f"{model:<44} {name:<16} {dice:.3f}" for model, of in table.items() for name, dice in of.items()]
    return "\n".join([f"{'model':<44} {'class':<16} Dice", *rows])


def _make_datasets(folder: Path, size: TourSize) -> None:
    """Draws the patients of four hospitals as nnU-Net raw datasets, and gathers those whom the first three hold out."""
    require_writable(folder)
    for name in (*NNUNET_VARIABLES, "new_patients"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, protocol in enumerate((*SOURCES, TARGET)):
        dataset = write_raw_dataset(
            protocol,
            folder / "nnUNet_raw",
            num_training=size.training_cases,
            num_test=size.test_cases,
            first_seed=1000 * size.seed + 100 * number,
        )
        logger.info("%s: phantoms in which %s are annotated", protocol.folder_name, ", ".join(protocol.classes))
        for image in (dataset / "imagesTs").iterdir() if protocol in SOURCES else ():
            shutil.copy(image, folder / "new_patients")


def _steps(folder: Path, size: TourSize, device: str) -> Iterator[tuple[str, list[str]]]:
    """Title and command of every step; the later ones name what the earlier ones made."""
    results = folder / "nnUNet_results"

    def words(text: str, **values: object) -> list[str]:
        known = {"folder": folder, "device": device, "results": results, "collection": COLLECTION_ID}
        return [word.format_map({**known, **values}) for word in text.split()]

    training = (
        f"-device {device} --iterations_per_epoch {size.iterations_per_epoch} --val_iterations_per_epoch 2 "
        f"--num_workers 0 --seed {size.seed} --num_epochs"
    )
    ids = " ".join(str(protocol.dataset_id) for protocol in SOURCES)
    merge = f"nnUNetv2_ext_merge_datasets {ids} -d {{collection}} -n {COLLECTION}"
    yield "Merge three partially annotated datasets into one collection", words(merge)
    spacing = "" if size.spacing is None else f" --spacing {size.spacing} {size.spacing} {size.spacing}"
    yield "Adapt a plan template to it", words(f"nnUNetv2_ext_plan -d {{collection}} -t {PLANS} -np 1{spacing}")
    preprocess = f"nnUNetv2_preprocess -d {{collection}} -plans_name {PLANS} -c {CONFIGURATION} -np 1"
    yield "Preprocess it (nnU-Net's own command)", words(preprocess)
    train = f"nnUNetv2_ext_train {{collection}} {CONFIGURATION} 0 -p {PLANS} -tr {TRAINER} {training}"
    yield "Train one network on all of it", words(f"{train} {size.pretraining_epochs}")
    model = results / f"Dataset{COLLECTION_ID}_{COLLECTION}" / f"{TRAINER}__{PLANS}__{CONFIGURATION}"
    finetune = f"nnUNetv2_ext_finetune {TARGET.dataset_id} {CONFIGURATION} 0 -pretrained_weights {{weights}} -np 1 "
    finetune += f"{training} {size.finetuning_epochs} --initial_lr 0.01"
    weights = model / "fold_0" / "checkpoint_final.pth"
    yield "Fine-tune it on a fourth dataset, which also annotates the lungs", words(finetune, weights=weights)

    predict = "nnUNetv2_ext_predict -i {folder}/new_patients -o {folder}/predictions/per_source -d {collection} "
    predict += f"-tr {TRAINER} -p {PLANS} -c {CONFIGURATION} -f 0 --outputs per_source --disable_tta -device {{device}}"
    yield "Predict new patients, annotated as each of the sources would", words(predict)
    found = sorted((results / TARGET.folder_name).glob(f"*__*__{CONFIGURATION}"))
    if len(found) != 1:
        raise UserError(f"Expected one fine-tuned model in the demo's results, but found {len(found)}.")
    trainer, plans, _ = found[0].name.split("__")
    predict = "nnUNetv2_predict -i {folder}/nnUNet_raw/{target}/imagesTs -o {folder}/predictions/{target} "
    predict += f"-d {TARGET.dataset_id} -tr {trainer} -p {plans} -c {CONFIGURATION} -f 0 --disable_tta -npp 1 -nps 1 "
    title = "Predict new patients with the fine-tuned network (nnU-Net's own command)"
    yield title, words(predict + "-device {device}", target=TARGET.folder_name)
    evaluate = "nnUNetv2_ext_evaluate -gt {raw}/labelsTs -pred {folder}/predictions/{name} -djfile {raw}/dataset.json "
    evaluate += "-i {raw}/imagesTs -o {folder}/evaluation/{dataset} -np 1"
    for protocol in (*SOURCES, TARGET):
        dataset = protocol.folder_name
        name = dataset if protocol is TARGET else f"per_source/{protocol.name}"
        values = {"raw": folder / "nnUNet_raw" / dataset, "name": name, "dataset": dataset}
        yield f"Score the predictions for {protocol.name}", words(evaluate, **values)
