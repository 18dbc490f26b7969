"""VerSe 2019."""

import pytest


@pytest.mark.parametrize("wrapped", [False, True], ids=["side by side", "each in a folder of its name"])
def test_converts_the_published_layout(miniature, assert_converts, wrapped):
    for part, subject, case in (
        ("training", "sub-verse004", "sub-verse004"),
        ("training", "sub-verse401", "sub-verse401_split-verse201"),
        ("validation", "sub-verse153", "sub-verse153"),
        ("test", "sub-verse012", "sub-verse012"),
    ):
        folder = f"dataset-verse19{part}"
        folder = f"{folder}/{folder}" if wrapped else folder
        miniature.case(
            f"{folder}/rawdata/{subject}/{case}_ct.nii.gz",
            f"{folder}/derivatives/{subject}/{case}_seg-vert_msk.nii.gz",
            "verse20",
        )
    assert_converts("verse19", training=3, test=1, folds=1)
