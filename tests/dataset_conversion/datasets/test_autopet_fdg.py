"""AutoPET, the FDG studies."""

import json

import SimpleITK as sitk

STUDY = "PETCT_0011f3deaf/03-23-2003-NA-PET-CT Ganzkoerper  primaer mit KM-10445"


def test_converts_the_published_layout(miniature, assert_converts, raw_folder):
    folder = f"FDG-PET-CT-Lesions/{STUDY}"
    files = {
        name: miniature.save(f"{folder}/{name}.nii.gz", miniature.image()) for name in ("CT", "CTres", "PET", "SUV")
    }
    miniature.save(f"{folder}/SEG.nii.gz", miniature.label("autopet_fdg"))
    assert_converts("autopet_fdg", training=1)
    assert json.loads((raw_folder / "dataset.json").read_text())["channel_names"] == {"0": "CT", "1": "PET"}
    for channel, name in enumerate(("CTres", "SUV")):
        (image,) = (raw_folder / "imagesTr").glob(f"PETCT_0011f3deaf_*_{channel:04d}.nii.gz")
        assert (
            sitk.GetArrayFromImage(sitk.ReadImage(str(image)))
            == sitk.GetArrayFromImage(sitk.ReadImage(str(files[name])))
        ).all()
