"""LiTS."""


def test_converts_the_published_layout(miniature, assert_converts):
    miniature.case("Training Batch 1/volume-0.nii", "Training Batch 1/segmentation-0.nii", "lits")
    miniature.case("Training Batch 2/volume-28.nii", "Training Batch 2/segmentation-28.nii", "lits")
    miniature.case("Test-Data/test-volume-0.nii", None, "lits")
    assert_converts("lits", training=2, test=1)
