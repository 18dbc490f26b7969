"""nnU-Net's folders, and datasets by ID or name."""

from __future__ import annotations

import pytest

from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.paths import dataset_name, nnunet_folder, parse_new_dataset_name, refuse_used_id


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_variable_that_is_not_set_is_named_with_an_example(monkeypatch, value):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    if value is not None:
        monkeypatch.setenv("nnUNet_raw", value)
    with pytest.raises(UserError, match=r"nnUNet_raw is not set; .*export nnUNet_raw="):
        nnunet_folder("nnUNet_raw")


@pytest.mark.parametrize("name", [5, "5", "005", "Dataset005_Liver"])
def test_datasets_are_found_by_id_and_by_name(nnunet_folders, name):
    for folder in ("nnUNet_raw/Dataset005_Liver", "nnUNet_preprocessed/Dataset005_Liver", "nnUNet_raw/Dataset050_B"):
        (nnunet_folders / folder).mkdir()
    assert dataset_name(name) == "Dataset005_Liver"
    assert dataset_name(name, "nnUNet_preprocessed") == "Dataset005_Liver"


def test_only_the_folders_asked_for_are_searched(nnunet_folders):
    (nnunet_folders / "nnUNet_raw" / "Dataset005_Liver").mkdir()
    with pytest.raises(UserError, match=r"Expected dataset 5 in .*nnUNet_results, but found no datasets at all"):
        dataset_name(5, "nnUNet_results")


def test_unknown_and_ambiguous_datasets_are_refused(nnunet_folders):
    (nnunet_folders / "nnUNet_raw" / "Dataset005_Liver").mkdir()
    (nnunet_folders / "nnUNet_results" / "Dataset005_Spleen").mkdir()
    with pytest.raises(UserError, match=r"Dataset ID 5 is used by Dataset005_Liver, Dataset005_Spleen"):
        dataset_name(5)
    with pytest.raises(UserError, match=r"Expected dataset Dataset005_Heart .* found Dataset005_Liver, Dataset005_Spl"):
        dataset_name("Dataset005_Heart")
    assert dataset_name("Dataset005_Spleen") == "Dataset005_Spleen"


def test_without_any_variable_the_first_is_asked_for(monkeypatch):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UserError, match="nnUNet_raw is not set"):
        dataset_name(5)


def test_new_names_are_built_and_checked():
    assert parse_new_dataset_name(5, "Liver-2_b") == "Dataset005_Liver-2_b"
    for number in (0, 1000, -1):
        with pytest.raises(UserError, match="between 1 and 999"):
            parse_new_dataset_name(number, "Liver")
    for name in ("", "a b", "a/b", "Leber!", "..", "ä"):
        with pytest.raises(UserError, match="letters, digits"):
            parse_new_dataset_name(5, name)


@pytest.mark.parametrize("folder", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
def test_an_id_in_use_is_refused_wherever_it_is_used(nnunet_folders, monkeypatch, folder):
    (nnunet_folders / folder / "Dataset005_Liver").mkdir()
    refuse_used_id("Dataset005_Liver")  # the dataset itself: --overwrite decides
    refuse_used_id("Dataset050_Liver")
    with pytest.raises(UserError, match=rf"005 is used by Dataset005_Liver in .*{folder}; choose another ID"):
        refuse_used_id("Dataset005_Spleen")
    monkeypatch.delenv(folder)
    refuse_used_id("Dataset005_Spleen")
