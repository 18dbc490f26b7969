"""BTCV: abdomen and cervix."""


def test_converts_the_published_layout_of_the_abdomen(miniature, assert_converts):
    for case in ("0001", "0002"):
        image, label = f"RawData/Training/img/img{case}.nii.gz", f"RawData/Training/label/label{case}.nii.gz"
        miniature.case(image, label, "btcv_abdomen")
    miniature.case("RawData/Testing/img/img0061.nii.gz", None, "btcv_abdomen")
    assert_converts("btcv_abdomen", training=2, test=1)


def test_converts_the_published_layout_of_the_cervix(miniature, assert_converts):
    folder = "RawData/Training"
    miniature.case(f"{folder}/img/0507688-Image.nii.gz", f"{folder}/label/0507688-Mask.nii.gz", "btcv_cervix")
    miniature.case("RawData/Testing/img/0507690-Image.nii.gz", None, "btcv_cervix")
    assert_converts("btcv_cervix", training=1, test=1)
