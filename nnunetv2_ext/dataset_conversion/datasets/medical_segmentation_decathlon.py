"""The ten tasks of the Medical Segmentation Decathlon."""

from __future__ import annotations

from functools import cached_property

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.datasets.monai_datalist import DECATHLON
from nnunetv2_ext.dataset_conversion.layout import Case, FilePattern
from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json


class _DecathlonTask(DatasetConverter):
    """Medical Segmentation Decathlon.

    Expects the folder of the task as it comes out of its archive, with its dataset.json, whose label values are
    compared with the known ones before anything is written::

        TaskXX_Name/
            dataset.json
            imagesTr/<case>.nii.gz    (several channels: a fourth axis)
            labelsTr/<case>.nii.gz
            imagesTs/<case>.nii.gz
    """

    patterns = (
        FilePattern("imagesTr/{case}.nii.gz", "labelsTr/{case}.nii.gz"),
        FilePattern("imagesTs/{case}.nii.gz", split="test"),
    )

    def cases(self) -> list[Case]:
        """All cases, after a look at the task's own dataset.json."""
        found = super().cases()
        labels = read_json(self.root / "dataset.json", DECATHLON)["labels"]
        values = {int(value) for value in labels} - {0}
        if values != set(self.order.values):
            raise UserError(
                f"Expected the label values {list(self.order.values)} of {self.name} in {self.root / 'dataset.json'}, "
                f"but found {sorted(values)}; this is another task."
            )
        return found

    @cached_property
    def order(self) -> LabelOrder:
        """The label order of the same name."""
        return LabelOrder.read(self.name)


class BrainTumour(_DecathlonTask):
    """Medical Segmentation Decathlon, Task01_BrainTumour: glioma in four MR sequences."""

    name, title = "msd_brain_tumour", "MSD_BrainTumour"
    channel_names = ("FLAIR", "T1w", "T1gd", "T2w")


class Heart(_DecathlonTask):
    """Medical Segmentation Decathlon, Task02_Heart: left atrium in MR."""

    name, title = "msd_heart", "MSD_Heart"
    channel_names = ("MRI",)


class Liver(_DecathlonTask):
    """Medical Segmentation Decathlon, Task03_Liver: liver and tumours in CT."""

    name, title = "msd_liver", "MSD_Liver"


class Hippocampus(_DecathlonTask):
    """Medical Segmentation Decathlon, Task04_Hippocampus: hippocampus in MR."""

    name, title = "msd_hippocampus", "MSD_Hippocampus"
    channel_names = ("MRI",)


class Prostate(_DecathlonTask):
    """Medical Segmentation Decathlon, Task05_Prostate: prostate zones in two MR sequences."""

    name, title = "msd_prostate", "MSD_Prostate"
    channel_names = ("T2", "ADC")


class Lung(_DecathlonTask):
    """Medical Segmentation Decathlon, Task06_Lung: nodules in CT."""

    name, title = "msd_lung", "MSD_Lung"


class Pancreas(_DecathlonTask):
    """Medical Segmentation Decathlon, Task07_Pancreas: pancreas and tumours in CT."""

    name, title = "msd_pancreas", "MSD_Pancreas"


class HepaticVessel(_DecathlonTask):
    """Medical Segmentation Decathlon, Task08_HepaticVessel: vessels and tumours of the liver in CT."""

    name, title = "msd_hepatic_vessel", "MSD_HepaticVessel"


class Spleen(_DecathlonTask):
    """Medical Segmentation Decathlon, Task09_Spleen: spleen in CT."""

    name, title = "msd_spleen", "MSD_Spleen"


class Colon(_DecathlonTask):
    """Medical Segmentation Decathlon, Task10_Colon: colon cancer in CT."""

    name, title = "msd_colon", "MSD_Colon"
