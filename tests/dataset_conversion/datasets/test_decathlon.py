"""Medical Segmentation Decathlon."""

import pytest

from nnunetv2_ext.dataset_conversion.registry import datasets
from nnunetv2_ext.labels import LabelOrder
from nnunetv2_ext.utilities.errors import UserError

CHANNELS = {
    "msd_brain_tumour": 4,
    "msd_heart": 1,
    "msd_liver": 1,
    "msd_hippocampus": 1,
    "msd_prostate": 2,
    "msd_lung": 1,
    "msd_pancreas": 1,
    "msd_hepatic_vessel": 1,
    "msd_spleen": 1,
    "msd_colon": 1,
}


def _write(miniature, name):
    order = LabelOrder.read(name)
    labels = {"0": "background", **{str(value): key for key, value in order.labels.items()}}
    miniature.text("Task99_Mini/dataset.json", {"labels": labels})
    for case in ("a_001", "a_002"):
        miniature.save(f"Task99_Mini/imagesTr/{case}.nii.gz", miniature.image(channels=CHANNELS[name]))
        miniature.save(f"Task99_Mini/labelsTr/{case}.nii.gz", miniature.label(order))
    miniature.save("Task99_Mini/imagesTs/a_003.nii.gz", miniature.image(channels=CHANNELS[name]))
    # Archives made on a Mac hold such files.
    miniature.text("Task99_Mini/imagesTr/._a_001.nii.gz", "no image")


@pytest.mark.parametrize("name", CHANNELS)
def test_converts_the_published_layout(name, miniature, assert_converts):
    _write(miniature, name)
    assert_converts(name, training=2, test=1)


def test_the_tasks_are_told_apart(miniature):
    _write(miniature, "msd_liver")
    with pytest.raises(UserError, match="this is another task"):
        datasets()["msd_spleen"].open(miniature.root).cases()
