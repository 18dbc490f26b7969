"""The datasets that can be converted.

Layouts are those of the published archives. In them a field in braces stands for a part of one name, ``*`` for
anything, and ``**`` for any folders.
"""

from __future__ import annotations

from nnunetv2_ext.dataset_conversion.entry import DatasetEntry, SplitTable
from nnunetv2_ext.dataset_conversion.layout import FilePattern as Files
from nnunetv2_ext.dataset_conversion.layout import Split

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

_AMOS_FILES = (
    Files("imagesTr/amos_{case}.nii.gz", "labelsTr/amos_{case}.nii.gz", "train", "amos_{case}"),
    Files("imagesVa/amos_{case}.nii.gz", "labelsVa/amos_{case}.nii.gz", "val", "amos_{case}"),
    Files("imagesTs/amos_{case}.nii.gz", None, "test", "amos_{case}"),
)
_AMOS_NOTE = "The contents of amos22.zip (Zenodo 7262581). Numbers up to 500 are CT, larger ones MR."

_TOTALSEGMENTATOR_NOTE = """\
The folder of the Zenodo archive, with its `meta.csv` (separator `;`, columns `image_id` and `split`) if that is there.
Masks of classes that are not in the label order are refused; where masks overlap, the class that comes later in the
order wins, as in TotalSegmentator's own conversion."""
_TOTALSEGMENTATOR_SPLITS = SplitTable(
    "meta.csv", "image_id", "split", {"train": "train", "val": "val", "test": "test"}, separator=";"
)

_SAROS_NOTE = """\
The folder that the authors' download script makes. Annotated is every fifth axial slice; the slices between are the
ignore label. The table `Segmentation*Info*.csv` (columns `id` and `split` with `fold-1` to `fold-5` and `test`) is
optional; with it, its five folds are written."""
_SAROS_SPLITS = SplitTable(
    "Segmentation*Info*.csv", "id", "split", {"test": "test", **{f"fold-{fold + 1}": fold for fold in range(5)}}
)

_KITS_NOTE = "The challenge's repository after its download script ran, or the folder of cases in it."
_VERSE_PARTS: dict[str, Split] = {"training": "train", "validation": "val", "test": "test"}

_NO_IMAGE = "no image on The Cancer Imaging Archive"

DATASETS = (
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
        "ct_org",
        "CT_ORG",
        "CT-ORG, from The Cancer Imaging Archive: six organs in CT.",
        (Files("volume-{case}.nii.gz", "labels-{case}.nii.gz", "train", "volume-{case}"),),
        "All files lie in one folder; volumes 0 to 20 are the test set.",
        tests=21,
        test_cases=r"volume-(1?\d|20)",
    ),
    DatasetEntry(
        "flare22",
        "FLARE22",
        "FLARE22, the labelled training cases: 13 abdominal organs in CT.",
        (Files("FLARE22Train/images/{case}_0000.nii.gz", "FLARE22Train/labels/{case}.nii.gz"),),
        cases=50,
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
        "lctsc",
        "LCTSC",
        "LCTSC, Lung CT Segmentation Challenge 2017, from The Cancer Imaging Archive (DICOM and RTSTRUCT).",
        (Files("LCTSC/{case}"),),
        """\
Needs `nnunetv2-ext[dicom]`. The folder of the NBIA data retriever. Each patient has a CT series and an RTSTRUCT with
the contours `SpinalCord`, `Lung_R`, `Lung_L`, `Heart` and `Esophagus`; where contours overlap, the later of these wins.
Of several RTSTRUCTs, the one counts that refers to the series. Patients with `Test` in their name are the test set.""",
        test_cases=r"(?i).*test.*",
        module="lctsc",
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
        "luna16_lobes",
        "LUNA16_Lobes",
        "Lung lobes (Tang et al. 2019) for images of LUNA16.",
        (
            Files("images/{case}.mhd", "annotations/{case}_LobeSegmentation.nrrd"),
            Files("subset*/{case}.mhd", "annotations/{case}_LobeSegmentation.nrrd"),
        ),
        """\
The images (`.mhd` with `.raw`) lie either in `images` or in LUNA16's `subset0` to `subset9`; those without an
annotation are left out. The label maps follow the Chest Imaging Platform: 4 to 8 are the lobes. 1 is lung outside any
lobe and becomes background, as does 512, airway; 516 to 520 are airways inside lobes 4 to 8 and become these.""",
        annotated_only=True,
        rewrite_values={1: 0, 512: 0, **{512 + lobe: lobe for lobe in range(4, 9)}},
    ),
    *(
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
        "saros",
        "SAROS_BodyRegions",
        "SAROS, body regions in CT.",
        (Files("{case}/image.nii.gz", "{case}/body-regions.nii.gz"),),
        _SAROS_NOTE,
        split_table=_SAROS_SPLITS,
    ),
    DatasetEntry(
        "saros_body_parts",
        "SAROS_BodyParts",
        "SAROS, body parts in CT.",
        (Files("{case}/image.nii.gz", "{case}/body-parts.nii.gz"),),
        _SAROS_NOTE,
        split_table=_SAROS_SPLITS,
    ),
    DatasetEntry(
        "segthor",
        "SegTHOR",
        "SegTHOR: thoracic organs at risk in CT.",
        (Files("train/{case}/{case}.nii.gz", "train/{case}/GT.nii.gz"), Files("test/{case}.nii.gz", split="test")),
    ),
    DatasetEntry(
        "structseg_thorax",
        "StructSeg_Thorax",
        "StructSeg 2019 task 3: thoracic organs at risk in CT.",
        (Files("Thoracic_OAR/{case}/data.nii.gz", "Thoracic_OAR/{case}/label.nii.gz", "train", "structseg_{case}"),),
    ),
    DatasetEntry(
        "totalsegmentator_mr",
        "TotalSegmentator_MR",
        "TotalSegmentator MRI, versions 200 and 300 of its archive: 50 structures in MR.",
        (Files("{case}/mri.nii.gz", "{case}/segmentations/{class}.nii.gz"),),
        f"{_TOTALSEGMENTATOR_NOTE} Version 100 has 56 classes and is refused for that.",
        channels=("MRI",),
        split_table=_TOTALSEGMENTATOR_SPLITS,
    ),
    *(
        DatasetEntry(
            f"totalsegmentator_{version}",
            f"TotalSegmentator_{version}",
            f"TotalSegmentator {version}: {classes} structures in CT.",
            (Files("{case}/ct.nii.gz", "{case}/segmentations/{class}.nii.gz"),),
            _TOTALSEGMENTATOR_NOTE,
            split_table=_TOTALSEGMENTATOR_SPLITS,
        )
        for version, classes in (("v1", 104), ("v2", 117))
    ),
    DatasetEntry(
        "verse20",
        "VerSe20",
        "VerSe20: vertebrae in CT, in the subject-based layout of the authors' OSF record.",
        tuple(
            Files(
                f"dataset-{mark}{part}/rawdata/{{subject}}/{{case}}_ct.nii.gz",
                f"dataset-{mark}{part}/derivatives/{{subject}}/{{case}}_seg-vert_msk.nii.gz",
                split,
            )
            for part, split in _VERSE_PARTS.items()
            for mark in ("verse20", "0*")
        ),
        "The three archives lie side by side, also beside those of VerSe19. The integers 26 and 27 do not occur.",
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
