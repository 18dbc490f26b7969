"""Structures all over the body."""

from __future__ import annotations

from nnunetv2_ext.dataset_conversion.entry import DatasetEntry, SplitTable
from nnunetv2_ext.dataset_conversion.layout import FilePattern as Files

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

WHOLE_BODY = (
    DatasetEntry(
        "autopet_fdg",
        "AutoPET_FDG",
        "AutoPET, FDG-PET-CT-Lesions: tumour lesions in PET and CT.",
        (
            Files(
                "FDG-PET-CT-Lesions/{patient}/{study}/{channel}.nii.gz",
                "FDG-PET-CT-Lesions/{patient}/{study}/SEG.nii.gz",
                "train",
                "{patient}_{study}",
                ("CTres", "SUV"),
            ),
        ),
        """\
The NIfTI files, not the DICOM collection. The CT is the one on the grid of the PET (`CTres`), the PET is in SUV. Half
of the studies have no lesion. Patients may have several studies: `--group '(PETCT_[0-9a-f]+)_'` keeps them in one
fold.""",
        channels=("CT", "PET"),
        cases=1014,
        checked="layout and names in the authors' description and in loaders; number of studies from the paper",
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
        "totalsegmentator_mr",
        "TotalSegmentator_MR",
        "TotalSegmentator MRI, versions 200 and 300 of its archive: 50 structures in MR.",
        (Files("{case}/mri.nii.gz", "{case}/segmentations/{class}.nii.gz"),),
        f"{_TOTALSEGMENTATOR_NOTE} Version 100 has 56 classes and is refused for that.",
        channels=("MRI",),
        cases=616,
        checked="names and integers of the 50 classes in a mirror of 616 cases, which does not say its version",
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
)
