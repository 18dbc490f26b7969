"""Every command that reads images refuses every kind of bad file by name, and does the other cases all the same."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
from fixtures.bad_images import BAD, GOOD, VOXELS, write_good

import nnunetv2_ext.cli

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")


class Run:
    """Folders and files for one run of a command over cases of one ending: one good case and the ``odd`` ones."""

    def __init__(self, folder: Path, model: Path, ending: str, odd: Mapping[str, Callable[[Path], object]]) -> None:
        self.folder, self.model, self.ending, self.odd = folder, model, ending, odd
        self.cases = {"good": _write_good, **odd}
        self.order = folder / "order.json"
        self.order.write_text(json.dumps(self.dataset_json(1)))

    def place(self, template: str, *, good: bool = False) -> Path:
        """Writes a file per case; ``good`` where the odd ones are not to be odd in this place. Returns the folder."""
        for case, write in self.cases.items():
            file = self.folder / (template.format(case) + self.ending)
            file.parent.mkdir(parents=True, exist_ok=True)
            (_write_good if good else write)(file)
        return self.folder / Path(template).parts[0]

    def main(self, module: Any, *arguments: object) -> int:
        """Runs a command."""
        return module.main([str(argument) for argument in arguments])

    def dataset_json(self, cases: int) -> dict[str, Any]:
        """For label maps of the bad images."""
        labels = {"background": 0, "liver": 1, "spleen": 2, "aorta": 3}
        return {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": cases, "file_ending": self.ending}


# One function per command and role of a file: it makes the folders, calls ``main`` and returns the exit code and, by
# case, whether there is a result.


def convert_image(run: Run, *, odd_labels: bool = False) -> tuple[int, dict[str, Path]]:
    from nnunetv2_ext.cli import convert_dataset

    run.place("source/images/{}", good=odd_labels)
    source = run.place("source/labels/{}", good=not odd_labels)
    patterns = ("--image", f"images/{{case}}{run.ending}", "--label", f"labels/{{case}}{run.ending}")
    options = ("-d", 1, "-n", "Odd", "-np", 1, "--order", run.order, "--accept", "duplicate")
    code = run.main(convert_dataset, "label_maps", "-i", source, *patterns, *options)
    return code, _results(run.folder / "nnUNet_raw/Dataset001_Odd/labelsTr")


def convert_label(run: Run) -> tuple[int, dict[str, Path]]:
    return convert_image(run, odd_labels=True)


def convert_mask(run: Run) -> tuple[int, dict[str, Path]]:
    from nnunetv2_ext.cli import convert_dataset

    run.place("source/{}/image", good=True)
    source = run.place("source/{}/masks/liver")
    patterns = ("--image", f"{{case}}/image{run.ending}", "--label", f"{{case}}/masks/{{class}}{run.ending}")
    code = run.main(convert_dataset, "masks", "-i", source, "-d", 1, "-n", "Odd", "-np", 1, *patterns)
    return code, _results(run.folder / "nnUNet_raw/Dataset001_Odd/labelsTr")


def merge_image(run: Run, *, odd_labels: bool = False) -> tuple[int, dict[str, Path]]:
    from nnunetv2_ext.cli import merge_datasets

    dataset = "nnUNet_raw/Dataset001_Odd"
    run.place(f"{dataset}/imagesTr/{{}}_0000", good=odd_labels)
    run.place(f"{dataset}/labelsTr/{{}}", good=not odd_labels)
    (run.folder / dataset / "dataset.json").write_text(json.dumps(run.dataset_json(len(run.cases))))
    code = run.main(merge_datasets, 1, "-d", 2, "-n", "Merged", "-np", 1)
    return code, {
        name.removeprefix("Odd_"): file
        for name, file in _results(run.folder / "nnUNet_raw/Dataset002_Merged/labelsTr").items()
    }


def merge_label(run: Run) -> tuple[int, dict[str, Path]]:
    return merge_image(run, odd_labels=True)


def remap(run: Run) -> tuple[int, dict[str, Path]]:
    from nnunetv2_ext.cli import remap_labels

    orders = ("--from", run.order, "--to", run.order)
    code = run.main(remap_labels, "-i", run.place("maps/{}"), "-o", run.folder / "out", *orders, "-np", 1)
    return code, _results(run.folder / "out")


def predict(run: Run) -> tuple[int, dict[str, Path]]:
    from nnunetv2_ext.cli import predict

    how = ("-m", run.model, "-f", 0, "-device", "cpu", "--disable_tta", "-npp", 0, "-nps", 0)
    code = run.main(predict, "-i", run.place("images/{}"), "-o", run.folder / "out", *how)
    return code, _results(run.folder / "out")


def evaluate_prediction(run: Run, *, odd_references: bool = False) -> tuple[int, dict[str, Path]]:
    from nnunetv2_ext.cli import evaluate

    run.place("maps/gt/{}", good=not odd_references)
    maps = run.place("maps/pred/{}", good=odd_references)
    folders = ("-gt", maps / "gt", "-pred", maps / "pred", "-o", run.folder / "out")
    code = run.main(evaluate, *folders, "-djfile", run.order, "-np", 1)
    summary = json.loads((run.folder / "out/summary.json").read_text())
    files = [Path(entry["reference_file"]) for entry in summary["metric_per_case"]]
    return code, {file.name.partition(".")[0]: file for file in files}


def evaluate_reference(run: Run) -> tuple[int, dict[str, Path]]:
    return evaluate_prediction(run, odd_references=True)


def _results(folder: Path) -> dict[str, Path]:
    files = folder.glob("*.n*") if folder.is_dir() else ()
    return {file.name.partition(".")[0]: file for file in (*files, *folder.glob("*.mha"))}


def _write_good(file: Path) -> None:
    """The good image in the format that the file's name ends with."""
    if ".nii" in file.name:
        return write_good(file)
    image = SimpleITK.GetImageFromArray(VOXELS)
    image.SetSpacing((1.5, 1.5, 2.0))
    return SimpleITK.WriteImage(image, str(file))


#: Command -> what calls it, once for each role that a file plays.
READERS = {
    "convert_dataset": (convert_image, convert_label, convert_mask),
    "merge_datasets": (merge_image, merge_label),
    "remap_labels": (remap,),
    "predict": (predict,),
    "evaluate": (evaluate_prediction, evaluate_reference),
}

#: Commands that open no image of the user's, or one dataset or case of them, and what they read.
OTHERS = {
    "demo": "what it has made itself",
    "export": "model folders",
    "finetune": "checkpoints and what stock nnU-Net preprocessed",
    "import_weights": "checkpoints",
    "info": "model folders and checkpoints",
    "plan": "plans and the fingerprint that stock nnU-Net extracted",
    "report": "a raw dataset",
    "serve": "scans that are sent to it",
    "to_dicom": "a label map and its series",
    "train": "what stock nnU-Net preprocessed",
    "view": "a scan with its label maps",
}

CALLS = [call for calls in READERS.values() for call in calls]


@pytest.fixture
def make_run(nnunet_folders, softmax_model):
    """Makes a run of all files of an ending, which may not take for ever."""

    def too_long(number, frame):
        raise TimeoutError("the command hangs")

    previous = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(120)

    def make(files: Mapping[str, tuple[str, Callable[[Path], object]]], ending: str) -> Run:
        odd = {kind.replace(" ", "-"): write for kind, (its_ending, write) in files.items() if its_ending == ending}
        return Run(nnunet_folders, softmax_model, ending, odd)

    yield make
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("call", CALLS)
def test_bad_files_are_refused_by_name_and_the_others_are_done(make_run, capfd, call, ending):
    run = make_run(BAD, ending)
    code, results = call(run)
    said = "".join(capfd.readouterr())
    assert "Traceback" not in said
    assert {case for case in run.odd if case not in said} == set()
    # A merge makes one dataset of all cases, or none.
    is_merge = call in READERS["merge_datasets"]
    assert set(results) == (set() if is_merge else {"good"})
    assert code == (2 if is_merge else 1)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("call", CALLS)
def test_unusual_files_are_as_good_as_any(make_run, capfd, call, ending):
    run = make_run(GOOD, ending)
    code, results = call(run)
    assert code == 0, capfd.readouterr()
    assert results.keys() == run.cases.keys()
    if call in READERS["evaluate"]:
        return
    read = _voxels(results["good"])
    for case in run.odd:
        np.testing.assert_array_equal(_voxels(results[case]), read, err_msg=case)


def _voxels(file: Path) -> np.ndarray:
    if ".nii" in file.name:
        image: Any = nibabel.load(file)  # NIfTI-1 or NIfTI-2
        return np.asarray(image.dataobj)
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file))).T


def test_every_command_is_here():
    folder = Path(nnunetv2_ext.cli.__path__[0])
    commands = {file.stem for file in folder.glob("*.py") if not file.stem.startswith("_")}
    assert commands == READERS.keys() | OTHERS.keys()


def test_every_kind_has_a_good_name_and_an_ending_that_all_commands_read():
    for kind, (ending, _) in (BAD | GOOD).items():
        assert ending in ENDINGS, kind
