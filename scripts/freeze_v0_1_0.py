"""Writes ``tests/data/v0_1_0``: small files of every kind that version 0.1.0 leaves behind; see the README.md there.

It has to be run with the code of that version and nnU-Net 2.8.1, in a checkout of this repository:

    git worktree add ../v0_1_0 432d4c3
    PYTHONPATH=../v0_1_0:tests python scripts/freeze_v0_1_0.py
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from fixtures import preprocessed_datasets, published_checkpoints

TARGET = Path(__file__).resolve().parents[1] / "tests" / "data" / "v0_1_0"
CASES = 5
LABELS = {"Left": {"background": 0, "liver": 1, "tumour": 2}, "Right": {"background": 0, "spleen": 1, "kidney": 2}}
TREE: dict[str, Any] = {"background": {}, "body": {"organs": {"spleen": {}, "kidney": {}}, "body_other": {}}}
SHORT = ["-device", "cpu", "--iterations_per_epoch", "60", "--val_iterations_per_epoch", "1", "--batch_size", "2",
         "--seed", "1", "--num_workers", "0", "--initial_lr", "0.003"]  # fmt: skip

KILLED = """
import os, signal, sys
from nnunetv2_ext.{package} import {module} as module
from nnunetv2_ext.cli.{command} import main
work, done = module.{function}, []
def work_until_killed(job):
    if len(done) == {cases}:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(job)
    return work(job)
module.{function} = work_until_killed
main(sys.argv[1:])
"""


def run(command: str, *arguments: str) -> None:
    """Runs one of our commands in this process."""
    code = importlib.import_module(f"nnunetv2_ext.cli.{command}").main(arguments)
    if code:
        raise SystemExit(f"{command} {' '.join(arguments)} ended with {code}.")


def run_until_killed(package: str, module: str, function: str, cases: int, command: str, *arguments: str) -> None:
    """Runs one of our commands, which ends as ``kill -9`` does when the function is called once more than so often."""
    code = KILLED.format(package=package, module=module, function=function, cases=cases, command=command)
    if subprocess.run([sys.executable, "-c", code, *arguments]).returncode != -signal.SIGKILL:
        raise SystemExit(f"{command} was not killed.")


def write(array: np.ndarray, path: Path) -> None:
    """Writes an array (z, y, x) with a spacing and an origin of its own."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.5, 1.5, 2.0))
    image.SetOrigin((-10.0, 5.0, 30.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def structures(rng: np.random.Generator) -> np.ndarray:
    """A sphere (1) with a smaller one (2) inside, in 20 x 24 x 24 voxels."""
    grid = np.stack(np.meshgrid(*(np.arange(size) for size in (20, 24, 24)), indexing="ij"), -1)
    distance = np.linalg.norm(grid - rng.integers(8, 13, 3), axis=-1)
    return ((distance < 7).astype(np.uint8) + (distance < 3)).astype(np.uint8)


def scan(label_map: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """HU that tell the structures apart, with one bit of noise, which compresses well."""
    return (label_map * 100.0 + rng.integers(0, 2, label_map.shape) * 30).astype(np.int16)


def write_sources(raw: Path) -> None:
    """Two raw datasets, a tree dataset of both and one folder of scans with overlapping masks."""
    rng = np.random.default_rng(0)
    tree_labels = {"background": 0, "body": 1, "organs": 2, "spleen": 3, "kidney": 4, "body_other": 5}
    tree_values = {"Left": np.array([0, 2, 2], np.uint8), "Right": np.array([0, 3, 4], np.uint8)}
    sources = {"Left": ["organs"], "Right": ["spleen", "kidney"]}
    tree = raw / "Dataset004_Tree"
    for number, (source, labels) in enumerate(LABELS.items(), start=1):
        folder = raw / f"Dataset{number:03d}_{source}"
        for case in range(CASES):
            label_map = structures(rng)
            image = scan(label_map + 2 * (number - 1) * (label_map > 0), rng)
            write(image, folder / "imagesTr" / f"{source}_{case}_0000.nii.gz")
            write(label_map, folder / "labelsTr" / f"{source}_{case}.nii.gz")
            write(image, tree / "imagesTr" / f"{source}_{case}_0000.nii.gz")
            write(tree_values[source][label_map], tree / "labelsTr" / f"{source}_{case}.nii.gz")
        write_json(folder / "dataset.json", labels=labels, numTraining=CASES)
    partial = {
        name: {"classes": sources[name], "cases": [f"{name}_{case}" for case in range(CASES)]} for name in LABELS
    }
    write_json(
        tree / "dataset.json", labels=tree_labels, label_tree=TREE, partial_labels=partial, numTraining=2 * CASES
    )
    for case in range(3):
        label_map = structures(rng)
        folder = TARGET / "conversion" / "source" / f"patient_{case}"
        write(scan(label_map, rng), folder / "ct.nii.gz")
        # The smaller sphere lies inside the larger: masks that overlap wait in .conversion/encoded.
        write((label_map > 0).astype(np.uint8), folder / "segmentations" / "liver.nii.gz")
        write((label_map > 1).astype(np.uint8), folder / "segmentations" / "tumour.nii.gz")


def write_json(path: Path, **content: object) -> None:
    """A dataset.json of CTs."""
    path.write_text(
        json.dumps({"channel_names": {"0": "CT"}, "file_ending": ".nii.gz", **content}, indent=1), encoding="utf-8"
    )


def convert(folder: Path) -> None:
    """One finished conversion, one that is killed after two of three cases."""
    arguments = ["masks", "-i", str(TARGET / "conversion" / "source"), "-np", "1", "--copy_images"]
    run("convert_dataset", *arguments, "-d", "5", "-n", "Finished")
    killed = ("dataset_conversion", "raw_dataset", "convert_case", 2, "convert_dataset")
    run_until_killed(*killed, *arguments, "-d", "6", "-n", "Interrupted")
    # The absolute path of the source is part of the record; the test puts its own in place of the word SOURCE.
    for name in ("Dataset005_Finished", "Dataset006_Interrupted"):
        for file in (folder / name).rglob("*.json"):
            file.write_text(file.read_text().replace(str(TARGET / "conversion" / "source"), "SOURCE"))
        shutil.move(folder / name, TARGET / "conversion" / name)


def merge() -> None:
    """One finished collection, and what a merge leaves that is killed after three cases."""
    arguments = ["Left=1", "Right=2", "-np", "1", "--copy"]
    run("merge_datasets", *arguments, "-d", "3", "-n", "Collection")
    killed = ("dataset_conversion", "merge", "merge_case", 3, "merge_datasets")
    run_until_killed(*killed, *arguments, "-d", "7", "-n", "Merge")


def narrow(plans_file: Path, features: list[int]) -> None:
    """Makes the planned networks a few channels wide, with one convolution or block per stage."""
    plans = json.loads(plans_file.read_text(encoding="utf-8"))
    stages = len(features)
    for configuration in plans["configurations"].values():
        if "architecture" in configuration:
            arguments = configuration["architecture"]["arch_kwargs"]
            arguments["features_per_stage"] = features
            for name in {"strides", "kernel_sizes"} & set(arguments):
                arguments[name] = arguments[name][:stages]
            for name in {"n_blocks_per_stage", "n_conv_per_stage"} & set(arguments):
                arguments[name] = [1] * stages
            if "n_stages" in arguments:
                arguments.update(n_stages=stages, n_conv_per_stage_decoder=[1] * (stages - 1))
    plans_file.write_text(json.dumps(plans, indent=1), encoding="utf-8")


def train(preprocessed: Path) -> None:
    """One model of every kind, and one training that is killed after its first epoch."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    for number, name in ((1, "Left"), (3, "Collection"), (4, "Tree")):
        extract_fingerprints([number], num_processes=1)
        folder = preprocessed / f"Dataset{number:03d}_{name}"
        if name == "Left":
            run("plan", "-d", "1", "-t", "stunet_ct", "--patch_size", "16", "24", "24")
            # nnU-Net's trainer gives the lowest level no weight, so that there must be two.
            plans, features = "stunet_ct", [3, 4, 4]
        else:
            plan_experiments([number])
            plans, features = "nnUNetPlans", [4, 6]
        narrow(folder / f"{plans}.json", features)
        preprocess([number], plans, configurations=["3d_fullres"], num_processes=[1])
    for template in ("multitalent_resenc", "multitalent_unet", "salt", "spleen_ct_unet", "wholebody_ct_segresnet_3mm"):
        run("plan", "-d", "1", "-t", template)
    once = [*SHORT, "--num_epochs", "1"]
    run("train", "1", "3d_fullres", "0", "-tr", "nnUNetTrainer", "-p", "stunet_ct", *once)
    run("train", "3", "3d_fullres", "0", "-tr", "MultiTalentTrainer_unet", *once)
    run("train", "4", "3d_fullres", "0", "-tr", "LabelTreeTrainer_unet", *once)
    killed = ("training.trainers", "base", "ExtTrainer.on_epoch_start", 1, "train")
    arguments = ["3", "3d_fullres", "1", "-tr", "MultiTalentTrainer_unet", *SHORT, "--save_every", "1"]
    run_until_killed(*killed, *arguments, "--num_epochs", "5")


def import_published(results: Path, scratch: Path) -> None:
    """Checkpoints with the names of published ones, and the model folders that they are imported to."""
    import torch
    from monai.networks.nets import UNet

    from nnunetv2_ext.architectures.stunet import STUNet
    from nnunetv2_ext.checkpoints import read_checkpoint, write_safetensors

    folder = TARGET / "checkpoints"
    folder.mkdir()
    torch.manual_seed(0)
    strides = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
    network = STUNet(1, 3, features_per_stage=[3, 4, 4], n_blocks_per_stage=[1, 1, 1], strides=strides)
    layers: Any = network.decoder.seg_layers
    for layer in layers:
        torch.nn.init.normal_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    state = published_checkpoints._published_names(network)
    torch.save({"epoch": 4000, "state_dict": state}, folder / "stunet_v1.model")
    plans = published_checkpoints._plans_v1(strides[1:], [16, 24, 24], [2.0, 1.5, 1.5], scheme="CT")
    init = ("plans.pkl", 0, "out", "data", True, 0, True, False, True)
    info = {"init": init, "name": "STUNetTrainer", "class": "<class 'STUNetTrainer'>", "plans": plans}
    (folder / "stunet_v1.model.pkl").write_bytes(pickle.dumps(info, protocol=2))
    bundle = UNet(3, 1, 2, channels=(2, 4), strides=(2,), num_res_units=2, norm="batch")
    torch.save(bundle.state_dict(), folder / "model.pt")
    labels = scratch / "dataset.json"
    write_json(labels, labels=LABELS["Left"])
    run("import_weights", str(folder / "stunet_v1.model"), "-d", "Dataset901_Published", "--labels",
        str(labels))  # fmt: skip
    run("import_weights", str(folder / "model.pt"), "-d", "Dataset902_Bundle")
    trained = results / "Dataset001_Left" / "nnUNetTrainer__stunet_ct__3d_fullres"
    write_safetensors(read_checkpoint(trained), folder / "trained.safetensors")


def keep_results(results: Path) -> None:
    """Copies what later work reads from the results, and predicts a scan with every model."""
    # Logs, pictures and validation results are read by people only.
    needed = {"checkpoint_final.pth", "training_options.json"}
    scans = TARGET / "scan"
    rng = np.random.default_rng(7)
    label_map = structures(rng)
    write(scan(label_map, rng), scans / "case_0000.nii.gz")
    for model in sorted(results.glob("Dataset*/*")):
        for file in sorted(model.rglob("*")):
            in_model_folder = file.parent == model and file.suffix == ".json"
            if in_model_folder or (file.name in needed and file.parent.name == "fold_0"):
                copy(file, TARGET / "results" / file.relative_to(results))
        output = Path(tempfile.mkdtemp())
        run("predict", "-i", str(scans), "-o", str(output), "-m", str(model), "-f", "0", "-device", "cpu")
        copy(output / "case.nii.gz", TARGET / "predictions" / f"{model.parent.name}.nii.gz")
    killed = results / "Dataset003_Collection" / "MultiTalentTrainer_unet__nnUNetPlans__3d_fullres" / "fold_1"
    for name in ("checkpoint_latest.pth", "training_options.json"):
        copy(killed / name, TARGET / "results" / killed.relative_to(results) / name)


def copy(source: Path, target: Path) -> None:
    """Copies a file to a folder that need not be there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def main() -> None:
    """Replaces everything in the target but its README.md."""
    for entry in TARGET.glob("*"):
        if entry.is_dir():
            shutil.rmtree(entry)
    with tempfile.TemporaryDirectory() as name:
        folders = {
            variable: Path(name) / variable for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        }
        for variable, folder in folders.items():
            folder.mkdir()
            os.environ[variable] = str(folder)
        os.environ["nnUNet_n_proc_DA"] = "1"
        preprocessed_datasets._use_threads(pytest.MonkeyPatch())
        raw, preprocessed, results = folders.values()
        write_sources(raw)
        convert(raw)
        merge()
        train(preprocessed)
        import_published(results, Path(name))
        keep_results(results)
        for entry in raw.iterdir():
            if "Tree" not in entry.name:
                shutil.copytree(entry, TARGET / "raw" / entry.name)
        for file in preprocessed.rglob("*.json"):
            if "Tree" not in str(file):
                copy(file, TARGET / "preprocessed" / file.relative_to(preprocessed))


if __name__ == "__main__":
    main()
