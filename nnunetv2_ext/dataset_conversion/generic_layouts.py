"""Layouts that any data can have: the user, or a file beside the data, says what the integers mean."""

from __future__ import annotations

from nnunetv2_ext.dataset_conversion.entry import DatasetEntry
from nnunetv2_ext.dataset_conversion.layout import FilePattern as Files
from nnunetv2_ext.dataset_conversion.layout import Split

_PARTS: tuple[Split, ...] = ("train", "val", "test")
# What can be said of files that lie anywhere.
_OWN_FILES = ("order", "image", "label", "test_image", "test_label", "channel_names")

LAYOUTS = (
    DatasetEntry(
        "label_maps",
        "LabelMaps",
        "Any folder of images and label maps.",
        (Files("images/{case}.nii.gz", "labels/{case}.nii.gz"),),
        """\
`--image` and `--label` name another layout, `--test_image` and `--test_label` that of a test set (`imagesTs`,
`labelsTs`), whose labels may be missing. `--order` says what the integers mean: the name of a label order, a JSON
file like those in `label_orders/`, or a dataset.json. Without it, the first label map must carry its names in its
header.

Pictures (PNG, TIFF, BMP, JPEG) stay pictures, as nnU-Net's reader of them expects: the colours of a file are channels
called `R`, `G` and `B`, a grey one is `grey`. JPEG and BMP become PNG. Label maps in JPEG are not exact, and refused
where that shows.""",
        is_generic=True,
        options=_OWN_FILES,
        module="label_maps",
    ),
    DatasetEntry(
        "masks",
        "Masks",
        "Any folder of images and one mask per class, overlapping or not.",
        (Files("{case}/ct.nii.gz", "{case}/segmentations/{class}.nii.gz"),),
        """\
`--image` and `--label` name another layout, `--test_image` and `--test_label` that of a test set. The classes are those
that have a mask in any case, sorted by name, or those of `--order` in its order. Where masks overlap, every class
becomes a region of the integers that it covers, so that nothing is lost (`--overlaps last` lets the later class win
instead). Pictures are what they are for `label_maps`.""",
        masks_exclude=False,
        is_generic=True,
        options=_OWN_FILES,
        module="masks",
    ),
    DatasetEntry(
        "bids",
        "BIDS",
        "Any dataset in the Brain Imaging Data Structure, with segmentations (dseg) as derivatives.",
        (Files("sub-{case}/**/anat/*.nii.gz", "**/sub-{case}/**/anat/*_dseg.nii.gz"),),
        """\
The folder of the raw dataset, with `derivatives/` in it; or that of derivatives which hold the images, too. Every
`*_dseg.nii.gz` in an `anat` folder becomes a case, called as its file without `_dseg`. Its image is the one with the
same entities (`sub`, `ses`, `space`, `run`, ...; an image may lack those that only derivatives have), first beside it,
then in the raw dataset. `--channels` names the images by their suffix (`--channels T1w FLAIR`); without it, all must
have the same. Images without a segmentation are passed over.

Names come from `--order`, else from the tables of BIDS (`*_dseg.tsv` with `index` and `name`), beside the label map or
in a folder above it. What the tables of several cases say is joined; a case whose table contradicts is
refused.""",
        is_generic=True,
        options=("order", "channel_names"),
        module="bids",
    ),
    DatasetEntry(
        "dicom",
        "Dicom",
        "Any folder of DICOM image series with their annotations (SEG, RTSTRUCT).",
        note="""\
Needs `nnunetv2-ext[dicom]`. Folders may be deep and files called anything: an annotation belongs to the series whose
images it names (by their UIDs), and its pixels and points lie where their coordinates say. Every annotated series
becomes a case, called by patient ID, study date and description as in prediction; other series are passed over. Where
patients have several, `--group '^(.+?)_'` keeps them in one fold.

`--classes` says what is converted, with integers from 1 in this order: `heart` is the structure or segment of that name
(capitals and blanks do not count), `lung_left=Lung_L` one that is called otherwise; a class that is given several times
is the union of what is given. Without it, the command lists what the annotations name.

- SEG is read as `BINARY`, `FRACTIONAL` (from one half on) and `LABELMAP`, on the voxels of its series. Of RTSTRUCT, a
  contour within a contour of a structure is a hole; structures that nobody drew are not there.
- Where classes overlap, they become regions, as for `masks`. Several annotations of a series complete each other; where
  two name one class but differ, the case is refused, and so is an annotation of a series that is not there.
- A case without some of the classes is refused, unless `--accept missing_masks` takes them for empty.
- The channel is called by the modality of the series (`CT`, `MR`, ...) unless `--channels` says otherwise.""",
        masks_exclude=False,
        is_generic=True,
        options=("classes", "channel_names"),
        module="dicom",
    ),
    DatasetEntry(
        "monai_datalist",
        "MonaiDatalist",
        "Any MONAI datalist, the JSON form of the Decathlon that MONAI's loaders, Auto3DSeg and bundles read.",
        note="""\
The JSON file, or a folder with a `dataset.json` or one other JSON file; its paths are relative to it:

    {"labels": {"0": "background", "1": "spleen"},
     "training": [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz", "fold": 0}],
     "validation": [{"image": "imagesTr/b.nii.gz", "label": "labelsTr/b.nii.gz"}],
     "test": ["imagesTs/c.nii.gz"]}

`image` may be a list with one file per channel. Class names come from `--order` or from `labels`. `fold` numbers become
the folds of the splits.""",
        is_generic=True,
        options=("order", "channel_names"),
        module="monai_datalist",
    ),
    DatasetEntry(
        "salt",
        "SALT",
        "Any dataset in the layout of SALT, with its label tree.",
        tuple(Files(f"{part}/images/{{case}}.nii.gz", f"{part}/labels/{{case}}.nii.gz", part) for part in _PARTS),
        """\
The folder of one dataset, with `labels.txt` (name of each label value, one per line from 0 on, `-` for none) and
`tree-labels.txt` (path of each label value in the label tree); any of the three splits may be missing.

Label maps get the integers of the tree's nodes, and the dataset.json a `label_tree` and, as `partial_labels`, the nodes
that the dataset annotates. Label values without a path become 0, which in a label tree means "none of the annotated
nodes"; where the dataset annotates the background, or leaves no leaf for such voxels, they are ignored. 255 means
ignored too; in the result that is the label `ignore`, one above the highest node.""",
        module="salt_folder",
    ),
)
