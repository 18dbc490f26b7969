"""VerSe 2020."""


def test_converts_the_published_layout(miniature, assert_converts):
    for folder, subject in (("dataset-01training", "500"), ("dataset-02validation", "501"), ("dataset-03test", "502")):
        name = f"sub-verse{subject}"
        miniature.case(
            f"{folder}/rawdata/{name}/{name}_dir-ax_ct.nii.gz",
            f"{folder}/derivatives/{name}/{name}_dir-ax_seg-vert_msk.nii.gz",
            "verse20",
        )
    assert_converts("verse20", training=2, test=1, folds=1)
