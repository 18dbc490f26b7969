"""Any dataset in SALT's layout."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_ext.labels import LabelOrder
from nnunetv2_ext.labels.label_tree import LabelTree

NAMES = "-\nliver\nspleen\nkidney left\nkidney right\nrectum\n"
PATHS = "-\nbody,liver\nbody,spleen\nbody,kidneys,kidney_left\nbody,kidneys,kidney_right\n-\n"


@pytest.fixture
def salt(miniature):
    """Three cases with a rectum that has no place in the tree, and a plane that nobody annotated."""
    miniature.text("labels.txt", NAMES)
    miniature.text("tree-labels.txt", PATHS)
    order = LabelOrder("salt", {"liver": 1, "spleen": 2, "kidney_left": 3, "kidney_right": 4, "rectum": 5})
    for part in ("train", "val", "test"):
        label = miniature.label(order)
        label[5] = 255
        miniature.save(f"{part}/images/{part}1.nii.gz", miniature.image())
        miniature.save(f"{part}/labels/{part}1.nii.gz", label)
    return miniature


def test_converts_the_layout(salt, assert_converts):
    drawn = LabelOrder("salt", {"liver": 1, "spleen": 2, "kidney_left": 3, "kidney_right": 4})
    assert_converts("salt", training=2, test=1, folds=1, drawn=drawn, annotated=lambda z: z != 5, licensed=False)


def test_the_tree_is_kept(salt, convert, raw_folder):
    convert("salt")
    content = json.loads((raw_folder / "dataset.json").read_text())
    tree = LabelTree.from_dataset_json(content)
    assert tree.path("kidney_left") == ("body", "kidneys", "kidney_left")
    assert content["labels"]["ignore"] == len(tree)
    (source,) = content["partial_labels"].values()
    assert source["classes"] == ["liver", "spleen", "kidney_left", "kidney_right"]
    assert source["cases"] == ["train1", "val1"]


def test_the_commands_of_the_documentation_run(salt, assert_documented_commands_run):
    assert_documented_commands_run("salt")


@pytest.mark.parametrize("dataset", ["ctorg", "flare22", "lctsc", "luna16lobes", "saros", "saros+totalseg", "word"])
def test_the_published_salt_labels_convert(dataset, reference_folder, miniature, convert, raw_folder, verify_integrity):
    names, paths = (
        (reference_folder / "salt" / dataset / f).read_text().splitlines() for f in ("labels.txt", "tree-labels.txt")
    )
    miniature.text("labels.txt", "\n".join(names) + "\n")
    miniature.text("tree-labels.txt", "\n".join(paths) + "\n")
    label = np.zeros((12, 14, 16), np.uint8)
    label.reshape(-1)[: len(names)] = [value if name != "-" else 0 for value, name in enumerate(names)]
    label[-1] = 255
    miniature.save("test/images/a.nii.gz", miniature.image())
    miniature.save("train/images/b.nii.gz", miniature.image())
    for file in ("test/labels/a.nii.gz", "train/labels/b.nii.gz"):
        miniature.save(file, label)
    result = convert("salt", accept=("mirrored",))
    verify_integrity(raw_folder)
    content = json.loads((raw_folder / "dataset.json").read_text())
    tree = LabelTree.from_dataset_json(content)
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(raw_folder / result.converted[0].label))).reshape(-1)
    for value, (name, path) in enumerate(zip(names, paths, strict=True)):
        node = path.split(",")[-1] if name != "-" and path not in ("-", "") else "background"
        if node == "other":
            node = f"{path.split(',')[-2]}_other"
        if name != "-" and path in ("-", "") and "background" in paths:
            # Where the background is annotated, a voxel that belongs to no node contradicts it.
            assert written[value] == len(tree)
        else:
            assert tree.names[written[value]] == node
    assert (written[-224:] == len(tree)).all()
