"""WORD."""


def test_converts_the_published_layout(miniature, assert_converts):
    for part, case in (("Tr", "0002"), ("Val", "0001"), ("Ts", "0014")):
        miniature.case(f"images{part}/word_{case}.nii.gz", f"labels{part}/word_{case}.nii.gz", "word")
    assert_converts("word", training=2, test=1, folds=1)
