"""The ten tasks of the Medical Segmentation Decathlon."""

from __future__ import annotations

from functools import cached_property

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
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
        labels = read_json(self.root / "dataset.json").get("labels", {})
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
    __doc__ = _DecathlonTask.__doc__
    name, title = "msd_brain_tumour", "MSD_BrainTumour"
    channel_names = ("FLAIR", "T1w", "T1gd", "T2w")


class Heart(_DecathlonTask):
    __doc__ = _DecathlonTask.__doc__
    name, title = "msd_heart", "MSD_Heart"
    channel_names = ("MRI",)


class Liver(_DecathlonTask):
    __doc__ = _DecathlonTask.__doc__
    name, title = "msd_liver", "MSD_Liver"


class Hippocampus(_DecathlonTask):
    __doc__ = _DecathlonTask.__doc__
    name, title = "msd_hippocampus", "MSD_Hippocampus"
    channel_names = ("MRI",)


class Prostate(_DecathlonTask):
    __doc__ = _DecathlonTask.__doc__
    name, title = "msd_prostate", "MSD_Prostate"
    channel_names = ("T2", "ADC")


class Lung(_DecathlonTask):
    __doc__ = _DecathlonTask.__doc__
    name, title = "msd_lung", "MSD_Lung"


class Pancreas(_DecathlonTask):
    __doc__ = _DecathlonTask.__doc__
    name, title = "msd_pancreas", "MSD_Pancreas"


class HepaticVessel(_DecathlonTask):
    __doc__ = _DecathlonTask.__doc__
    name, title = "msd_hepatic_vessel", "MSD_HepaticVessel"


class Spleen(_DecathlonTask):
    __doc__ = _DecathlonTask.__doc__
    name, title = "msd_spleen", "MSD_Spleen"


class Colon(_DecathlonTask):
    __doc__ = _DecathlonTask.__doc__
    name, title = "msd_colon", "MSD_Colon"
