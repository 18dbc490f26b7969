"""StructSeg 2019, thorax."""


def test_converts_the_published_layout(miniature, assert_converts):
    for case in (1, 2):
        miniature.case(f"Thoracic_OAR/{case}/data.nii.gz", f"Thoracic_OAR/{case}/label.nii.gz", "structseg_thorax")
    assert_converts("structseg_thorax", training=2)
