"""ACDC."""


def test_converts_the_published_layout(miniature, assert_converts):
    for folder, patient, frames in (("training", "patient001", ("01", "12")), ("testing", "patient101", ("01", "14"))):
        for frame in frames:
            name = f"database/{folder}/{patient}/{patient}_frame{frame}"
            miniature.case(f"{name}.nii.gz", f"{name}_gt.nii.gz", "acdc")
        miniature.save(f"database/{folder}/{patient}/{patient}_4d.nii.gz", miniature.image(channels=3))
    assert_converts("acdc", training=2, test=2)
