"""AbdomenCT-1K."""


def test_converts_the_published_layout(miniature, assert_converts):
    for part, case in (("1", "Case_00001"), ("2", "Case_00400")):
        image, label = f"AbdomenCT-1K-ImagePart{part}/{case}_0000.nii.gz", f"Mask/{case}.nii.gz"
        miniature.case(image, label, "abdomenct_1k")
    assert_converts("abdomenct_1k", training=2)
