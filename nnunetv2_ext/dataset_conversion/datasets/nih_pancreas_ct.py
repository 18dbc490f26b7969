"""NIH Pancreas-CT."""

from __future__ import annotations

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import FilePattern


class NIHPancreasCT(DatasetConverter):
    """NIH Pancreas-CT, from The Cancer Imaging Archive: images as DICOM, labels as NIfTI.

    Expects the folder of the NBIA data retriever and the unpacked label archive side by side::

        Pancreas-CT/PANCREAS_0001/<study>/<series>/*.dcm
        TCIA_pancreas_labels-02-05-2017/label0001.nii.gz

    The label headers hold the orientation but not the position, so label maps are brought into the orientation of the
    image and take its grid; where the numbers of voxels differ, the case is refused.
    """

    name = "nih_pancreas_ct"
    title = "NIH_PancreasCT"
    label_order = "nih_pancreas_ct"
    label_grids_are_wrong = True
    patterns = (
        FilePattern(
            "Pancreas-CT/PANCREAS_{case}", "TCIA_pancreas_labels-*/label{case}.nii.gz", identifier="PANCREAS_{case}"
        ),
    )
