"""Merging tiny raw datasets: what arrives, what is refused, what is left behind."""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

import numpy as np
import pytest

from nnunetv2_ext.dataset_conversion import raw_dataset
from nnunetv2_ext.dataset_conversion.merge import merge_datasets
from nnunetv2_ext.dataset_conversion.merge_plan import MergeOptions
from nnunetv2_ext.labels.partial_labels import PartialLabels
from nnunetv2_ext.utilities.errors import UserError


def _array(path):
    import SimpleITK

    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def _masks(folder):
    """(case, class) -> mask, through the definitions in dataset.json."""
    dataset_json = json.loads((folder / "dataset.json").read_text())
    masks = {}
    for file in sorted((folder / "labelsTr").iterdir()):
        label_map = _array(file)
        for name, values in dataset_json["labels"].items():
            if name != "background":
                masks[file.name.removesuffix(".nii.gz"), name] = np.isin(label_map, values)
    return masks


@pytest.fixture
def three_sources(make_raw_dataset, tiny_case):
    """Liver (regions), Organs (plain, with ignore), Spleen (plain)."""
    liver = make_raw_dataset(
        "Dataset003_Liver",
        {"background": 0, "liver": [1, 2], "tumour": [2, 2]},
        {f"liver_{i}": tiny_case(i, [1, 2]) for i in range(6)},
        order=[1, 2],
        extra={"licence": "CC BY-SA 4.0"},
    )
    organs = make_raw_dataset(
        "Dataset007_Organs",
        {"background": 0, "spleen": 1, "liver": 2, "aorta": 3, "ignore": 4},
        {f"img{i:04d}": tiny_case(10 + i, [1, 2, 3, 4]) for i in range(5)},
    )
    spleen = make_raw_dataset(
        "Dataset009_Spleen",
        {"background": 0, "spleen": 1},
        {f"spleen_{i}": tiny_case(20 + i, [1], dtype=np.float64) for i in range(5)},
    )
    return liver, organs, spleen


def test_every_mask_arrives_under_its_name(three_sources, nnunet_folders):
    result = merge_datasets(["3", "Dataset007_Organs", "9"], 30, "All", progress=False)
    dataset_json = json.loads((result.folder / "dataset.json").read_text())
    partial_labels = PartialLabels.from_dataset_json(dataset_json)
    assert result.folder == nnunet_folders / "nnUNet_raw" / "Dataset030_All"
    assert partial_labels.class_names == (
        "Liver/liver",
        "Liver/tumour",
        "Organs/spleen",
        "Organs/liver",
        "Organs/aorta",
        "Spleen/spleen",
    )
    assert dataset_json["labels"]["Liver/liver"] == [1, 2]
    assert dataset_json["regions_class_order"] == [1, 2, 3, 4, 5, 6]
    assert dataset_json["labels"]["ignore"] == 7
    assert dataset_json["numTraining"] == 16
    assert dataset_json["sources"]["Liver"] == {"dataset": "Dataset003_Liver", "licence": "CC BY-SA 4.0"}
    merged = _masks(result.folder)
    for folder, source in zip(three_sources, partial_labels.sources, strict=True):
        for (case, name), mask in _masks(folder).items():
            assert mask.any()
            full_name = name if name == "ignore" else f"{source}/{name}"
            np.testing.assert_array_equal(merged.pop((f"{source}_{case}", full_name)), mask)
    assert not any(mask.any() for mask in merged.values()), "no case has voxels of another source's classes"
    assert _array(result.folder / "labelsTr" / "Spleen_spleen_0.nii.gz").dtype == np.uint8


def test_images_are_linked_or_copied_and_inputs_stay_as_they_are(three_sources, make_raw_dataset):
    before = {file: file.read_bytes() for folder in three_sources for file in folder.rglob("*") if file.is_file()}
    linked = merge_datasets(["3", "9"], 30, "Linked", progress=False)
    copied = merge_datasets(["3", "9"], 31, "Copied", copy=True, progress=False)
    original = three_sources[0] / "imagesTr" / "liver_0_0000.nii.gz"
    link = linked.folder / "imagesTr" / "Liver_liver_0_0000.nii.gz"
    copy = copied.folder / "imagesTr" / "Liver_liver_0_0000.nii.gz"
    assert link.samefile(original)
    assert linked.placed == {"hard link": 11}
    assert not copy.samefile(original)
    assert copied.placed == {"copy": 11}
    assert copy.read_bytes() == original.read_bytes()
    assert before == {file: file.read_bytes() for file in before}


def test_a_symbolic_link_where_a_hard_link_is_impossible(three_sources, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    result = merge_datasets(["9"], 30, "One", progress=False)
    assert result.placed == {"symbolic link": 5}
    link = result.folder / "imagesTr" / "Spleen_spleen_0_0000.nii.gz"
    assert link.is_symlink()
    assert link.samefile(three_sources[2] / "imagesTr" / "spleen_0_0000.nii.gz")


def test_folds_hold_every_source_and_keep_copies_together(three_sources, make_raw_dataset, tiny_case, caplog):
    image, _ = tiny_case(0, [1, 2])
    label = tiny_case(99, [1])[1]
    make_raw_dataset(
        "Dataset012_Copies",
        {"background": 0, "pancreas": 1},
        {"same": (image, label), "flipped": (image[:, ::-1].copy(), label), "new": tiny_case(40, [1])},
    )
    result = merge_datasets(["3", "7", "9", "12"], 30, "All", progress=False)
    (group,) = result.duplicates
    assert group.cases == ("Copies_flipped", "Copies_same", "Liver_liver_0")
    assert not group.identical
    assert "The same image across sources" in caplog.text
    assert json.loads((result.folder / "merge_report.json").read_text())["duplicates"] == [
        {"cases": list(group.cases), "identical": False}
    ]
    read_by_nnunet = result.folder.parents[1] / "nnUNet_preprocessed" / "Dataset030_All" / "splits_final.json"
    splits = json.loads(read_by_nnunet.read_text())
    assert splits == json.loads((result.folder / "splits_final.json").read_text())
    assert len(splits) == 5
    for fold in splits:
        assert len(set(fold["val"]) & set(group.cases)) in (0, 3)
        assert {case.split("_")[0] for case in fold["train"]} == {"Liver", "Organs", "Spleen", "Copies"}
    for source in ("Organs", "Spleen"):
        assert [sum(case.startswith(source) for case in fold["val"]) for fold in splits] == [1] * 5


def test_without_a_preprocessed_folder_the_user_is_told(three_sources, monkeypatch, caplog):
    monkeypatch.delenv("nnUNet_preprocessed")
    merge_datasets(["9"], 30, "One", progress=False)
    assert "nnUNet_preprocessed is not set; copy" in caplog.text


def test_shared_classes_union_across_and_within_sources(three_sources):
    options = MergeOptions(
        share={"spleen": ["Organs/spleen", "Spleen/spleen"], "big": ["Organs/liver", "Organs/aorta"]},
        rename={"Liver/tumour": "Liver/lesion"},
        exceptions={"Organs/img0001": ["aorta"], "Liver/liver_2": ["Liver/tumour"]},
    )
    result = merge_datasets(["3", "7", "9"], 30, "Shared", options=options, progress=False)
    partial_labels = result.plan.partial_labels
    assert partial_labels.class_names == ("Liver/liver", "Liver/lesion", "spleen", "big")
    assert partial_labels.sources["Organs"].classes == ("spleen", "big")
    assert partial_labels.sources["Spleen"].classes == ("spleen",)
    assert partial_labels.annotated("Organs_img0001").tolist() == [False, False, True, False]
    assert partial_labels.annotated("Liver_liver_2").tolist() == [True, False, False, False]
    merged = _masks(result.folder)
    organs = _masks(three_sources[1])
    for i in range(5):
        case = f"img{i:04d}"
        np.testing.assert_array_equal(merged[f"Organs_{case}", "spleen"], organs[case, "spleen"])
        np.testing.assert_array_equal(merged[f"Organs_{case}", "big"], organs[case, "liver"] | organs[case, "aorta"])


def test_deselected_classes_become_background(three_sources):
    options = MergeOptions(select=["Organs/aorta", "Liver/tumour"])
    result = merge_datasets(["3", "7", "9"], 30, "Few", options=options, progress=False)
    assert result.plan.partial_labels.class_names == ("Liver/tumour", "Organs/aorta", "Spleen/spleen")
    merged = _masks(result.folder)
    organs, liver = _masks(three_sources[1]), _masks(three_sources[0])
    np.testing.assert_array_equal(merged["Organs_img0000", "Organs/aorta"], organs["img0000", "aorta"])
    np.testing.assert_array_equal(merged["Organs_img0000", "ignore"], organs["img0000", "ignore"])
    np.testing.assert_array_equal(merged["Liver_liver_0", "Liver/tumour"], liver["liver_0", "tumour"])
    assert set(np.unique(_array(result.folder / "labelsTr" / "Liver_liver_0.nii.gz"))) == {0, 1}


def test_a_shared_inner_class_is_painted_after_what_contains_it(make_raw_dataset, tiny_case):
    for number, name in ((1, "A"), (2, "B")):
        make_raw_dataset(
            f"Dataset00{number}_{name}",
            {"background": 0, "liver": [1, 2], "tumour": [2, 2]},
            {"case": tiny_case(number, [1, 2])},
            order=[1, 2],
        )
    options = MergeOptions(share={"tumour": ["A/tumour", "B/tumour"]})
    plan = merge_datasets(["1", "2"], 30, "Both", options=options, progress=False).plan
    assert plan.partial_labels.class_names == ("A/liver", "B/liver", "tumour")
    assert plan.regions_class_order == (1, 3, 2)
    assert plan.partial_labels.label_values("tumour") == (2, 4)


def test_a_collection_can_be_merged_again(three_sources):
    first = merge_datasets(
        ["3", "7"],
        30,
        "First",
        options=MergeOptions(
            share={"liver": ["Liver/liver", "Organs/liver"]}, exceptions={"Organs/img0000": ["aorta"]}
        ),
        progress=False,
    )
    second = merge_datasets(["30", "Last=9"], 31, "Second", progress=False)
    partial_labels = second.plan.partial_labels
    assert list(partial_labels.sources) == ["Liver", "Organs", "Last"]
    assert partial_labels.class_names == (*first.plan.partial_labels.class_names, "Last/spleen")
    assert partial_labels.sources["Organs"].exceptions == {"Organs_img0000": ("Organs/aorta",)}
    before, after = _masks(first.folder), _masks(second.folder)
    for key, mask in before.items():
        np.testing.assert_array_equal(after[key], mask)


@pytest.mark.usefixtures("three_sources")
def test_a_case_of_a_collection_may_hold_values_of_its_own_source_only():
    first = merge_datasets(["3", "9"], 30, "First", progress=False)
    name, source = next((n, s) for n, s in first.plan.partial_labels.sources.items() if n != "Liver")
    foreign = first.plan.partial_labels.label_values("Liver/liver")[0]
    _spoil_label(first.folder, source.cases[0], lambda label: np.where(label > 0, foreign, label))
    with pytest.raises(
        UserError, match=rf"{name}_\w+: Expected the integers of {name} \(.*\) in the label map, but found {foreign} "
    ):
        merge_datasets(["30"], 31, "Second", progress=False)


@pytest.mark.usefixtures("three_sources")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda section: section["Liver"]["cases"].pop(), "belongs to no source"),
        (lambda section: section["Liver"]["classes"].append("Liver/lung"), "Liver/lung do not exist in 'labels'"),
    ],
)
def test_a_collection_that_contradicts_itself_is_named(change, message):
    first = merge_datasets(["3", "9"], 30, "First", progress=False)
    section = json.loads((first.folder / "dataset.json").read_text())["partial_labels"]
    change(section)
    _change_json(first.folder, partial_labels=section)
    with pytest.raises(UserError, match=rf"Dataset030_First/dataset.json: .*{message}"):
        merge_datasets(["30", "7"], 31, "Second", progress=False)


def test_other_file_types_are_rewritten(make_raw_dataset, tiny_case):
    image, label = tiny_case(0, [1])
    make_raw_dataset("Dataset001_A", {"background": 0, "a": 1}, {"case": (image, label)}, ending=".nrrd")
    make_raw_dataset("Dataset002_B", {"background": 0, "b": 1}, {"case": tiny_case(1, [1])})
    result = merge_datasets(["1", "2"], 30, "Both", progress=False)
    assert result.placed == {"rewritten": 1, "hard link": 1}
    np.testing.assert_array_equal(_array(result.folder / "imagesTr" / "A_case_0000.nii.gz"), image)


def test_more_than_255_values(make_raw_dataset, tiny_case):
    for number in (1, 2):
        labels = {"background": 0} | {f"c{value}": value for value in range(1, 201)}
        make_raw_dataset(f"Dataset00{number}_S{number}", labels, {"case": tiny_case(number, range(1, 201))})
    result = merge_datasets(["1", "2"], 30, "Many", progress=False)
    label_map = _array(result.folder / "labelsTr" / "S2_case.nii.gz")
    assert label_map.dtype == np.uint16
    original = _array(result.folder.parent / "Dataset002_S2" / "labelsTr" / "case.nii.gz").astype(int)
    np.testing.assert_array_equal(label_map, np.where(original, original + 200, 0))


def test_worker_processes_give_the_same(three_sources):
    alone = merge_datasets(["3", "9"], 30, "Alone", progress=False)
    together = merge_datasets(["3", "9"], 31, "Together", processes=2, progress=False)
    assert alone.splits == together.splits
    for file in sorted((alone.folder / "labelsTr").iterdir()):
        np.testing.assert_array_equal(_array(file), _array(together.folder / "labelsTr" / file.name))


def _change_json(folder, **changes):
    file = folder / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _replace_text(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def _remove_from_json(folder, key):
    file = folder / "dataset.json"
    file.write_text(json.dumps({name: value for name, value in json.loads(file.read_text()).items() if name != key}))


def _spoil_label(folder, case, spoil, spacing=(1, 1, 1.5)):
    import SimpleITK

    file = folder / "labelsTr" / f"{case}.nii.gz"
    spoilt = SimpleITK.GetImageFromArray(spoil(_array(file)))
    spoilt.SetSpacing(spacing)
    SimpleITK.WriteImage(spoilt, str(file))


def _cut(file):
    file.write_bytes(file.read_bytes()[:200])


REFUSED = {
    "channels": (lambda a, b: _change_json(b, channel_names={"0": "MR"}), "same channels in all datasets, but"),
    "number of files": (
        lambda a, b: _change_json(b, channel_names={"0": "CT", "1": "PET"}),
        "Expected 2 image file",
    ),
    "missing label": (lambda a, b: (b / "labelsTr" / "img0001.nii.gz").unlink(), r"'img0001' of .* lacks"),
    "numTraining": (lambda a, b: _change_json(b, numTraining=9), "Expected 9 training cases"),
    "no images": (lambda a, b: shutil.rmtree(b / "imagesTr"), "Expected training images"),
    "unknown value": (
        lambda a, b: _spoil_label(b, "img0002", lambda label: np.where(label == 3, 17, label)),
        r"Organs_img0002: Expected the integers of Organs \(0, 1, 2, 3, 4\) in the label map, but found 17 \(",
    ),
    "negative value": (
        lambda a, b: _spoil_label(b, "img0002", lambda label: label.astype(np.int16) - 1),
        "but found -1",
    ),
    "fractions": (lambda a, b: _spoil_label(b, "img0002", lambda label: label * 0.5), "Expected whole numbers"),
    "grid": (
        lambda a, b: _spoil_label(b, "img0002", lambda label: label[1:]),
        r"Expected the label map on the grid of the image, but they have \(9, 10, 8\) voxels and",
    ),
    "truncated": (
        lambda a, b: _cut(b / "imagesTr" / "img0003_0000.nii.gz"),
        "img0003_0000.nii.gz, but it cannot",
    ),
    "no background": (lambda a, b: _change_json(b, labels={"spleen": 1}), "0 as background"),
    "no order": (
        lambda a, b: _change_json(b, labels={"background": 0, "s": [1, 2], "t": [2, 3]}),
        "Expected 'regions_class_order' with 2 entries",
    ),
    "class twice": (
        lambda a, b: _replace_text(b / "dataset.json", '"labels": {', '"labels": {"spleen": 7, '),
        r"every name once in an object of .*dataset.json, but 'spleen' is there more often",
    ),
    "spacing": (
        lambda a, b: _spoil_label(b, "img0002", lambda label: label, spacing=(1, 1, 2)),
        r"on the grid of the image, but they have a spacing of \(1, 1, 1.5\) mm",
    ),
    "incomplete dataset.json": (lambda a, b: _remove_from_json(b, "file_ending"), "as file_ending in .*no such entry"),
    "image type": (lambda a, b: _change_json(b, file_ending=".png"), "Expected images of type"),
    "label tree": (
        lambda a, b: _change_json(b, label_tree={"background": {}, "body": {"spleen": {}, "rest": {}}}),
        "has a label tree, which merging cannot keep",
    ),
    "disagreeing collection": (
        lambda a, b: _change_json(b, partial_labels={"X": {"classes": ["spleen"], "cases": ["img0000"]}}),
        "to be a list of at least two integers",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_inputs_are_refused_and_nothing_is_left(three_sources, spoil, message):
    liver, organs, _ = three_sources
    spoil(liver, organs)
    before = sorted(path.name for path in liver.parent.iterdir())
    with pytest.raises(UserError, match=message):
        merge_datasets(["3", "7"], 30, "All", progress=False)
    assert sorted(path.name for path in liver.parent.iterdir()) == before
    assert not list((liver.parents[1] / "nnUNet_preprocessed").iterdir())


def test_all_bad_cases_are_listed(three_sources, caplog):
    _, organs, _ = three_sources
    for number in (1, 2, 4):
        _cut(organs / "imagesTr" / f"img000{number}_0000.nii.gz")
    with pytest.raises(UserError, match=r"img0001_0000.*\(2 more bad cases are listed above\)"):
        merge_datasets(["3", "7"], 30, "All", progress=False)
    assert "img0002_0000" in caplog.text
    assert "img0004_0000" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            MergeOptions(share={"spleen": ["Organs/spleen", "Spleen/milt"]}),
            "--share names Spleen/milt, but the classes",
        ),
        (MergeOptions(share={"a": ["Organs/spleen"], "b": ["Organs/spleen"]}), "gets two new names"),
        (MergeOptions(rename={"Organs/spleen": "Spleen/spleen"}), r"Spleen/spleen would be there twice"),
        (MergeOptions(rename={"Organs/spleen": "background"}), "cannot be called 'background'"),
        (MergeOptions(share={"Spleen/spleen": ["Organs/spleen"]}), "would be there twice"),
        (MergeOptions(select=["Organs/milt"]), "--select names Organs/milt"),
        (MergeOptions(select=["Organs/liver"], rename={"Organs/aorta": "a"}), "which --select leaves out"),
        (MergeOptions(exceptions={"Organs/img9": ["liver"]}), r"no such <source>/<case>"),
        (MergeOptions(exceptions={"Organs/img0000": ["tumour"]}), "lacks Organs/tumour, but its source annotates"),
    ],
)
def test_contradicting_options_are_refused(three_sources, options, message):
    with pytest.raises(UserError, match=message):
        merge_datasets(["7", "9"], 30, "All", options=options, progress=False)


def test_names_that_collide_are_refused(three_sources, make_raw_dataset, tiny_case):
    with pytest.raises(UserError, match=r"source name\(s\) Liver occur in more than one dataset"):
        merge_datasets(["3", "3"], 30, "Twice", progress=False)
    with pytest.raises(UserError, match="Expected a free dataset ID, but 009 is used by Dataset009_Spleen"):
        merge_datasets(["3"], 9, "Other", progress=False)
    with pytest.raises(UserError, match="exists and was not made by this command"):
        merge_datasets(["3"], 9, "Spleen", progress=False)
    with pytest.raises(UserError, match="overlap; choose another place"):
        merge_datasets(["9"], 9, "Spleen", overwrite=True, progress=False)
    make_raw_dataset("Dataset020_Liver_liver", {"background": 0, "a": 1}, {"0": tiny_case(77, [1])})
    with pytest.raises(UserError, match=r"case name\(s\) Liver_liver_0 occur in more than one"):
        merge_datasets(["3", "20"], 30, "Twice", progress=False)


def test_overwrite_replaces_the_whole_dataset(three_sources):
    first = merge_datasets(["3", "9"], 30, "All", progress=False)
    second = merge_datasets(["9"], 30, "All", overwrite=True, progress=False)
    assert first.folder == second.folder
    assert len(list((second.folder / "imagesTr").iterdir())) == 5
    assert not [path for path in second.folder.parent.iterdir() if path.name.startswith(".")]
    splits = second.folder.parents[1] / "nnUNet_preprocessed" / "Dataset030_All" / "splits_final.json"
    assert json.loads(splits.read_text()) == second.splits


def _content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "merge_report.json"
    }


def test_an_interrupted_merge_goes_on(three_sources, monkeypatch):
    whole = merge_datasets(["3", "9"], 30, "All", progress=False)
    expected = _content(whole.folder)
    shutil.rmtree(whole.folder)
    real, calls = raw_dataset.convert_case, []

    def stop_at_the_third(job):
        calls.append(job.case.identifier)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(job)

    monkeypatch.setattr(raw_dataset, "convert_case", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        merge_datasets(["3", "9"], 30, "All", progress=False)
    assert not (whole.folder / "dataset.json").exists()
    with pytest.raises(UserError, match=r"other options \(source, labels\)"):
        merge_datasets(["9", "3"], 30, "All", progress=False)
    monkeypatch.setattr(raw_dataset, "convert_case", lambda job: calls.append(job.case.identifier) or real(job))
    calls.clear()
    again = merge_datasets(["3", "9"], 30, "All", progress=False)
    assert len(calls) == 9
    assert _content(again.folder) == expected
    calls.clear()
    merge_datasets(["3", "9"], 30, "All", progress=False)
    assert calls == []
    _spoil_label(three_sources[2], "spleen_1", lambda label: label * 0)
    with pytest.raises(UserError, match=r"is complete, but .* changed: Spleen_spleen_1; choose .* or pass --overwrite"):
        merge_datasets(["3", "9"], 30, "All", progress=False)
    assert _content(again.folder) == expected
    merge_datasets(["3", "9"], 30, "All", overwrite=True, progress=False)
    assert not _array(again.folder / "labelsTr" / "Spleen_spleen_1.nii.gz").any()


def test_listed_files_of_a_dataset_json_are_followed(three_sources):
    liver, _, spleen = three_sources
    elsewhere = liver.parent.parent / "elsewhere"
    shutil.move(spleen / "imagesTr", elsewhere)
    _change_json(
        spleen,
        dataset={
            f"s{i}": {
                "images": [f"../../elsewhere/spleen_{i}_0000.nii.gz"],
                "label": str(spleen / "labelsTr" / f"spleen_{i}.nii.gz"),
            }
            for i in range(5)
        },
    )
    result = merge_datasets(["9"], 30, "One", progress=False)
    assert (result.folder / "imagesTr" / "Spleen_s3_0000.nii.gz").samefile(elsewhere / "spleen_3_0000.nii.gz")


@pytest.mark.slow
def test_stock_nnunet_verifies_plans_preprocesses_and_splits(three_sources, nnunet_folders):
    import subprocess
    import sys

    merge_datasets(["3", "7", "9"], 30, "All", progress=False)
    command = shutil.which("nnUNetv2_plan_and_preprocess", path=os.path.dirname(sys.executable))
    arguments = ["-d", "30", "-c", "3d_fullres", "-np", "1", "-npfp", "1", "--verify_dataset_integrity"]
    # The planner hands nnUNet_n_proc_DA to torch as a number of threads, which cannot be 0.
    environment = os.environ | {"nnUNet_n_proc_DA": "1"}
    finished = subprocess.run(
        [str(command), *arguments], capture_output=True, encoding="utf-8", timeout=300, env=environment
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "verify_dataset_integrity Done" in finished.stdout
    assert "Error" not in finished.stdout
    preprocessed = nnunet_folders / "nnUNet_preprocessed" / "Dataset030_All"
    assert len(list((preprocessed / "nnUNetPlans_3d_fullres").glob("*.b2nd"))) == 32
    assert len(json.loads((preprocessed / "splits_final.json").read_text())) == 5
    PartialLabels.from_dataset_json(json.loads((preprocessed / "dataset.json").read_text()))


def test_real_scans_keep_every_mask(real_ct_folder, make_raw_dataset, nnunet_folders):
    from nnunetv2_ext.labels.atoms import AtomTable, encode_masks

    thorax = real_ct_folder / "ct_thorax_abdomen_3mm"
    label_map = _array(thorax / "totalsegmentator_v2_labels.nii.gz")
    values = [int(value) for value in np.unique(label_map) if value]
    consecutive = np.searchsorted([0, *values], label_map).astype(np.uint8)
    names = {f"class {value}": number for number, value in enumerate(values, 1)}
    make_raw_dataset(
        "Dataset001_Thorax", {"background": 0, **names}, {"scan": (_array(thorax / "ct.nii.gz"), consecutive)}
    )
    files = sorted((real_ct_folder / "ct_aorta_1p5mm" / "segmentations").glob("*.nii.gz"))
    encoded = encode_masks(_array(file) for file in files)
    table = AtomTable([file.name.removesuffix(".nii.gz") for file in files], encoded.voxels())
    make_raw_dataset(
        "Dataset002_Aorta",
        table.labels_json(),
        {"scan": (_array(real_ct_folder / "ct_aorta_1p5mm" / "ct.nii.gz"), table.relabel(encoded))},
        order=table.regions_class_order(),
    )
    result = merge_datasets(["1", "2"], 30, "Real", progress=False)
    merged = _masks(result.folder)
    assert len(result.plan.partial_labels.class_names) == len(values) + len(files)
    assert result.duplicates == ()
    for name, number in names.items():
        np.testing.assert_array_equal(merged["Thorax_scan", f"Thorax/{name}"], consecutive == number)
    for file in files:
        name = f"Aorta/{file.name.removesuffix('.nii.gz')}"
        np.testing.assert_array_equal(merged["Aorta_scan", name], _array(file) != 0)


def test_merged_cases_get_names_that_mean_nothing_else(make_raw_dataset, tiny_case):
    wanted = ("x", "x_seg", "Müller", "a b", "a_b")
    folder = make_raw_dataset(
        "Dataset003_Liver", {"background": 0, "liver": 1}, {case: tiny_case(ord(case[-1]), [1]) for case in wanted}
    )
    names = {"Liver_x", "Liver_x_seg_", "Liver_Müller", "Liver_a_b", "Liver_a_b_2"}
    once = merge_datasets(["3"], 30, "Once", progress=False)
    assert {file.name.removesuffix(".nii.gz") for file in (once.folder / "labelsTr").iterdir()} == names
    assert set(once.plan.partial_labels.sources["Liver"].cases) == names
    image = once.folder / "imagesTr" / "Liver_a_b_2_0000.nii.gz"
    assert image.samefile(folder / "imagesTr" / "a b_0000.nii.gz")
    # A collection from before, or from elsewhere.
    content = json.loads((once.folder / "dataset.json").read_text())
    for path in (once.folder / "imagesTr", once.folder / "labelsTr"):
        for file in path.glob("Liver_x_seg_*"):
            file.rename(file.with_name(file.name.replace("Liver_x_seg_", "Liver_x_seg", 1)))
    cases = content["partial_labels"]["Liver"]["cases"]
    cases[cases.index("Liver_x_seg_")] = "Liver_x_seg"
    (once.folder / "dataset.json").write_text(json.dumps(content))
    twice = merge_datasets(["30"], 31, "Twice", progress=False)
    assert set(twice.plan.partial_labels.sources["Liver"].cases) == names


def test_paths_in_place_of_names_stay_in_the_merged_dataset(make_raw_dataset, tiny_case, tmp_path):
    folder = make_raw_dataset("Dataset003_Liver", {"background": 0, "liver": 1}, {"x": tiny_case(1, [1])})
    content = json.loads((folder / "dataset.json").read_text())
    files = {"images": ["imagesTr/x_0000.nii.gz"], "label": "labelsTr/x.nii.gz"}
    content["dataset"] = {"/../../../../victim": files}
    (folder / "dataset.json").write_text(json.dumps(content))
    result = merge_datasets(["3"], 30, "Once", progress=False)
    assert [file.name for file in (result.folder / "labelsTr").iterdir()] == ["Liver__.._.._.._.._victim.nii.gz"]
    assert not list(tmp_path.rglob("victim*"))


def test_the_orientation_is_noted_where_all_inputs_agree_and_can_be_made_one(three_sources, caplog, monkeypatch):
    import SimpleITK

    def noted(result):
        return json.loads((result.folder / "dataset.json").read_text()).get("image_orientation")

    assert noted(merge_datasets(["3", "9"], 30, "Alike", progress=False)) == "LPS"
    for file in three_sources[2].glob("*/spleen_[01]*.nii.gz"):
        SimpleITK.WriteImage(SimpleITK.DICOMOrient(SimpleITK.ReadImage(str(file)), "RSA"), str(file))
    mixed = merge_datasets(["3", "9"], 31, "Mixed", progress=False)
    assert noted(mixed) is None
    assert "Images lie differently (9 LPS, 2 RSA)" in caplog.text
    turned = merge_datasets(["3", "9"], 32, "Turned", orientation="RSA", progress=False)
    assert noted(turned) == "RSA"
    assert turned.placed == {"rewritten": 9, "hard link": 2}
    for file in turned.folder.glob("*Tr/*.nii.gz"):
        original = SimpleITK.ReadImage(str(mixed.folder / file.parent.name / file.name))
        expected = SimpleITK.GetArrayFromImage(SimpleITK.DICOMOrient(original, "RSA"))
        np.testing.assert_array_equal(_array(file), expected)


def test_each_source_is_left_out_once_with_what_belongs_to_its_cases(
    three_sources, make_raw_dataset, tiny_case, nnunet_folders, caplog, monkeypatch
):
    image, _ = tiny_case(0, [1, 2])
    make_raw_dataset(
        "Dataset012_Copies",
        {"background": 0, "pancreas": 1},
        {"same": (image, tiny_case(99, [1])[1]), "new_5": tiny_case(40, [1])},
    )
    caplog.set_level("INFO", "nnunetv2_ext")
    # By their last figure, Liver_liver_5 and Copies_new_5 are of one patient.
    options: dict[str, Any] = {"leave_one_dataset_out": True, "group": r"_5$|^(?!.*_5$).*", "progress": False}
    result = merge_datasets(["3", "7", "12"], 30, "All", **options)
    sources = ("Liver", "Organs", "Copies")
    cases = [record.identifier for record in result.converted]
    apart = {"Liver": {"Copies_same", "Copies_new_5"}, "Organs": set(), "Copies": {"Liver_liver_0", "Liver_liver_5"}}
    expected = [
        {
            "train": sorted(case for case in cases if not case.startswith(source) and case not in apart[source]),
            "val": sorted(case for case in cases if case.startswith(source)),
        }
        for source in sources
    ]
    assert result.splits == expected
    for kind in ("raw", "preprocessed"):
        file = nnunet_folders / f"nnUNet_{kind}" / "Dataset030_All" / "splits_final.json"
        assert json.loads(file.read_text()) == expected
    assert json.loads((result.folder / "merge_report.json").read_text())["folds_leave_out"] == list(sources)
    for line in (
        "Fold 0 leaves Liver out: 5 cases for training, 6 for validation, 2 for neither, which belong",
        "Fold 1 leaves Organs out: 8 cases for training, 5 for validation.",
        "Fold 2 leaves Copies out: 9 cases for training, 2 for validation, 2 for neither",
    ):
        assert line in caplog.text
    # The same command without the flag goes back to folds that hold every source.
    again = merge_datasets(["3", "7", "12"], 30, "All", progress=False)
    assert len(again.splits) == 5
    assert "folds_leave_out" not in json.loads((result.folder / "merge_report.json").read_text())


def test_of_one_source_none_can_be_left_out(three_sources, nnunet_folders):
    with pytest.raises(UserError, match="at least two sources with --leave_one_dataset_out, but found Liver; merge"):
        merge_datasets(["3"], 30, "One", leave_one_dataset_out=True, progress=False)
    assert not (nnunet_folders / "nnUNet_raw" / "Dataset030_One").exists()
