"""Organs of the abdomen and their tumours."""

from __future__ import annotations

from nnunetv2_ext.dataset_conversion.entry import DatasetEntry
from nnunetv2_ext.dataset_conversion.layout import FilePattern as Files

_AMOS_FILES = (
    Files("imagesTr/amos_{case}.nii.gz", "labelsTr/amos_{case}.nii.gz", "train", "amos_{case}"),
    Files("imagesVa/amos_{case}.nii.gz", "labelsVa/amos_{case}.nii.gz", "val", "amos_{case}"),
    Files("imagesTs/amos_{case}.nii.gz", None, "test", "amos_{case}"),
)
_AMOS_NOTE = "The contents of amos22.zip (Zenodo 7262581). Numbers up to 500 are CT, larger ones MR."
_AMOS_CHECKED = "layout, names, and which numbers are MR in loaders of others"

_KITS_NOTE = "The challenge's repository after its download script ran, or the folder of cases in it."

_NO_IMAGE = "no image on The Cancer Imaging Archive"

ABDOMEN = (
    *(
        DatasetEntry(
            f"abdomenatlas_{release}",
            f"AbdomenAtlas{release}",
            about,
            (Files("{case}/ct.nii.gz", "{case}/segmentations/{class}.nii.gz"),),
            """\
`combined_labels.nii.gz` is not read: its integers differ between releases, names do not. Masks of classes that later
releases add are passed over. Where masks overlap, the class that comes later in the label order wins.""",
            extra_masks=True,
        )
        for release, about in (
            ("1_0", "AbdomenAtlas 1.0 Mini: nine abdominal structures in CT."),
            ("1_1", "AbdomenAtlas 1.1: 25 structures in CT."),
        )
    ),
    DatasetEntry(
        "abdomenct_1k",
        "AbdomenCT1K",
        "AbdomenCT-1K: liver, kidneys, spleen and pancreas in CT.",
        (Files("AbdomenCT-1K-Image*/{case}_0000.nii.gz", "Mask/{case}.nii.gz"),),
        "The image archives (in one or several folders) and the label archive lie side by side.",
    ),
    DatasetEntry(
        "amos22_ct",
        "AMOS22_CT",
        "AMOS22, its CT cases.",
        _AMOS_FILES,
        _AMOS_NOTE,
        label_order="amos22",
        members=r"amos_0?([0-4]\d{2}|500)\b.*",
        checked=_AMOS_CHECKED,
    ),
    DatasetEntry(
        "amos22_mr",
        "AMOS22_MR",
        "AMOS22, its MR cases.",
        _AMOS_FILES,
        _AMOS_NOTE,
        label_order="amos22",
        channels=("MRI",),
        members=r"(?!amos_0?([0-4]\d{2}|500)\b).*",
        checked=_AMOS_CHECKED,
    ),
    DatasetEntry(
        "btcv_abdomen",
        "BTCV_Abdomen",
        "BTCV abdomen, from Synapse (syn3193805).",
        (
            Files("Training/img/img{case}.nii.gz", "Training/label/label{case}.nii.gz"),
            Files("Testing/img/img{case}.nii.gz", split="test"),
        ),
        "The contents of RawData.zip: the folder `RawData`, or the one that holds it.",
    ),
    DatasetEntry(
        "btcv_cervix",
        "BTCV_Cervix",
        "BTCV cervix, from Synapse (syn3193805).",
        (
            Files("Training/img/{case}-Image.nii.gz", "Training/label/{case}-Mask.nii.gz"),
            Files("Testing/img/{case}-Image.nii.gz", split="test"),
        ),
        "The contents of RawData.zip: the folder `RawData`, or the one that holds it.",
    ),
    DatasetEntry(
        "flare22",
        "FLARE22",
        "FLARE22, the labelled training cases: 13 abdominal organs in CT.",
        (
            Files("FLARE22Train/images/{case}_0000.nii.gz", "FLARE22Train/labels/{case}.nii.gz"),
            Files(
                "**/FLARE22_LabeledCase50/images/{case}_0000.nii.gz", "**/FLARE22_LabeledCase50/labels/{case}.nii.gz"
            ),
        ),
        """\
The archives of the labelled cases, unpacked where they lie: `Training/FLARE22_LabeledCase50` of the first release, or
`FLARE22Train` of the later one. The 2,000 cases without labels are left out.""",
        cases=50,
        checked="layout and names in loaders of the first release and in mirrors; integers in two mirrors",
    ),
    DatasetEntry(
        "flare23",
        "FLARE23",
        "FLARE23, the 2,200 partly labelled training cases: 13 abdominal organs and tumours in CT.",
        (
            Files("imagesTr2200/{case}_0000.nii.gz", "labelsTr2200/{case}.nii.gz"),
            Files("validation/{case}_0000.nii.gz", "val-gt-50cases-for-sanity-check/{case}.nii.gz", "test"),
        ),
        """\
In each case only some classes are annotated (about 250 have all organs, 1,497 a tumour), and no file that is read here
says which: where a class is not annotated, its voxels are background like any other. Do not train on the result as it
is; merge it with `--exceptions` (docs/merge.md) that name what each case lacks, to which the page of
`nnUNetv2_ext_report` is a guide. Labels that the organisers corrected (`labelsTr2200/20230507-fix`) are to be copied
over the others first.""",
        cases=2200,
        tests=100,
        checked="layout, names and integers in loaders of others; how many cases have which class in one description",
    ),
    DatasetEntry(
        "gibson_multi_organ",
        "GibsonMultiOrgan",
        "Multi-organ labels of Gibson et al. (Zenodo 1169361) with their images.",
        (
            *(
                Files(
                    f"RawData/{part}/img/img{{case}}.nii.gz",
                    "label_btcv_multiorgan/label{case}.nii.gz",
                    "train",
                    "btcv_{case}",
                )
                for part in ("Training", "Testing")
            ),
            Files("Pancreas-CT/PANCREAS_{case}", "label_tcia_multiorgan/label{case}.nii.gz", "train", "tcia_{case}"),
        ),
        """\
The contents of the three files of the Zenodo record, `cropping.csv` among them, beside the images, which come from BTCV
(Synapse) and from NIH Pancreas-CT (The Cancer Imaging Archive, DICOM).

The annotation is complete only inside the box that cropping.csv gives for each image, so images and labels are cut to
it. Its columns `original_id`, `publisher` (`BTCV` or `TCIA`), `extent_left`, `extent_right`, `extent_ant`,
`extent_post`, `extent_inf` and `extent_sup` are taken as voxel indices of the image oriented left, posterior, superior.
A case with more than half of its annotation outside its box is refused, so a wrong reading of these columns cannot pass
unnoticed. The classes annotated only in BTCV (right kidney, vessels, adrenal glands) become background, as in
MultiTalent. Label maps of Pancreas-CT images get the image's grid, because their headers do not hold a position.""",
        absent={"tcia_0025": _NO_IMAGE},
        annotated_only=True,
        label_grids_are_wrong=True,
        rewrite_values=dict.fromkeys((2, 8, 9, 10, 12, 13), 0),
        module="gibson_multi_organ",
    ),
    DatasetEntry(
        "kipa22",
        "KiPA22",
        "KiPA22: renal structures in CT angiography.",
        (
            Files("train/image/{case}.nii.gz", "train/label/{case}.nii.gz", "train", "kipa_{case}"),
            Files("open_test/image/{case}.nii.gz", None, "test", "kipa_{case}"),
        ),
    ),
    DatasetEntry(
        "kits19",
        "KiTS19",
        "KiTS19: kidneys and their tumours in CT.",
        (Files("case_{case}/imaging.nii.gz", "case_{case}/segmentation.nii.gz", "train", "case_{case}"),),
        f"{_KITS_NOTE}\nCases 210 to 299 are the test set.",
        cases=210,
        tests=90,
        test_cases=r"case_002[1-9]\d",
    ),
    DatasetEntry(
        "kits21",
        "KiTS21",
        "KiTS21: kidneys, tumours and cysts in CT, with the majority vote of the annotators.",
        (Files("case_{case}/imaging.nii.gz", "case_{case}/aggregated_MAJ_seg.nii.gz", "train", "case_{case}"),),
        _KITS_NOTE,
    ),
    DatasetEntry(
        "kits23",
        "KiTS23",
        "KiTS23: kidneys, tumours and cysts in CT.",
        (Files("case_{case}/imaging.nii.gz", "case_{case}/segmentation.nii.gz", "train", "case_{case}"),),
        _KITS_NOTE,
    ),
    DatasetEntry(
        "lits",
        "LiTS",
        "LiTS: liver and liver tumours in CT.",
        (
            Files(
                "**/Training*/volume-{case}.nii.gz",
                "**/Training*/segmentation-{case}.nii.gz",
                "train",
                "volume-{case}",
            ),
            Files("**/*Test*/test-volume-{case}.nii.gz", None, "test", "test-volume-{case}"),
        ),
        "The folder into which the training archives (and, if wanted, the test archive) were unpacked.",
    ),
    DatasetEntry(
        "nih_pancreas_ct",
        "NIH_PancreasCT",
        "NIH Pancreas-CT, from The Cancer Imaging Archive: images as DICOM, labels as NIfTI.",
        (
            Files(
                "Pancreas-CT/PANCREAS_{case}", "TCIA_pancreas_labels-*/label{case}.nii.gz", "train", "PANCREAS_{case}"
            ),
        ),
        """\
The folder of the NBIA data retriever and the unpacked label archive lie side by side. The label headers hold the
orientation but not the position, so label maps are brought into the orientation of the image and take its grid; where
the numbers of voxels differ, the case is refused.""",
        cases=80,
        absent={"PANCREAS_0025": _NO_IMAGE, "PANCREAS_0070": _NO_IMAGE},
        label_grids_are_wrong=True,
    ),
    DatasetEntry(
        "word",
        "WORD",
        "WORD: abdominal organs in CT of patients before radiotherapy.",
        (
            Files("imagesTr/{case}.nii.gz", "labelsTr/{case}.nii.gz"),
            Files("imagesVal/{case}.nii.gz", "labelsVal/{case}.nii.gz", "val"),
            Files("imagesTs/{case}.nii.gz", "labelsTs/{case}.nii.gz", "test"),
        ),
        "Releases with and without `labelsTs` exist.",
    ),
)
