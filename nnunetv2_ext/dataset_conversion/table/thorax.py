"""Organs of the chest."""

from __future__ import annotations

from nnunetv2_ext.dataset_conversion.entry import DatasetEntry
from nnunetv2_ext.dataset_conversion.layout import FilePattern as Files

THORAX = (
    DatasetEntry(
        "acdc",
        "ACDC",
        "ACDC: ventricles of the heart in cine MR, end of diastole and of systole.",
        (
            Files(
                "training/{patient}/{patient}_frame{frame}.nii.gz",
                "training/{patient}/{patient}_frame{frame}_gt.nii.gz",
                "train",
                "{patient}_frame{frame}",
            ),
            Files(
                "testing/{patient}/{patient}_frame{frame}.nii.gz",
                "testing/{patient}/{patient}_frame{frame}_gt.nii.gz",
                "test",
                "{patient}_frame{frame}",
            ),
        ),
        """\
The folder `database`. Each patient has two annotated frames; `--group '(patient\\d+)_'` keeps them in one fold. The
whole sequences (`_4d`) are left out.""",
        channels=("cineMRI",),
        cases=200,
        tests=100,
        members=r"patient\d+_frame\d+",
        checked="layout, names and integers in several repositories; numbers from the paper (100 and 50 patients)",
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
)
