"""BraTS 2023, adult glioma."""

import SimpleITK as sitk


def test_converts_the_published_layout(miniature, assert_converts, raw_folder):
    files = {}
    for part, case in (("Training", "BraTS-GLI-00000-000"), ("Validation", "BraTS-GLI-01790-000")):
        folder = f"ASNR-MICCAI-BraTS2023-GLI-Challenge-{part}Data/{case}"
        for sequence in ("t1c", "t1n", "t2f", "t2w"):
            files[part, sequence] = miniature.save(f"{folder}/{case}-{sequence}.nii.gz", miniature.image())
        if part == "Training":
            miniature.save(f"{folder}/{case}-seg.nii.gz", miniature.label("brats23_gli"))
    assert_converts("brats23_gli", training=1, test=1)
    for channel, sequence in enumerate(("t1n", "t1c", "t2w", "t2f")):
        image = sitk.ReadImage(str(raw_folder / "imagesTr" / f"BraTS-GLI-00000-000_{channel:04d}.nii.gz"))
        source = sitk.ReadImage(str(files["Training", sequence]))
        assert (sitk.GetArrayFromImage(image) == sitk.GetArrayFromImage(source)).all()


def test_a_patient_without_a_sequence_is_refused_by_name(miniature, convert):
    folder = "ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData"
    for case in ("BraTS-GLI-00000-000", "BraTS-GLI-00001-000"):
        for name in ("t1c", "t1n", "t2f", "t2w"):
            miniature.save(f"{folder}/{case}/{case}-{name}.nii.gz", miniature.image())
        miniature.save(f"{folder}/{case}/{case}-seg.nii.gz", miniature.label("brats23_gli"))
    (miniature.root / folder / case / f"{case}-t2f.nii.gz").unlink()
    (failed,) = convert("brats23_gli").failed
    assert failed.identifier == "BraTS-GLI-00001-000"
    assert "channels t1n, t1c, t2w, t2f, but found seg, t1c, t1n, t2w" in failed.findings[-1].message
