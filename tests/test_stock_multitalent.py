"""From two partially labelled real CTs to a collection, a MultiTalent network, a fine-tuned one and all output forms.

All commands run in processes of their own, as a user's shell would run them. A few iterations say nothing about
accuracy; the point is that every step accepts what the step before it wrote, and that no class is lost, mixed up or
counted where its source does not annotate it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

TRAINER, PLANS = "MultiTalentTrainer_stunet_small", "small_windows"
SHORT = {"num_epochs": 1, "num_iterations_per_epoch": 4, "num_val_iterations_per_epoch": 1}
TARGETS = ("aorta", "liver", "spleen")


def array(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def read_json(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


def same_grid(a: Path, b: Path) -> bool:
    first, second = sitk.ReadImage(str(a)), sitk.ReadImage(str(b))
    return (
        first.GetSize() == second.GetSize()
        and np.allclose(first.GetSpacing(), second.GetSpacing())
        and np.allclose(first.GetOrigin(), second.GetOrigin())
        and np.allclose(first.GetDirection(), second.GetDirection())
    )


@pytest.fixture
def aorta_masks(real_ct_folder, tmp_path):
    """The aorta CT cut along z into five cases, with one binary mask per class as published."""
    published = real_ct_folder / "ct_aorta_1p5mm"
    names = ("aorta", "aorta_true_lumen", "aorta_false_lumen", "vertebrae_T12")
    files = {"ct.nii.gz": published / "ct.nii.gz"}
    files.update({f"segmentations/{name}.nii.gz": published / "segmentations" / f"{name}.nii.gz" for name in names})
    for relative, file in files.items():
        image = sitk.ReadImage(str(file))
        for index in range(5):
            target = tmp_path / "aorta" / f"slab_{index}" / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(image[:, :, index * 32 : index * 32 + 32], str(target))
    return tmp_path / "aorta"


@pytest.fixture
def target_dataset(real_ct_folder, nnunet_folders):
    """A third CT cut along x into five cases, with three plain classes of which some lie in every case."""
    published = real_ct_folder / "totalsegmentator_v2_layout" / "s0001"
    image = sitk.ReadImage(str(published / "ct.nii.gz"))
    masks = [sitk.ReadImage(str(published / "segmentations" / f"{name}.nii.gz")) > 0 for name in TARGETS]
    labels = sum((mask * (index + 1) for index, mask in enumerate(masks)), start=masks[0] * 0)
    raw = nnunet_folders / "nnUNet_raw" / "Dataset064_Target"
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    for index in range(5):
        columns = slice(index * 24, index * 24 + 24)
        sitk.WriteImage(image[columns], str(raw / "imagesTr" / f"part_{index}_0000.nii.gz"))
        sitk.WriteImage(labels[columns], str(raw / "labelsTr" / f"part_{index}.nii.gz"))
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{name: value for value, name in enumerate(TARGETS, 1)}},
        "numTraining": 5,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(content))
    return raw


@pytest.mark.slow
@pytest.mark.timeout(1200)  # eleven processes that each import torch, on machines that may be busy
def test_merge_train_fine_tune_and_predict(run_installed, real_dataset, aorta_masks, target_dataset, nnunet_folders):
    raw, results = nnunet_folders / "nnUNet_raw", nnunet_folders / "nnUNet_results"
    run_installed(
        "nnUNetv2_ext_convert_dataset", "masks", "-i", str(aorta_masks), "-d", "62", "-n", "RealAorta", "-np", "1"
    )
    run_installed("nnUNetv2_ext_merge_datasets", "-d", "63", "-n", "RealCollection", "61", "62", "-np", "1")
    collection = raw / "Dataset063_RealCollection"
    classes = the_collection_holds_what_its_sources_annotate(collection, real_dataset, aorta_masks)

    run_installed(
        "nnUNetv2_ext_plan", "-d", "63", "-t", "multitalent_stunet", "--name", PLANS, "--spacing", "8", "8", "8",
        "--patch_size", "8", "48", "48", "--batch_size", "2", "-np", "1",
    )  # fmt: skip
    run_installed("nnUNetv2_preprocess", "-d", "63", "-plans_name", PLANS, "-c", "3d_fullres", "-np", "1")
    run_installed(
        "nnUNetv2_train", "63", "3d_fullres", "0", "-tr", TRAINER, "-p", PLANS, "-device", "cpu",
        nnUNetv2_ext_settings=json.dumps(SHORT), nnUNet_n_proc_DA="0",
    )  # fmt: skip
    model = results / collection.name / f"{TRAINER}__{PLANS}__3d_fullres"
    the_final_validation_keeps_sources_apart(model / "fold_0" / "validation", classes)

    images = nnunet_folders / "images"
    images.mkdir()
    for case in ("RealCT_slab_2", "RealAorta_slab_1"):
        name = f"{case}_0000.nii.gz"
        sitk.WriteImage(sitk.ReadImage(str(collection / "imagesTr" / name))[24:80, 24:80, 4:16], str(images / name))
    where = ("-d", "63", "-tr", TRAINER, "-p", PLANS, "-c", "3d_fullres", "-f", "0", "-device", "cpu", "--disable_tta")
    for form, *more in (("merged", "--save_probabilities"), ("per_source",), ("per_class",)):
        output = str(nnunet_folders / form)
        run_installed("nnUNetv2_ext_predict", "-i", str(images), "-o", output, "--outputs", form, *more, *where)
    run_installed(
        "nnUNetv2_predict", "-i", str(images), "-o", str(nnunet_folders / "stock"), *where, "-npp", "0", "-nps", "0"
    )
    the_output_forms_tell_the_same(nnunet_folders, images, read_json(collection / "dataset.json"))

    run_installed(
        "nnUNetv2_ext_finetune", "64", "3d_fullres", "0", "-pretrained_weights", str(model), "-device", "cpu",
        "--class_mapping", "liver=RealCT/liver", "spleen=RealCT/spleen", "aorta=RealAorta/aorta",
        "--num_epochs", "1", "--iterations_per_epoch", "2", "--val_iterations_per_epoch", "1", "-np", "1",
        "--num_workers", "0",
    )  # fmt: skip
    (fold,) = (results / target_dataset.name).glob("STUNetTrainer_small_ft__*__3d_fullres/fold_0")
    assert set(read_json(fold / "validation" / "summary.json")["mean"]) == {"1", "2", "3"}
    log = next(fold.glob("training_log_*.txt")).read_text()
    mapped = "aorta (from RealAorta/aorta), liver (from RealCT/liver), spleen (from RealCT/spleen)"
    assert f"classes with pretrained heads: {mapped}" in log
    output = nnunet_folders / "fine_tuned"
    run_installed(
        "nnUNetv2_ext_predict", "-i", str(target_dataset / "imagesTr"), "-o", str(output), "-m", str(fold.parent),
        "-f", "0", "-device", "cpu", "--disable_tta",
    )  # fmt: skip
    assert read_json(output / "labels.json")["labels"] == {"background": 0, "aorta": 1, "liver": 2, "spleen": 3}
    for index in range(5):
        assert same_grid(output / f"part_{index}.nii.gz", target_dataset / "imagesTr" / f"part_{index}_0000.nii.gz")
        assert array(output / f"part_{index}.nii.gz").max() <= 3


def the_collection_holds_what_its_sources_annotate(collection: Path, organs: Path, aorta: Path) -> dict[str, list[str]]:
    """Every class of every case is voxel by voxel the mask that its source published; returns classes by source."""
    content = read_json(collection / "dataset.json")
    classes = {name: source["classes"] for name, source in content["partial_labels"].items()}
    assert {name: len(names) for name, names in classes.items()} == {"RealCT": 51, "RealAorta": 4}
    regions = {name: values for name, values in content["labels"].items() if name != "background"}
    # The two sources draw aortas of their own, which share no integer.
    assert not set(regions["RealCT/aorta"]) & set(regions["RealAorta/aorta"])
    organ_values = read_json(organs / "dataset.json")["labels"]
    for index in range(5):
        label_map = array(collection / "labelsTr" / f"RealCT_slab_{index}.nii.gz")
        published = array(organs / "labelsTr" / f"slab_{index}.nii.gz")
        for name in classes["RealCT"]:
            expected = published == organ_values[name.removeprefix("RealCT/")]
            assert np.array_equal(np.isin(label_map, regions[name]), expected)
        label_map = array(collection / "labelsTr" / f"RealAorta_slab_{index}.nii.gz")
        for name in classes["RealAorta"]:
            file = aorta / f"slab_{index}" / "segmentations" / f"{name.removeprefix('RealAorta/')}.nii.gz"
            assert np.array_equal(np.isin(label_map, regions[name]), array(file) > 0)
        both = set(regions["RealAorta/aorta"]) & set(regions["RealAorta/aorta_true_lumen"])
        assert np.isin(label_map, list(both)).any()
    return classes


def the_final_validation_keeps_sources_apart(validation: Path, classes: dict[str, list[str]]) -> None:
    """One summary per source, with the classes of that source; a prediction holds its own source's classes only."""
    content = read_json(validation.parents[1] / "dataset.json")
    whole = read_json(validation / "summary.json")
    names = whole["class_names"]
    assert sorted(names.values()) == sorted(name for own in classes.values() for name in own)
    for source, own in classes.items():
        summary = read_json(validation / f"summary_{source}.json")
        assert sorted(names[region] for region in summary["mean"]) == sorted(own)
        cases = [Path(case["prediction_file"]).name.removesuffix(".nii.gz") for case in summary["metric_per_case"]]
        assert cases
        allowed = {0}.union(*(content["labels"][name] for name in own))
        for case in cases:
            assert case.startswith(f"{source}_")
            assert set(np.unique(array(validation / f"{case}.nii.gz")).tolist()) <= allowed
    assert len(whole["metric_per_case"]) == len(list(validation.glob("*.nii.gz")))


def the_output_forms_tell_the_same(folder: Path, images: Path, dataset_json: dict) -> None:
    """The merged and the per-source maps are the per-class masks painted over each other, in the documented order."""
    names = [name for name in dataset_json["labels"] if name != "background"]
    painted = dict(zip(names, dataset_json["regions_class_order"], strict=True))
    sources = {name: entry["classes"] for name, entry in dataset_json["partial_labels"].items()}
    assert read_json(folder / "merged" / "labels.json")["labels"] == {"background": 0, **painted}
    for source, own in sources.items():
        meaning = {"background": 0, **{name: value for value, name in enumerate(own, 1)}}
        assert read_json(folder / "per_source" / source / "labels.json")["labels"] == meaning
    for image in sorted(images.iterdir()):
        case = image.name.removesuffix("_0000.nii.gz")
        masks = {}
        for name in names:
            file = folder / "per_class" / case / f"{name}.nii.gz"
            assert same_grid(file, image)
            masks[name] = array(file)
            assert set(np.unique(masks[name]).tolist()) <= {0, 1}
        assert len(list((folder / "per_class" / case).rglob("*.nii.gz"))) == len(names)
        # Nothing is compared where nothing is predicted.
        assert sum(mask.any() for mask in masks.values()) >= 5
        merged = np.zeros_like(array(image), dtype=np.uint8)
        for name, value in painted.items():
            merged[masks[name] > 0] = value
        file = folder / "merged" / f"{case}.nii.gz"
        assert same_grid(file, image)
        assert np.array_equal(array(file), merged)
        for source, own in sources.items():
            expected = np.zeros_like(merged)
            for value, name in enumerate(own, 1):
                expected[masks[name] > 0] = value
            file = folder / "per_source" / source / f"{case}.nii.gz"
            assert same_grid(file, image)
            assert np.array_equal(array(file), expected)
        stock = array(folder / "stock" / f"{case}.nii.gz")
        probabilities = np.load(folder / "merged" / f"{case}.npz")["probabilities"]
        differ_only_where_a_class_is_tied(merged, stock, probabilities, list(painted.values()))


def differ_only_where_a_class_is_tied(ours, stock, probabilities, painted) -> None:
    """Stock adds windows up and resamples in float16: its sigmoid may fall on the other side of 0.5 by rounding.

    Of 65 overlapping outputs the last one above 0.5 is seen, so that where two maps differ, the later of their two
    classes is the one on which they disagree.
    """
    different = ours != stock
    assert different.mean() < 0.01
    position = np.full(max(painted) + 1, -1)
    position[painted] = np.arange(len(painted))
    later = np.maximum(position[ours[different]], position[stock[different]])
    deciding = probabilities[:, different][later, np.arange(len(later))]
    assert np.abs(deciding - 0.5).max(initial=0) < 1e-3
