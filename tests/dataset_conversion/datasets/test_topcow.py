"""TopCoW 2023 and 2024: CT and MR."""

import pytest


@pytest.mark.parametrize("name", ["topcow23_ct", "topcow23_mr"])
def test_converts_the_batches_of_2023(name, miniature, assert_converts):
    for modality in ("ct", "mr"):
        for part in ("roi", "whole"):
            case = f"topcow_{modality}_{part}_024"
            folder = "topcow_batch-1_40pairMRCT_30062023"
            miniature.case(f"{folder}/imagesTr/{case}_0000.nii.gz", f"{folder}/mul_labelsTr/{case}.nii.gz", "topcow")
    assert_converts(name, training=1)


@pytest.mark.parametrize("name", ["topcow24_ct", "topcow24_mr"])
def test_converts_the_release_of_2024(name, miniature, assert_converts):
    for modality in ("ct", "mr"):
        for number in ("001", "012"):
            case, folder = f"topcow_{modality}_{number}", "TopCoW2024_Data_Release"
            image, label = f"{folder}/imagesTr/{case}_0000.nii.gz", f"{folder}/cow_seg_labelsTr/{case}.nii.gz"
            miniature.case(image, label, "topcow")
    assert_converts(name, training=2)
