"""KiTS19, KiTS21 and KiTS23."""


def test_converts_the_published_layout_of_kits19(miniature, assert_converts):
    folder = "data/case_00000"
    miniature.case(f"{folder}/imaging.nii.gz", f"{folder}/segmentation.nii.gz", "kits19", axes="SPR")
    miniature.case("data/case_00210/imaging.nii.gz", None, "kits19")
    assert_converts("kits19", training=1, test=1)


def test_converts_the_published_layout_of_kits21(miniature, assert_converts):
    miniature.case("data/case_00000/imaging.nii.gz", "data/case_00000/aggregated_MAJ_seg.nii.gz", "kits21")
    assert_converts("kits21", training=1)


def test_converts_the_published_layout_of_kits23(miniature, assert_converts):
    miniature.case("dataset/case_00000/imaging.nii.gz", "dataset/case_00000/segmentation.nii.gz", "kits23")
    assert_converts("kits23", training=1)
