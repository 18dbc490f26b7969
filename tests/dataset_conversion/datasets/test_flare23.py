"""FLARE 2023."""


def test_converts_the_published_layout(miniature, assert_converts):
    miniature.case("imagesTr2200/FLARE23_0001_0000.nii.gz", "labelsTr2200/FLARE23_0001.nii.gz", "flare23")
    labelled = "val-gt-50cases-for-sanity-check/FLARE23Ts_0001.nii.gz"
    miniature.case("validation/FLARE23Ts_0001_0000.nii.gz", labelled, "flare23")
    miniature.case("validation/FLARE23Ts_0002_0000.nii.gz", None, "flare23")
    assert_converts("flare23", training=1, test=2)
