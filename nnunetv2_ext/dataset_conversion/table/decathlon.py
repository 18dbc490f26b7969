"""The ten tasks of the Medical Segmentation Decathlon."""

from __future__ import annotations

from nnunetv2_ext.dataset_conversion.entry import DatasetEntry
from nnunetv2_ext.dataset_conversion.layout import FilePattern as Files

_DECATHLON = {
    "msd_brain_tumour": ("BrainTumour", "Task01_BrainTumour: glioma in four MR sequences", "FLAIR T1w T1gd T2w"),
    "msd_heart": ("Heart", "Task02_Heart: left atrium in MR", "MRI"),
    "msd_liver": ("Liver", "Task03_Liver: liver and tumours in CT", "CT"),
    "msd_hippocampus": ("Hippocampus", "Task04_Hippocampus: hippocampus in MR", "MRI"),
    "msd_prostate": ("Prostate", "Task05_Prostate: prostate zones in two MR sequences", "T2 ADC"),
    "msd_lung": ("Lung", "Task06_Lung: nodules in CT", "CT"),
    "msd_pancreas": ("Pancreas", "Task07_Pancreas: pancreas and tumours in CT", "CT"),
    "msd_hepatic_vessel": ("HepaticVessel", "Task08_HepaticVessel: vessels and tumours of the liver in CT", "CT"),
    "msd_spleen": ("Spleen", "Task09_Spleen: spleen in CT", "CT"),
    "msd_colon": ("Colon", "Task10_Colon: colon cancer in CT", "CT"),
}
_DECATHLON_FILES = (
    Files("imagesTr/{case}.nii.gz", "labelsTr/{case}.nii.gz"),
    Files("imagesTs/{case}.nii.gz", split="test"),
)
_DECATHLON_NOTE = """\
The folder of one task, with its dataset.json, whose label values are compared with the known ones before anything is
written. Several channels are a fourth axis of the images."""

DECATHLON = tuple(
    DatasetEntry(
        name,
        f"MSD_{title}",
        f"Medical Segmentation Decathlon, {about}.",
        _DECATHLON_FILES,
        _DECATHLON_NOTE,
        channels=tuple(channels.split()),
        module="decathlon",
    )
    for name, (title, about, channels) in _DECATHLON.items()
)
