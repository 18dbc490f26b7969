"""Conversion of a miniature of a published dataset, and what holds of the result whatever the dataset."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_ext.dataset_conversion.converter import ConversionOptions
from nnunetv2_ext.dataset_conversion.raw_dataset import convert_dataset
from nnunetv2_ext.dataset_conversion.registry import datasets


@pytest.fixture
def raw_folder(nnunet_folders):
    """Where `convert` writes."""
    return nnunet_folders / "nnUNet_raw" / "Dataset123_Mini"


@pytest.fixture
def convert(miniature, raw_folder):
    """``convert("word")`` converts the miniature and returns the result; further arguments are conversion options."""

    def run(name, **options):
        converter = datasets()[name].open(miniature.root, ConversionOptions(**options))
        return convert_dataset(converter, raw_folder, progress=False)

    return run


@pytest.fixture
def assert_converts(miniature, convert, raw_folder, nnunet_folders, verify_integrity):
    """``assert_converts("word", training=2, test=1)``: every case arrives, nnU-Net finds nothing wrong with the result,
    and every class has its two voxels at the position (in mm) that the miniature gave it.

    ``drawn`` is the label order in which `Miniature.label` drew, by default the converter's own; ``annotated`` says of
    the planes (z) whether the source annotates them; ``folds`` is the number of folds that the source defines;
    ``licensed`` whether the label order states a licence, as those of published datasets do.
    """

    def check(name, *, training, test=0, folds=0, drawn=None, annotated=None, licensed=True, **options):
        result = convert(name, **options)
        assert [(record.identifier, record.findings) for record in result.failed] == []
        assert len([record for record in result.converted if record.split != "test"]) == training
        assert len([record for record in result.converted if record.split == "test"]) == test
        verify_integrity(raw_folder)
        content = json.loads((raw_folder / "dataset.json").read_text())
        assert content["licence"] or not licensed
        assert not (raw_folder / ".conversion").exists()
        _assert_folds(folds, raw_folder, nnunet_folders / "nnUNet_preprocessed" / raw_folder.name)

        source = drawn or datasets()[name].open(miniature.root, ConversionOptions(**options)).order
        phantom = miniature.label(source)
        if annotated is not None:
            phantom[[z for z in range(len(phantom)) if not annotated(z)]] = 0
        for record in result.converted:
            if record.label is None:
                continue
            label = sitk.ReadImage(str(raw_folder / record.label))
            array = sitk.GetArrayFromImage(label)
            for class_name, value in source.labels.items():
                expected = np.argwhere(phantom == value)
                found = np.argwhere(array == content["labels"][class_name])
                assert _millimetres(found, label) == _phantom_millimetres(expected), (record.identifier, class_name)
                assert record.voxels[class_name] == len(expected)

    return check


def _assert_folds(folds, *folders):
    """The same splits in the raw and in the preprocessed dataset, with one validation case in each fold."""
    for folder in folders:
        file = folder / "splits_final.json"
        splits = json.loads(file.read_text()) if file.exists() else []
        assert len(splits) == folds
        for split in splits:
            assert len(split["val"]) == 1
            assert not set(split["train"]) & set(split["val"])
    contents = {(folder / "splits_final.json").read_text() for folder in folders} if folds else set()
    assert len(contents) <= 1


def _millimetres(indices, image):
    points = [image.TransformIndexToPhysicalPoint([int(i) for i in reversed(index)]) for index in indices]
    return sorted(tuple(round(value, 2) for value in point) for point in points)


def _phantom_millimetres(indices):
    points = indices[:, ::-1] * (1.5, 1.25, 3.0) + (-20.0, 10.0, 300.0)
    return sorted(tuple(round(float(value), 2) for value in point) for point in points)


@pytest.fixture
def assert_documented_commands_run(miniature, nnunet_folders, code_in, capsys):
    """``assert_documented_commands_run("masks")``: all commands of docs/convert.md for it convert the miniature."""
    from nnunetv2_ext.cli.convert_dataset import main

    paths = {word: str(miniature.root / word) for word in ("order.json", "cells.json", "datalist.json")}
    paths["SOURCE"] = str(miniature.root)

    def check(name):
        lines = [line for block in code_in("convert.md", "bash") for line in block.splitlines()]
        commands = [line for line in lines if line.startswith(f"nnUNetv2_ext_convert_dataset {name} ")]
        assert commands
        for command in commands:
            words = shlex.split(command, comments=True)[1:]
            if "-np" in words:
                words[words.index("-np") + 1] = "1"
            assert main([paths.get(word, word) for word in words]) == 0
        folders = list((nnunet_folders / "nnUNet_raw").iterdir())
        assert len(folders) == len([command for command in commands if " -d " in command])
        assert all(json.loads((folder / "dataset.json").read_text())["numTraining"] >= 1 for folder in folders)

    return check
