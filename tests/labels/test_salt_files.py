from __future__ import annotations

import pytest

from nnunetv2_ext.labels.label_tree import LabelTree
from nnunetv2_ext.labels.salt_files import merge_salt_trees, read_salt_labels
from nnunetv2_ext.labels.tree_annotation import check_annotation
from nnunetv2_ext.labels.tree_parents import LabelTreeError
from nnunetv2_ext.utilities.errors import UserError


def _write(folder, names, paths):
    folder.mkdir()
    (folder / "labels.txt").write_text("\n".join(names) + "\n")
    (folder / "tree-labels.txt").write_text("\n".join(paths) + "\n")
    return read_salt_labels(folder)


@pytest.fixture
def bones(tmp_path):
    return _write(tmp_path / "bones", ["-", "bones", "esophagus"], ["-", "body,bones", ""])


@pytest.fixture
def ribs(tmp_path):
    return _write(
        tmp_path / "ribs", ["background", "rib", "rest"], ["background", "body,bones,rib", "body,bones,other"]
    )


def test_reads_names_and_nodes(bones, ribs):
    assert bones.names == (None, "bones", "esophagus")
    assert bones.nodes == (None, "bones", None)
    assert bones.annotated == ("bones",)
    assert ribs.nodes == ("background", "rib", "bones_other")


def test_one_dataset_alone_is_completed(bones):
    tree = bones.tree()
    assert tree.names == ("background", "body", "bones", "body_other")
    check_annotation(tree, bones.annotated, "bones")


def test_adding_a_dataset_appends(bones, ribs):
    assert merge_salt_trees([bones, ribs]).names == (*bones.tree().names, "rib", "bones_other")


def test_contradicting_datasets_are_refused(bones, tmp_path):
    other = _write(tmp_path / "other", ["-", "bones"], ["-", "skeleton,bones"])
    with pytest.raises(LabelTreeError, match="'bones'"):
        merge_salt_trees([bones, other])


def test_broken_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"labels\.txt"):
        read_salt_labels(tmp_path)
    with pytest.raises(LabelTreeError, match="Label value 1"):
        _write(tmp_path / "unnamed", ["background", "-"], ["background", "body"])


def test_published_files_load_alone_and_as_a_union(reference_folder):
    folders = sorted((reference_folder / "salt").iterdir())
    assert len(folders) == 7
    datasets = [read_salt_labels(folder) for folder in folders]
    for folder, dataset in zip(folders, datasets, strict=True):
        check_annotation(dataset.tree(), dataset.annotated, folder.name)
    union = merge_salt_trees(datasets)
    for dataset in datasets:
        check_annotation(union, dataset.annotated, "union")
    for number in range(1, 7):
        earlier = merge_salt_trees(datasets[:number])
        assert union.names[: len(earlier)] == earlier.names


def test_published_tree_is_the_one_that_ships(reference_folder):
    tree = read_salt_labels(reference_folder / "salt" / "saros+totalseg").tree()
    assert (len(tree), len(tree.inner_nodes), len(tree.leaves())) == (145, 31, 114)
    assert tree == LabelTree.from_file("salt")
