"""Layouts that any data can have: the user, or a file beside the data, says what the integers mean."""

from __future__ import annotations

from nnunetv2_ext.dataset_conversion.entry import DatasetEntry
from nnunetv2_ext.dataset_conversion.layout import FilePattern as Files
from nnunetv2_ext.dataset_conversion.layout import Split

_PARTS: tuple[Split, ...] = ("train", "val", "test")

LAYOUTS = (
    DatasetEntry(
        "label_maps",
        "LabelMaps",
        "Any folder of images and label maps.",
        (Files("images/{case}.nii.gz", "labels/{case}.nii.gz"),),
        """\
`--image` and `--label` name another layout. `--order` says what the integers mean: the name of a label order, a JSON
file like those in `label_orders/`, or a dataset.json. Without it, the first label map must carry its names in its
header.""",
        is_generic=True,
        module="label_maps",
    ),
    DatasetEntry(
        "masks",
        "Masks",
        "Any folder of images and one mask per class, overlapping or not.",
        (Files("{case}/ct.nii.gz", "{case}/segmentations/{class}.nii.gz"),),
        """\
`--image` and `--label` name another layout. The classes are those that have a mask in any case, sorted by name, or
those of `--order` in its order. Where masks overlap, every class becomes a region of the integers that it covers, so
that nothing is lost (`--overlaps last` lets the later class win instead).""",
        masks_exclude=False,
        is_generic=True,
        module="masks",
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
