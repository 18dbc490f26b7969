"""Files and folders appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import (
    atomic_path,
    read_json,
    refuse_existing,
    require_writable,
    sha256_of,
    write_json,
)
from nnunetv2_ext.utilities.folders import folder_under_construction


@pytest.mark.parametrize("name", ["case.nii.gz", "table.csv", "noending", ".hidden.json"])
def test_a_file_takes_its_name_when_it_is_complete(tmp_path, name):
    target = tmp_path / "new" / name
    with atomic_path(target) as temporary:
        temporary.write_text("content")
        assert not target.exists()
        assert temporary.parent == target.parent  # a rename is atomic within one file system only
        assert temporary.name.startswith(".")
        assert temporary.name.endswith("".join(target.suffixes[-1:]))
    assert target.read_text() == "content"
    assert list(target.parent.iterdir()) == [target]


def test_image_writers_see_both_suffixes(tmp_path):
    with atomic_path(tmp_path / "a.b.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz")


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "file.json"
    target.write_text("old")

    def write_half():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(os.name != "posix", reason="file modes of POSIX")
def test_results_have_the_modes_of_the_users_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "file"):
            pass
        with folder_under_construction(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750


def test_json_keeps_order_and_letters(tmp_path):
    content = {"zweite": [1, 2.5, None], "erste": "Größe"}
    write_json(content, tmp_path / "a.json")
    assert list(read_json(tmp_path / "a.json")) == ["zweite", "erste"]
    assert read_json(tmp_path / "a.json") == content
    assert "Größe" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"{", "Expected JSON in"),
        (b"\xff\xfe\x00", "Expected JSON in"),
        (b"", "Expected JSON"),
    ],
)
def test_json_that_cannot_be_read_is_said(tmp_path, content, message):
    file = tmp_path / "a.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_json(file)
    assert str(file) in str(error.value)


def test_sha256_is_that_of_the_whole_file(tmp_path):
    content = os.urandom((1 << 20) + 17)  # more than is read at once
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_what_exists_is_refused_unless_it_may_be_overwritten(tmp_path):
    with pytest.raises(UserError, match=r"exists already; .*--overwrite"):
        refuse_existing(tmp_path)
    refuse_existing(tmp_path, overwrite=True)
    refuse_existing(tmp_path / "new")


def _write_file(folder):
    with atomic_path(folder / "result.json"):
        pytest.fail("there is nowhere to write")


def _write_folder(folder):
    with folder_under_construction(folder / "result"):
        pytest.fail("there is nowhere to write")


@pytest.mark.parametrize("write", [require_writable, _write_file, _write_folder])
@pytest.mark.parametrize("below", [".", "deeper"])
def test_a_file_in_place_of_the_folder_is_named(write, below, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"Expected a folder for the results at .*file.*, but there is a file"):
        write(tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write, as /proc on Linux")
@pytest.mark.parametrize("write", [require_writable, _write_file, _write_folder])
def test_a_folder_that_cannot_be_written_is_named(write):
    # Unlike a folder without permissions, this one refuses administrators, too.
    with pytest.raises(
        UserError,
        match=r"Expected a folder that can be written at /proc/\w+, but writing there fails \(\w+.*\); choose",
    ):
        write(Path("/proc/self"))


def test_a_writable_folder_is_made_and_left_empty(tmp_path):
    require_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_a_file_that_fails_its_check_replaces_nothing(tmp_path):
    target = tmp_path / "map.txt"
    target.write_text("good")

    def refuse(temporary):
        assert temporary.read_text() == "half"
        raise UserError("truncated")

    def write():
        with atomic_path(target, refuse) as temporary:
            temporary.write_text("half")

    with pytest.raises(UserError, match="truncated"):
        write()
    assert target.read_text() == "good"
    assert list(tmp_path.iterdir()) == [target]


@pytest.fixture
def small_files_only():
    """Lets no file grow beyond 64 kB, as a full disk would."""
    resource = pytest.importorskip("resource", reason="limits of POSIX")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("library_error", [None, RuntimeError("unexpected pos 128 vs 22")])
def test_a_disk_that_takes_no_more_is_named_whatever_a_library_says(tmp_path, small_files_only, library_error):
    target = tmp_path / "weights.pth"
    target.write_text("good")

    def write():
        with atomic_path(target) as temporary:
            try:
                temporary.write_bytes(bytes(1 << 20))
            except OSError:
                raise library_error or AssertionError from None

    def write_plainly():
        with atomic_path(target) as temporary:
            temporary.write_bytes(bytes(1 << 20))

    with pytest.raises(UserError, match=r"Expected to write .*weights.pth, but the disk does not take it \(.+\); make"):
        (write if library_error else write_plainly)()
    assert target.read_text() == "good"
    assert list(tmp_path.iterdir()) == [target]


def test_other_errors_of_libraries_keep_their_words(tmp_path):
    def write():
        with atomic_path(tmp_path / "weights.pth"):
            raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        write()


def test_names_that_are_no_text_are_said_and_nothing_is_written(tmp_path):
    with pytest.raises(UserError, match="Expected names in UTF-8"):
        write_json({"case": "a\udcfe"}, tmp_path / "record.json")
    assert not list(tmp_path.iterdir())


def test_json_that_nnunet_cannot_read_is_refused(tmp_path):
    (tmp_path / "plans.json").write_bytes(b"\xef\xbb\xbf{}")
    with pytest.raises(UserError, match=r"plans\.json.*BOM"):
        read_json(tmp_path / "plans.json")
