"""KiPA 2022."""


def test_converts_the_published_layout(miniature, assert_converts):
    miniature.case("train/image/70.nii.gz", "train/label/70.nii.gz", "kipa22")
    miniature.case("open_test/image/0.nii.gz", None, "kipa22")
    assert_converts("kipa22", training=1, test=1)
