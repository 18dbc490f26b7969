"""Stock nnU-Net commands in processes of their own, on a real CT and on a folder in SALT's layout.

The plugin is found without any variable set by hand. One epoch of two iterations says nothing about accuracy; the point
is that every step accepts what the step before it wrote.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunetv2_ext.architectures.stunet import PUBLISHED_STRIDES, STUNET_SIZES, STUNet
from nnunetv2_ext.labels.label_order import LabelOrder

DATASET = "Dataset061_RealCT"
SHORT = {"num_epochs": 1, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1}


def run_here(command: str, *arguments: str) -> None:
    """Runs a command of this package in this process, which saves the start of Python and torch."""
    (point,) = entry_points(group="console_scripts", name=command)
    assert point.load()(list(arguments)) == 0, f"{command} {' '.join(arguments)}"


@pytest.mark.slow
def test_plan_train_and_predict_with_stock_commands(real_dataset, nnunet_folders, run_installed):
    run_installed("nnUNetv2_plan_and_preprocess", "-d", "61", "-c", "3d_fullres", "-np", "1", "-npfp", "1")
    run_installed(
        "nnUNetv2_train", "61", "3d_fullres", "0", "-tr", "STUNetTrainer_small", "-device", "cpu",
        nnUNetv2_ext_settings=json.dumps(SHORT),
    )  # fmt: skip
    output = nnunet_folders / "prediction"
    run_installed(
        "nnUNetv2_predict", "-i", str(real_dataset / "imagesTr"), "-o", str(output), "-d", "61", "-c", "3d_fullres",
        "-tr", "STUNetTrainer_small", "-f", "0", "-device", "cpu", "--disable_tta", "-npp", "1", "-nps", "1",
    )  # fmt: skip
    for index in range(5):
        prediction = sitk.ReadImage(str(output / f"slab_{index}.nii.gz"))
        image = sitk.ReadImage(str(real_dataset / "imagesTr" / f"slab_{index}_0000.nii.gz"))
        assert prediction.GetSize() == image.GetSize()
        assert prediction.GetDirection() == image.GetDirection()
        assert sitk.GetArrayViewFromImage(prediction).max() <= 61


def write_published_checkpoint(
    path: Path, published_names: Callable[[torch.nn.Module], dict[str, torch.Tensor]]
) -> None:
    """A STU-Net S with random weights in the layout of ``small_ep4k.model``."""
    network = STUNet(1, 105, **STUNET_SIZES["S"].arguments, strides=PUBLISHED_STRIDES)
    state = published_names(network)
    torch.save({"epoch": 4000, "state_dict": state, "plot_stuff": [np.zeros(3)], "best_stuff": None}, path)


def _labels_of(raw: Path) -> list[str]:
    return list(json.loads((raw / "dataset.json").read_text())["labels"])


@pytest.mark.slow
def test_import_and_fine_tune_a_published_checkpoint(real_dataset, nnunet_folders, published_names, run_installed):
    checkpoint = nnunet_folders / "small_ep4k.model"
    write_published_checkpoint(checkpoint, published_names)
    printed = run_installed("nnUNetv2_ext_import_weights", str(checkpoint), "-d", "Dataset101_TotalSegmentator")
    assert "nnUNetv2_predict" in printed
    model = nnunet_folders / "nnUNet_results" / "Dataset101_TotalSegmentator"
    assert next(model.glob("STUNetTrainer_small__*__3d_fullres/fold_0/checkpoint_final.pth")).is_file()

    run_installed(
        "nnUNetv2_ext_plan", "-d", "61", "-t", "stunet_totalsegmentator", "--name", "small_windows",
        "--spacing", "3", "3", "3", "--patch_size", "32", "64", "64", "-np", "1",
    )  # fmt: skip
    run_installed(
        "nnUNetv2_ext_finetune", "61", "3d_fullres", "0", "-pretrained_weights", str(checkpoint), "-device", "cpu",
        "-p", "small_windows",
        "--num_epochs", "1", "--iterations_per_epoch", "1", "--val_iterations_per_epoch", "1", "--num_workers", "0",
        "--batch_size", "1", "-np", "1",
    )  # fmt: skip
    (folder,) = (nnunet_folders / "nnUNet_results" / DATASET).glob("STUNetTrainer_small_ft__*__3d_fullres/fold_0")
    assert (folder / "validation" / "summary.json").is_file()
    log = next(folder.glob("training_log_*.txt")).read_text()
    (line,) = [line for line in log.splitlines() if "classes with pretrained heads: " in line]
    names = line.split(": ")[1].split(", ")
    # The published weights know the 104 classes of TotalSegmentator v1 under the same names, in another order.
    common = set(LabelOrder.read("stunet_totalsegmentator").labels) & set(_labels_of(real_dataset))
    assert len(common) > 30
    assert {name.split(" (")[0] for name in names} == common | {"background"}


def of_present_leaves(nested: dict, present: set[str]) -> dict:
    """A nested tree without the leaves that do not occur, and without nodes that are left with one child."""
    kept = {}
    for name, children in nested.items():
        below = of_present_leaves(children, present) if children else {}
        if len(below) == 1:
            kept.update(below)
        elif below or (not children and name in present):
            kept[name] = below
    return kept


def paths_of(nested: dict, above: tuple[str, ...] = ()) -> dict[str, tuple[str, ...]]:
    """Every node's path from below the root down to itself."""
    found = {}
    for name, children in nested.items():
        found[name] = (*above, name)
        found.update(paths_of(children, found[name]))
    return found


@pytest.fixture
def real_tree_dataset(real_dataset):
    """The five cases with a tree over their classes; the last two annotate the highest nodes only."""
    content = json.loads((real_dataset / "dataset.json").read_text())
    published = json.loads((Path(__file__).parents[1] / "label_orders/trees/totalsegmentator_v2.json").read_text())
    leaves = content["labels"]
    nested = {"background": {}, **of_present_leaves(published["tree"], set(leaves) - {"background"})}
    paths = paths_of(nested)
    assert {name for name in paths if not any(name in path[:-1] for path in paths.values())} == set(leaves)
    inner = [name for name in paths if name not in leaves]
    values = {**leaves, **{name: len(leaves) + number for number, name in enumerate(inner)}}
    coarse = sorted({path[0] for path in paths.values()})
    for index in (3, 4):
        file = str(real_dataset / "labelsTr" / f"slab_{index}.nii.gz")
        fine = sitk.ReadImage(file)
        table = np.zeros(len(values), np.uint8)
        for name, value in leaves.items():
            table[value] = values[paths[name][0]]
        image = sitk.GetImageFromArray(table[sitk.GetArrayFromImage(fine)])
        image.CopyInformation(fine)
        sitk.WriteImage(image, file)
    content |= {
        "labels": values,
        "label_tree": nested,
        "partial_labels": {
            "fine": {"classes": sorted(leaves), "cases": ["slab_0", "slab_1", "slab_2"]},
            "coarse": {"classes": coarse, "cases": ["slab_3", "slab_4"]},
        },
    }
    (real_dataset / "dataset.json").write_text(json.dumps(content))
    return real_dataset


@pytest.mark.slow
def test_a_label_tree_over_a_real_ct(real_tree_dataset, nnunet_folders, run_installed):
    """Trains with stock commands, predicts leaves, two levels and chosen nodes, and scores inner nodes."""
    content = json.loads((real_tree_dataset / "dataset.json").read_text())
    values, paths = content["labels"], paths_of(content["label_tree"])
    names = {value: name for name, value in values.items()}
    run_here(
        "nnUNetv2_ext_plan", "-d", "61", "-t", "stunet_totalsegmentator", "--name", "small_windows",
        "--spacing", "5", "5", "5", "--patch_size", "16", "48", "48", "--batch_size", "2", "-np", "1",
    )  # fmt: skip
    run_installed("nnUNetv2_preprocess", "-d", "61", "-plans_name", "small_windows", "-c", "3d_fullres", "-np", "1")
    trainer = "LabelTreeTrainer_stunet_small"
    run_installed(
        "nnUNetv2_train", "61", "3d_fullres", "0", "-tr", trainer, "-p", "small_windows", "-device", "cpu",
        nnUNetv2_ext_settings=json.dumps(SHORT | {"num_iterations_per_epoch": 6}),
    )  # fmt: skip
    (fold,) = (nnunet_folders / "nnUNet_results" / DATASET).glob(f"{trainer}__*__3d_fullres/fold_0")
    assert (fold / "validation" / "summary.json").is_file()

    images = nnunet_folders / "images"
    images.mkdir()
    for case in ("slab_0", "slab_3"):
        (images / f"{case}_0000.nii.gz").symlink_to(real_tree_dataset / "imagesTr" / f"{case}_0000.nii.gz")
    chosen = ["bones", "liver"]
    maps = {}
    for folder, flags in (
        ("leaves", ["--statistics"]),
        ("level_1", ["--level", "1"]),
        ("level_2", ["--level", "2"]),
        ("nodes", ["--nodes", *chosen]),
    ):
        output = nnunet_folders / folder
        run_here(
            "nnUNetv2_ext_predict", "-i", str(images), "-o", str(output), "-d", "61", "-c", "3d_fullres",
            "-tr", trainer, "-p", "small_windows", "-f", "0", "-device", "cpu", "-step_size", "1", *flags,
        )  # fmt: skip
        for case in ("slab_0", "slab_3"):
            image = sitk.ReadImage(str(output / f"{case}.nii.gz"))
            maps[folder, case] = sitk.GetArrayFromImage(image)
            assert image.GetSize() == sitk.ReadImage(str(images / f"{case}_0000.nii.gz")).GetSize()

    for case in ("slab_0", "slab_3"):
        leaves = maps["leaves", case]
        found = [names[value] for value in np.unique(leaves)]
        assert len(found) > 3
        for name in found:
            where = leaves == values[name]
            for level in (1, 2):
                assert (maps[f"level_{level}", case][where] == values[paths[name][:level][-1]]).all()
            written = [node for node in paths[name] if node in chosen]
            assert (maps["nodes", case][where] == values[written[-1] if written else "background"]).all()

        voxel_ml = np.prod(sitk.ReadImage(str(images / f"{case}_0000.nii.gz")).GetSpacing()) / 1000
        figures = json.loads((nnunet_folders / "leaves" / "statistics.json").read_text())[case]
        for node in set(paths) - {"background"}:
            below = [values[name] for name, path in paths.items() if node in path]
            assert figures[node]["volume_ml"] == pytest.approx(np.isin(leaves, below).sum() * voxel_ml), node

    run_here(
        "nnUNetv2_ext_evaluate", "-gt", str(real_tree_dataset / "labelsTr"), "-pred", str(nnunet_folders / "leaves"),
        "--chill", "-np", "1",
    )  # fmt: skip
    summary = json.loads((nnunet_folders / "leaves" / "summary.json").read_text())
    of_case = {Path(case["prediction_file"]).name[:6]: case["metrics"] for case in summary["metric_per_case"]}
    bones = tuple(sorted(values[name] for name, path in paths.items() if "bones" in path))
    for case in ("slab_0", "slab_3"):
        truth = sitk.GetArrayFromImage(sitk.ReadImage(str(real_tree_dataset / "labelsTr" / f"{case}.nii.gz")))
        truth, predicted = np.isin(truth, bones), np.isin(maps["leaves", case], bones)
        expected = 2 * (truth & predicted).sum() / (truth.sum() + predicted.sum())
        assert of_case[case][str(bones)]["Dice"] == pytest.approx(expected), case
    liver = str(values["liver"])
    assert liver in of_case["slab_0"]
    assert liver not in of_case["slab_3"], "the coarse source does not tell the liver apart"


SALT_VALUES = {"liver": 1, "spleen": 2, "kidney_left": 3, "kidney_right": 4}


@pytest.fixture
def salt_folder(tmp_path):
    """Blocks of organs of different HU in a body, as a dataset in SALT's layout; 255 is not annotated."""
    folder = tmp_path / "PhantomSalt"
    folder.mkdir()
    (folder / "labels.txt").write_text("-\nliver\nspleen\nkidney left\nkidney right\n")
    (folder / "tree-labels.txt").write_text(
        "-\nbody,liver\nbody,spleen\nbody,kidneys,kidney_left\nbody,kidneys,kidney_right\n"
    )
    rng = np.random.default_rng(0)
    for split, case in (("train", "a"), ("train", "b"), ("train", "c"), ("val", "d"), ("test", "e")):
        labels = np.zeros((24, 32, 32), np.uint8)
        for number, value in enumerate(SALT_VALUES.values()):
            z, y, x = 4 + rng.integers(0, 4), 4 + 12 * (number // 2), 4 + 12 * (number % 2)
            labels[z : z + 12, y : y + 10, x : x + 10] = value
        image = np.where(labels > 0, 60 * labels.astype(int), -900) + rng.normal(0, 10, labels.shape)
        labels[-2:] = 255
        for kind, array in (("images", image.astype(np.int16)), ("labels", labels)):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
            volume = sitk.GetImageFromArray(array)
            volume.SetSpacing((1.5, 1.5, 1.5))
            sitk.WriteImage(volume, str(folder / split / kind / f"{case}.nii.gz"))
    return folder


@pytest.mark.slow
def test_the_documented_commands_of_a_salt_folder(salt_folder, nnunet_folders, code_in, run_installed):
    commands = [
        line for block in code_in("label_trees.md", "bash") for line in block.splitlines() if "info tree" not in line
    ]
    assert [line.split()[0] for line in commands[-2:]] == ["nnUNetv2_train", "nnUNetv2_ext_predict"]
    images = nnunet_folders / "nnUNet_raw" / "Dataset300_Salt" / "imagesTs"
    output = nnunet_folders / "output"
    for line in commands:
        places = {"SALT_FOLDER": salt_folder, "IMAGES": images, "OUT": output}
        words = [str(places.get(word, word)) for word in line.split()]
        # What a test can do without: processes, a GPU, and a thousand epochs.
        extra = {"nnUNetv2_ext_convert_dataset": ["-np", "1"], "nnUNetv2_ext_plan": ["-np", "1"]}
        extra |= {"nnUNetv2_preprocess": ["-np", "1"]}
        words += extra.get(words[0], ["-device", "cpu"])
        if words[0].startswith("nnUNetv2_ext_"):
            run_here(*words)
        else:
            run_installed(*words, nnUNetv2_ext_settings=json.dumps(SHORT))
    (written,) = output.glob("*.nii.gz")
    tree = json.loads((nnunet_folders / "nnUNet_raw" / "Dataset300_Salt" / "dataset.json").read_text())["labels"]
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(written)))
    assert found.shape == (24, 32, 32)
    assert set(np.unique(found)) <= {tree[name] for name in ("background", *SALT_VALUES)}
    (figures,) = json.loads((output / "statistics.json").read_text()).values()
    kidneys = figures["kidney_left"]["volume_ml"] + figures["kidney_right"]["volume_ml"]
    assert figures["kidneys"]["volume_ml"] == pytest.approx(kidneys)
    counted = np.isin(found, [tree["kidney_left"], tree["kidney_right"]]).sum()
    assert figures["kidneys"]["volume_ml"] == pytest.approx(counted * 1.5**3 / 1000)
