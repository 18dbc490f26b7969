"""What once went wrong with the conversion of datasets, through the command."""

from __future__ import annotations

import contextlib
import json
import os

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from nnunetv2_ext.cli.convert_dataset import main
from nnunetv2_ext.dataset_conversion import raw_dataset


@pytest.fixture
def source(miniature):
    """Three cases in the layout of ``label_maps``, whose classes have 7 voxels and 2."""
    miniature.text("order.json", {"name": "mine", "labels": {"liver": 1, "tumour": 2}})
    for case in "abc":
        label = np.zeros((12, 14, 16), np.uint8)
        label[0, 0, :7], label[1, 0, :2] = 1, 2
        miniature.save(f"images/{case}.nii.gz", miniature.image())
        miniature.save(f"labels/{case}.nii.gz", label)
    return miniature


@pytest.fixture
def folder(nnunet_folders):
    """Where `_convert` writes."""
    return nnunet_folders / "nnUNet_raw" / "Dataset007_X"


def _run(*arguments):
    return main([*map(str, arguments), "-d", "7", "-n", "X", "-np", "1"])


def _convert(source, *arguments):
    return _run("label_maps", "-i", source.root, "--order", source.root / "order.json", *arguments)


def _killed_after(cases, convert, monkeypatch):
    """Ends a conversion when so many cases are done."""
    real, calls = raw_dataset.convert_case, []

    def stop(job, *arguments):
        calls.append(job)
        if len(calls) > cases:
            raise KeyboardInterrupt
        return real(job, *arguments)

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(raw_dataset, "convert_case", stop)
        convert()


def _voxels(folder):
    """Case -> class -> number of voxels, as dataset.json and label map have it."""
    labels = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["labels"]
    return {
        file.name.removesuffix(".nii.gz"): {
            name: int(np.isin(sitk.GetArrayFromImage(sitk.ReadImage(str(file))), values).sum())
            for name, values in labels.items()
            if name != "background"
        }
        for file in sorted((folder / "labelsTr").iterdir())
    }


# Resuming -------------------------------------------------------------------------------------------------------------


def test_cases_under_two_orders_are_never_mixed(source, folder, monkeypatch, capsys):
    _killed_after(1, lambda: _convert(source), monkeypatch)
    source.text("order.json", {"name": "mine", "labels": {"lesion": 3, "liver": 1, "tumour": 2}})
    code = _convert(source)
    assert code == 2 or len(set(map(str, _voxels(folder).values()))) == 1, _voxels(folder)
    assert "comes from another source or other options (labels, values)" in capsys.readouterr().err
    assert _convert(source, "--overwrite") == 0
    assert _voxels(folder) == {case: {"liver": 7, "tumour": 2, "lesion": 0} for case in "abc"}


def test_a_class_that_a_later_patient_adds_does_not_rename_those_that_are_there(miniature, folder):
    masks = {"a": ("liver", "spleen"), "b": ("liver", "spleen"), "c": ("aorta", "liver", "spleen")}
    truth = {"aorta": 3, "liver": 5, "spleen": 7}

    def add(cases):
        for case in cases:
            miniature.save(f"{case}/ct.nii.gz", miniature.image())
            for row, name in enumerate(masks[case]):
                mask = np.zeros((12, 14, 16), np.uint8)
                mask[row, 0, : truth[name]] = 1
                miniature.save(f"{case}/segmentations/{name}.nii.gz", mask)

    arguments = ["masks", "-i", miniature.root, "--accept", "missing_masks"]
    add("ab")
    assert _run(*arguments) == 0
    add("c")
    if _run(*arguments) == 2:
        assert _run(*arguments, "--overwrite") == 0
    for case, counts in _voxels(folder).items():
        assert counts == {name: truth[name] if name in masks[case] else 0 for name in truth}, case


def test_a_case_whose_files_have_changed_is_converted_anew(source, folder, monkeypatch, capsys):
    _killed_after(2, lambda: _convert(source), monkeypatch)
    source.save("labels/a.nii.gz", np.full((12, 14, 16), 2, np.uint8))
    os.utime(source.root / "labels" / "a.nii.gz", (1, 1))
    assert _convert(source) == 0
    assert _voxels(folder)["a"] == {"liver": 0, "tumour": 12 * 14 * 16}
    assert _voxels(folder)["b"] == {"liver": 7, "tumour": 2}
    output = capsys.readouterr().err
    assert "Converted anew, because sources, options or files changed: a" in output
    assert "1 of 3 cases are complete" in output


def test_a_complete_dataset_stays_until_the_new_one_is_complete(source, folder, monkeypatch):
    assert _convert(source) == 0
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    _killed_after(1, lambda: _convert(source, "--overwrite"), monkeypatch)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_a_dataset_is_incomplete_while_its_cases_change(source, folder, monkeypatch):
    assert _convert(source) == 0
    os.utime(source.root / "labels" / "a.nii.gz", (1, 1))
    _killed_after(0, lambda: _convert(source), monkeypatch)
    assert not (folder / "dataset.json").exists()
    assert _convert(source) == 0
    assert (folder / "dataset.json").exists()


# Channels -------------------------------------------------------------------------------------------------------------


def test_channels_have_the_images_of_their_names(source, folder, capsys):
    for case, channels in (("a", "T2 ADC"), ("b", "adc t2"), ("c", "T2 DWI")):
        for channel in channels.split():
            image = np.random.default_rng(ord(case)).integers(0, 9, (12, 14, 16))
            source.save(f"mr/{case}_{channel}.nii.gz", (image + 100 * channel.upper().count("T")).astype(np.int16))
    assert _convert(source, "--image", "mr/{case}_{channel}.nii.gz", "--channels", "T2", "ADC") == 1
    assert "c: Expected one file for each of the channels T2, ADC, but found DWI, T2." in capsys.readouterr().out
    for case in "ab":
        means = [
            sitk.GetArrayFromImage(sitk.ReadImage(str(file))).mean()
            for file in sorted((folder / "imagesTr").glob(f"{case}_*"))
        ]
        assert means[0] > 100 > means[1], case


# Bad cases ------------------------------------------------------------------------------------------------------------


def _without_positions(file):
    content = pydicom.dcmread(file)
    del content.ImagePositionPatient, content.ImageOrientationPatient
    content.save_as(file)


DAMAGED = {
    "not DICOM": lambda file: file.write_bytes(b"\0" * 500),
    "cut short": lambda file: file.write_bytes(file.read_bytes()[:-300]),
    "without positions": _without_positions,
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_series_is_one_bad_case(damage, miniature, folder, capsys):
    for case in ("0001", "0002"):
        label = miniature.label("nih_pancreas_ct")
        miniature.dicom(f"Pancreas-CT/PANCREAS_{case}/study/series", miniature.ct(label))
        miniature.save(f"TCIA_pancreas_labels-02-05-2017/label{case}.nii.gz", label, origin=(0, 0, 0))
    for file in (miniature.root / "Pancreas-CT" / "PANCREAS_0001").rglob("*.dcm"):
        DAMAGED[damage](file)
    assert _run("nih_pancreas_ct", "-i", miniature.root) == 1
    assert "PANCREAS_0001: Expected" in capsys.readouterr().out
    assert [file.name for file in (folder / "labelsTr").iterdir()] == ["PANCREAS_0002.nii.gz"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("ending", "sentence"),
    [(".dcm", "converted by nnUNetv2_ext_convert_dataset dicom"), (".pkl", "pickles may hold code")],
)
def test_annotations_of_other_kinds_are_told_in_a_sentence(ending, sentence, source, capsys):
    for case in "abc":
        (source.root / "labels" / f"{case}{ending}").write_bytes(b"\x80\x04N.")
    assert _convert(source, "--label", f"labels/{{case}}{ending}") == 2
    assert sentence in capsys.readouterr().err


# What is written ------------------------------------------------------------------------------------------------------


def test_regions_keep_the_classes_that_belong_to_none(source, folder, verify_integrity):
    source.text(
        "order.json",
        {"name": "mine", "labels": {"liver": 1, "tumour": 2, "spleen": 3}, "regions": {"liver": ["liver", "tumour"]}},
    )
    label = np.zeros((12, 14, 16), np.uint8)
    label[0, 0, :7], label[1, 0, :2], label[2, 0, :5] = 1, 2, 3
    for case in "abc":
        source.save(f"labels/{case}.nii.gz", label)
    assert _convert(source, "--regions") == 0
    verify_integrity(folder)
    assert _voxels(folder) == {case: {"liver": 9, "spleen": 5} for case in "abc"}


def test_links_that_a_move_would_break_are_told_and_can_be_made_copies(source, folder, monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert _convert(source) == 0
    images = sorted((folder / "imagesTr").iterdir())
    assert all(image.is_symlink() for image in images)
    output = capsys.readouterr().out
    assert f"3 image(s) are symbolic links into {source.root}" in output
    assert "--copy_images" in output
    assert _convert(source, "--copy_images") == 0
    assert not any(image.is_symlink() for image in images)


def test_images_outlive_their_source(source, folder):
    assert _convert(source) == 0
    source.root.rename(source.root.with_name("moved"))
    for image in (folder / "imagesTr").iterdir():
        assert image.is_file(), image


# What stands in the way -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--overwrite"]])
def test_a_file_in_place_of_the_dataset_is_told(arguments, source, folder, capsys):
    folder.write_text("mine", encoding="utf-8")
    assert _convert(source, *arguments) == 2
    assert f"Expected a folder for the results at {folder}, but there is a file in its place" in capsys.readouterr().err
    assert folder.read_text(encoding="utf-8") == "mine"


@pytest.mark.usefixtures("folder")
def test_half_a_character_in_a_file_is_told(source, capsys):
    (source.root / "order.json").write_text('{"name": "m", "labels": {"\\ud800": 1}}', encoding="utf-8")
    assert _convert(source) == 2
    assert "Expected JSON in" in capsys.readouterr().err
