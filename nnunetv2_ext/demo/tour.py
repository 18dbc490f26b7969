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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunetv2_ext.demo.commands import Runner, run_as_subprocess
from nnunetv2_ext.demo.phantom_datasets import Protocol, write_raw_dataset
from nnunetv2_ext.demo.results import DiceTable, read_summary
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import require_writable
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


@dataclass(frozen=True)
class Step:
    """A command of the tour that has been run.

    Attributes:
        title: What it does.
        command: Its words.
        seconds: How long it took.
    """

    title: str
    command: tuple[str, ...]
    seconds: float


@dataclass
class Tour:
    """Runs the tour in a folder of its own; see `run`.

    Attributes:
        folder: Receives nnU-Net's three folders, logs, predictions, the table and the evaluations.
        size: How much data and training.
        device: ``"cpu"``, ``"cuda"`` or ``"mps"``.
        runner: Runs one command.
        steps: What has been run.
    """

    folder: Path
    size: TourSize = field(default_factory=TourSize)
    device: str = "cpu"
    runner: Runner = run_as_subprocess
    steps: list[Step] = field(default_factory=list)

    def run(self) -> DiceTable:
        """Runs every step and returns the Dice of all models on held-out phantoms.

        Raises:
            UserError: A command failed; its log is named.
        """
        self.make_datasets()
        self.build_collection()
        self.pretrain()
        self.finetune()
        self.predict()
        return self.evaluate()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that a user would export: nnU-Net's three folders, and few processes for little data."""
        return {v: str(self.folder / v) for v in NNUNET_VARIABLES} | {"nnUNet_def_n_proc": "1"}

    @property
    def raw(self) -> Path:
        """``nnUNet_raw``."""
        return self.folder / "nnUNet_raw"

    def model(self, dataset: str, trainer: str, plans: str) -> Path:
        """Model folder of a training of the tour."""
        return self.folder / "nnUNet_results" / dataset / f"{trainer}__{plans}__{CONFIGURATION}"

    @property
    def pretrained_model(self) -> Path:
        """The network that learned the whole collection."""
        return self.model(f"Dataset{COLLECTION_ID}_{COLLECTION}", TRAINER, PLANS)

    @property
    def finetuned_model(self) -> Path:
        """The network that was fine-tuned on the fourth dataset."""
        found = sorted((self.folder / "nnUNet_results" / TARGET.folder_name).glob(f"*__*__{CONFIGURATION}"))
        if len(found) != 1:
            raise UserError(f"Expected one fine-tuned model in the demo's results, but found {len(found)}.")
        return found[0]

    def make_datasets(self) -> None:
        """Draws the patients of four hospitals and writes them as nnU-Net raw datasets."""
        require_writable(self.folder)
        for variable in NNUNET_VARIABLES:
            (self.folder / variable).mkdir(parents=True, exist_ok=True)
        for name, value in self.environment.items():
            logger.info("$ export %s=%s", name, shlex.quote(value))
        for number, protocol in enumerate((*SOURCES, TARGET)):
            write_raw_dataset(
                protocol,
                self.raw,
                num_training=self.size.training_cases,
                num_test=self.size.test_cases,
                first_seed=1000 * self.size.seed + 100 * number,
            )
            logger.info("%s: phantoms in which %s are annotated", protocol.folder_name, ", ".join(protocol.classes))

    def build_collection(self) -> None:
        """Merges the three sources, plans and preprocesses the collection."""
        ids = [str(protocol.dataset_id) for protocol in SOURCES]
        merge = ["nnUNetv2_ext_merge_datasets", *ids, "-d", str(COLLECTION_ID), "-n", COLLECTION]
        self._step("Merge three partially annotated datasets into one collection", merge)
        plan = ["nnUNetv2_ext_plan", "-d", str(COLLECTION_ID), "-t", PLANS, "-np", "1"]
        if self.size.spacing is not None:
            plan += ["--spacing", *[str(self.size.spacing)] * 3]
        self._step("Adapt a plan template to it", plan)
        self._step(
            "Preprocess it (nnU-Net's own command)",
            ["nnUNetv2_preprocess", "-d", str(COLLECTION_ID), "-plans_name", PLANS, "-c", CONFIGURATION, "-np", "1"],
        )

    def pretrain(self) -> None:
        """Trains one network on everything that any of the sources annotates."""
        command = ["nnUNetv2_ext_train", str(COLLECTION_ID), CONFIGURATION, "0", "-p", PLANS, "-tr", TRAINER]
        self._step("Train one network on all of it", command + self._training_flags(self.size.pretraining_epochs))

    def finetune(self) -> None:
        """Fine-tunes that network on the fourth dataset; plans and preprocessing follow those of the pretraining."""
        weights = self.pretrained_model / "fold_0" / "checkpoint_final.pth"
        command = ["nnUNetv2_ext_finetune", str(TARGET.dataset_id), CONFIGURATION, "0"]
        command += ["-pretrained_weights", str(weights), "-np", "1"]
        self._step(
            "Fine-tune it on a fourth dataset, which also annotates the lungs",
            command + self._training_flags(self.size.finetuning_epochs) + ["--initial_lr", "0.01"],
        )

    def predict(self) -> None:
        """Predicts held-out patients: with the collection's network per source, with the fine-tuned one by stock."""
        patients = self.folder / "new_patients"
        patients.mkdir()
        for protocol in SOURCES:
            for image in (self.raw / protocol.folder_name / "imagesTs").iterdir():
                shutil.copy(image, patients)
        where = ["-i", str(patients), "-o", str(self.folder / "predictions" / "per_source")]
        model = ["-d", str(COLLECTION_ID), "-tr", TRAINER, "-p", PLANS, "-c", CONFIGURATION, "-f", "0"]
        self._step(
            "Predict new patients, annotated as each of the sources would",
            [
                "nnUNetv2_ext_predict",
                *where,
                *model,
                "--outputs",
                "per_source",
                "--disable_tta",
                "-device",
                self.device,
            ],
        )
        trainer, plans, _ = self.finetuned_model.name.split("__")
        where = ["-i", str(self.raw / TARGET.folder_name / "imagesTs"), "-o", str(self.predictions(TARGET))]
        model = ["-d", str(TARGET.dataset_id), "-tr", trainer, "-p", plans, "-c", CONFIGURATION, "-f", "0"]
        workers = ["-npp", "1", "-nps", "1"]
        self._step(
            "Predict new patients with the fine-tuned network (nnU-Net's own command)",
            ["nnUNetv2_predict", *where, *model, "--disable_tta", "-device", self.device, *workers],
        )

    def predictions(self, protocol: Protocol) -> Path:
        """Where label maps in the integers of a dataset are predicted."""
        if protocol is TARGET:
            return self.folder / "predictions" / TARGET.name
        return self.folder / "predictions" / "per_source" / protocol.name

    def evaluate(self) -> DiceTable:
        """Scores all predictions and writes the table."""
        table = DiceTable()
        for protocol in SOURCES:
            dice = self._score(protocol, self.predictions(protocol))
            table.rows[f"all sources at once: {protocol.name}"] = dice
        table.rows[f"fine-tuned: {TARGET.name}"] = self._score(TARGET, self.predictions(TARGET))
        table.save(self.folder / "dice.json")
        return table

    def _score(self, protocol: Protocol, predictions: Path) -> dict[str, float]:
        raw, output = self.raw / protocol.folder_name, self.folder / "evaluation" / protocol.folder_name
        command = ["nnUNetv2_ext_evaluate", "-gt", str(raw / "labelsTs"), "-pred", str(predictions)]
        command += ["-djfile", str(raw / "dataset.json"), "-i", str(raw / "imagesTs"), "-o", str(output), "-np", "1"]
        self._step(f"Score the predictions for {protocol.name}", command)
        return read_summary(output / "summary.json")

    def _training_flags(self, epochs: int) -> list[str]:
        flags = {
            "-device": self.device,
            "--num_epochs": epochs,
            "--iterations_per_epoch": self.size.iterations_per_epoch,
            "--val_iterations_per_epoch": 2,
            "--num_workers": 0,
            "--seed": self.size.seed,
        }
        return [str(word) for flag in flags.items() for word in flag]

    def _step(self, title: str, command: Sequence[str]) -> None:
        logger.info("\n%d. %s\n$ %s", len(self.steps) + 1, title, shlex.join(command))
        log = self.folder / "logs" / f"{len(self.steps) + 1:02d}_{command[0]}.log"
        start = time.perf_counter()
        self.runner(command, self.environment, log)
        self.steps.append(Step(title, tuple(command), time.perf_counter() - start))
        logger.info("   took %.0f s; output in %s", self.steps[-1].seconds, log)


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

    Returns:
        Dice per model and class.

    Raises:
        UserError: The folder holds something, or a command failed.
    """
    folder = folder.resolve()
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; delete it, or choose another folder with --output.")
    start = time.perf_counter()
    with output_lock(folder, inside=True):
        table = Tour(folder, size or TourSize(), device, runner).run()
        if not keep:
            for name in (*NNUNET_VARIABLES, "new_patients", "predictions"):
                shutil.rmtree(folder / name)
    logger.info(
        "\nThe tour took %.1f minutes. Patients are drawn in %s.",
        (time.perf_counter() - start) / 60,
        folder / "evaluation" / TARGET.folder_name / "evaluation.html",
    )
    return table
