"""Folders appear whole or not at all, and never in place of what they are made from."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.folders import folder_under_construction, refuse_overlap


def test_a_folder_takes_the_place_of_the_old_one(tmp_path):
    target = tmp_path / "Dataset001_A"
    target.mkdir()
    (target / "old").touch()
    with folder_under_construction(target) as folder:
        (folder / "new").touch()
        assert (target / "old").exists()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_leaves_the_old_folder_and_no_other(tmp_path):
    target = tmp_path / "Dataset001_A"
    target.mkdir()
    (target / "old").touch()

    def build_half():
        with folder_under_construction(target) as folder:
            (folder / "new").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_half()
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("in_one_step", [True, False])
def test_a_folder_is_swapped_in_one_step_or_put_back(tmp_path, monkeypatch, in_one_step):
    if not in_one_step:
        monkeypatch.setattr("nnunetv2_ext.utilities.folders._exchange", lambda one, other: False)
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").touch()
    with folder_under_construction(target) as folder:
        (folder / "new").touch()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]

    rename = Path.rename

    def fail_for_the_new(path, name):
        if path.suffix == ".tmp":
            raise PermissionError
        return rename(path, name)

    def build():
        with folder_under_construction(target) as folder:
            (folder / "newer").touch()

    if not in_one_step:
        monkeypatch.setattr(Path, "rename", fail_for_the_new)
        with pytest.raises(PermissionError):
            build()
        assert [path.name for path in target.iterdir()] == ["new"]
        assert list(tmp_path.iterdir()) == [target]


def test_the_folder_that_a_link_names_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with folder_under_construction(tmp_path / "link") as folder:
        (folder / "new").touch()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "new").exists()


@pytest.mark.parametrize(
    ("source", "target", "overlaps", "overlaps_filled"),
    [
        ("a", "a", True, True),
        ("a", "a/b", True, True),
        ("a/b", "a", True, False),
        ("a", "link", True, True),
        ("a", "link/new", True, True),
        ("link", "a", True, True),
        ("a", "ab", False, False),
        ("a/b", "a/c", False, False),
    ],
)
def test_sources_are_kept_apart_from_targets(tmp_path, source, target, overlaps, overlaps_filled):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for above, refused in ((True, overlaps), (False, overlaps_filled)):
        if refused:
            with pytest.raises(UserError, match="overlap; choose another place"):
                refuse_overlap([tmp_path / source], tmp_path / target, above=above)
        else:
            refuse_overlap([tmp_path / source], tmp_path / target, above=above)
