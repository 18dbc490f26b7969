"""Vertebrae and structures of the head."""

from __future__ import annotations

from nnunetv2_ext.dataset_conversion.entry import DatasetEntry
from nnunetv2_ext.dataset_conversion.layout import FilePattern as Files
from nnunetv2_ext.dataset_conversion.layout import Split

_BRATS_SEQUENCES = ("t1n", "t1c", "t2w", "t2f")
_VERSE_PARTS: dict[str, Split] = {"training": "train", "validation": "val", "test": "test"}

HEAD_AND_SPINE = (
    DatasetEntry(
        "brats23_gli",
        "BraTS23_GLI",
        "BraTS 2023, adult glioma: tumour in four MR sequences.",
        (
            Files(
                "**/ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData/{case}/{case}-{channel}.nii.gz",
                "**/ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData/{case}/{case}-seg.nii.gz",
                channels=_BRATS_SEQUENCES,
            ),
            Files(
                "**/ASNR-MICCAI-BraTS2023-GLI-Challenge-ValidationData/{case}/{case}-{channel}.nii.gz",
                split="test",
                channels=_BRATS_SEQUENCES,
            ),
        ),
        """\
The unpacked archives of the glioma part; those of the other tumours are named otherwise. Patients may have several
examinations: `--group '(BraTS-GLI-\\d+)-'` keeps them in one fold.""",
        channels=("T1w", "T1gd", "T2w", "FLAIR"),
        cases=1251,
        checked="layout, names, integers and number of training cases in several repositories",
    ),
    DatasetEntry(
        "han_seg",
        "HaNSeg",
        "HaN-Seg: 30 organs at risk of the head and neck in CT.",
        (Files("set_1/{case}/{case}_IMG_CT.nrrd", "set_1/{case}/{case}_OAR_{class}.seg.nrrd"),),
        """\
The folder `HaN-Seg` of the Zenodo archive. The MR images do not lie on the grid of the CTs and are left out. Some
organs have no mask in some patients (`OAR_data.csv` says which), and such cases are refused unless
`--accept missing_masks` says that the organ is background there.""",
        cases=42,
        size="4.9 GB",
        checked="layout and names in the README of the archive, all names of masks in loaders of others",
    ),
    *(
        DatasetEntry(
            f"topcow{year}_{modality}",
            f"TopCoW{year}_{modality.upper()}",
            f"TopCoW 20{year}, its {modality.upper()} angiographies: 13 vessels of the circle of Willis.",
            (
                Files(
                    f"**/imagesTr/topcow_{modality}_{whole}{{case}}_0000.nii.gz",
                    f"**/{labels}/topcow_{modality}_{whole}{{case}}.nii.gz",
                    "train",
                    f"topcow_{modality}_{whole}{{case}}",
                ),
            ),
            note,
            label_order="topcow",
            channels=("CT" if modality == "ct" else "MRI",),
            cases=cases,
            members=rf"topcow_{modality}_{whole}\d+",
            checked=checked,
        )
        for year, whole, labels, cases, note, checked in (
            (
                "23",
                "whole_",
                "mul_labelsTr",
                None,
                "The batches of the challenge; their whole images, not those cut to the circle of Willis (`_roi_`).",
                "layout and names in one listing of the first batch; integers are those of 2024",
            ),
            (
                "24",
                "",
                "cow_seg_labelsTr",
                125,
                "CT and MR of the same patients lie side by side; this is one of the two.",
                "layout, names, integers and numbers in loaders of others",
            ),
        )
        for modality in ("ct", "mr")
    ),
    DatasetEntry(
        "verse19",
        "VerSe19",
        "VerSe19: vertebrae in CT, in the subject-based layout of the authors' OSF record.",
        tuple(
            Files(
                f"**/dataset-verse19{part}/rawdata/{{subject}}/{{case}}_ct.nii.gz",
                f"**/dataset-verse19{part}/derivatives/{{subject}}/{{case}}_seg-vert_msk.nii.gz",
                split,
            )
            for part, split in _VERSE_PARTS.items()
        ),
        """\
The three archives lie side by side, unpacked into folders of their own or not, also beside those of VerSe20. Patients
401 to 415 have several scans: `--group '(sub-verse\\d+)'` keeps them in one fold.""",
        label_order="verse20",
        cases=120,
        tests=40,
        checked="names and number of the training scans (80) in a listing; the other parts from the paper",
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
)
