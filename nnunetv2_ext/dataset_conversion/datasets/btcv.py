"""Multi-Atlas Labeling Beyond the Cranial Vault: abdomen and cervix."""

from __future__ import annotations

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import FilePattern


class BTCVAbdomen(DatasetConverter):
    """BTCV abdomen, from Synapse (syn3193805).

    Expects the contents of RawData.zip::

        RawData/Training/img/img0001.nii.gz
        RawData/Training/label/label0001.nii.gz
        RawData/Testing/img/img0061.nii.gz
    """

    name = "btcv_abdomen"
    title = "BTCV_Abdomen"
    label_order = "btcv_abdomen"
    patterns = (
        FilePattern("RawData/Training/img/img{case}.nii.gz", "RawData/Training/label/label{case}.nii.gz"),
        FilePattern("RawData/Testing/img/img{case}.nii.gz", split="test"),
    )


class BTCVCervix(DatasetConverter):
    """BTCV cervix, from Synapse (syn3193805).

    Expects the contents of its RawData.zip::

        RawData/Training/img/0507688-Image.nii.gz
        RawData/Training/label/0507688-Mask.nii.gz
        RawData/Testing/img/0507690-Image.nii.gz
    """

    name = "btcv_cervix"
    title = "BTCV_Cervix"
    label_order = "btcv_cervix"
    patterns = (
        FilePattern("RawData/Training/img/{case}-Image.nii.gz", "RawData/Training/label/{case}-Mask.nii.gz"),
        FilePattern("RawData/Testing/img/{case}-Image.nii.gz", split="test"),
    )
