"""Gibson et al.: further labels for images of BTCV and NIH Pancreas-CT."""

from __future__ import annotations

from dataclasses import replace

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import Case, FilePattern, annotated_only
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_table
from nnunetv2_ext.utilities.validation import check, mapping_of, text

_EXTENTS = (("extent_left", "extent_right"), ("extent_ant", "extent_post"), ("extent_inf", "extent_sup"))


class GibsonMultiOrgan(DatasetConverter):
    """Multi-organ labels of Gibson et al. (Zenodo 1169361) with their images.

    Expects the contents of the three files of the Zenodo record beside the images, which come from BTCV (Synapse) and
    from NIH Pancreas-CT (The Cancer Imaging Archive, DICOM)::

        cropping.csv
        label_btcv_multiorgan/label0001.nii.gz
        label_tcia_multiorgan/label0002.nii.gz
        RawData/Training/img/img0001.nii.gz
        RawData/Testing/img/img0061.nii.gz
        Pancreas-CT/PANCREAS_0002/<study>/<series>/*.dcm

    The annotation is complete only inside the box that cropping.csv gives for each image, so images and labels are cut
    to it. Its columns ``original_id``, ``publisher`` (``BTCV`` or ``TCIA``), ``extent_left``, ``extent_right``,
    ``extent_ant``, ``extent_post``, ``extent_inf`` and ``extent_sup`` are taken as voxel indices of the image oriented
    left, posterior, superior. A case with more than half of its annotation outside its box is refused, so a wrong
    reading of these columns cannot pass unnoticed. The classes annotated only in BTCV (right kidney, vessels, adrenal
    glands) become background, as in MultiTalent. Label maps of Pancreas-CT images get the image's grid, because their
    headers do not hold a position.
    """

    name = "gibson_multi_organ"
    title = "GibsonMultiOrgan"
    label_order = "gibson_multi_organ"
    label_grids_are_wrong = True
    rewrite_values = dict.fromkeys((2, 8, 9, 10, 12, 13), 0)
    patterns = (
        FilePattern(
            "RawData/Training/img/img{case}.nii.gz", "label_btcv_multiorgan/label{case}.nii.gz", "train", "btcv_{case}"
        ),
        FilePattern(
            "RawData/Testing/img/img{case}.nii.gz", "label_btcv_multiorgan/label{case}.nii.gz", "train", "btcv_{case}"
        ),
        FilePattern("Pancreas-CT/PANCREAS_{case}", "label_tcia_multiorgan/label{case}.nii.gz", "train", "tcia_{case}"),
    )

    def cases(self) -> list[Case]:
        """Annotated cases with their crop; images that nobody annotated are left out."""
        boxes = self._boxes()
        cases = []
        for case in annotated_only(super().cases()):
            box = boxes.get(case.identifier)
            problem = case.problem or ("" if box else "Expected its row in cropping.csv, but there is none.")
            cases.append(replace(case, crop=box, problem=problem))
        return cases

    def _boxes(self) -> dict[str, tuple[tuple[int, int], ...]]:
        path = self.root / "cropping.csv"
        if not path.is_file():
            raise UserError(f"Expected cropping.csv of Zenodo record 1169361 in {self.root}, but it does not exist.")
        extents = [name for pair in _EXTENTS for name in pair]
        boxes = {}
        for row in read_table(path, ("original_id", "publisher", *extents)):
            check({name: row[name] for name in extents}, mapping_of(text(r"\d{1,5}", "a voxel index")), path)
            bounds = [sorted((int(row[first]), int(row[last]))) for first, last in _EXTENTS]
            identifier = f"{row['publisher'].lower()}_{row['original_id'].zfill(4)}"
            boxes[identifier] = tuple((low, high + 1) for low, high in bounds)
        return boxes
