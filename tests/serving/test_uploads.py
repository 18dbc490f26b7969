from __future__ import annotations

import io
import struct
import zipfile

import numpy as np
import pytest

pytest.importorskip("starlette")

from fixtures.bad_images import write_good
from fixtures.dicom_folders import oblique_grid

from nnunetv2_ext.serving import uploads
from nnunetv2_ext.serving.uploads import case_in, receive
from nnunetv2_ext.utilities.errors import UserError

MOST = 1 << 20


def archive(members, **options):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, **options) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return content.getvalue()


def encrypted():
    content = bytearray(archive({"a": b"x"}))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def with_list_of(size):
    """An archive whose last record says that the list before it is so long."""
    content = archive({"a": b"x"})
    return content[:-10] + struct.pack("<I", size) + content[-6:]


@pytest.fixture
def upload(tmp_path):
    def write(content):
        file = tmp_path / f"upload_{len(list(tmp_path.iterdir()))}"
        file.write_bytes(content)
        return file

    return write


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (archive({"../../evil": b"x"}), 422, "leads out"),
        (archive({"/etc/evil": b"x"}), 422, "leads out"),
        (archive({"C:\\evil": b"x"}), 422, "leads out"),
        (archive({"a\\..\\..\\evil": b"x"}), 422, "leads out"),
        (archive({"zeros": bytes(MOST + 1)}), 413, "unpacks to at most 1 MiB"),
        (archive({f"{n}": bytes(MOST // 2) for n in range(3)}), 413, "unpacks to at most 1 MiB"),
        (archive({f"{n}": b"" for n in range(21)}), 413, "at most 20 files"),
        (with_list_of(1 << 31), 413, "at most 20 files"),
        (encrypted(), 422, "without encryption"),
        (archive({}), 415, "something else"),
        (archive({"folder/": b""}), 422, "it is empty"),
        (archive({"a": bytes(1000)})[:-30], 422, "complete ZIP archive"),
        (archive({"a": bytes(1000)}).replace(b"\x63", b"\x00", 1), 422, "complete ZIP archive"),
        (archive({"notes.txt": b"no scan", "more.dcm": b"none either"}), 422, None),
    ],
)
def test_archives_that_are_no_series_are_refused(upload, tmp_path, monkeypatch, content, status, said):
    monkeypatch.setattr(uploads, "MOST_MEMBERS", 20)
    before = set(tmp_path.parent.rglob("*"))
    with pytest.raises(UserError, match=said) as refused:
        receive([upload(content)], tmp_path / "input", MOST, 1)
    assert getattr(refused.value, "status", 422) == status
    new = {path.relative_to(tmp_path) for path in set(tmp_path.parent.rglob("*")) - before}
    assert all(path.parts[0] in ("input", "upload_0") for path in new)


def test_an_archive_that_lies_of_its_size_writes_no_more_than_is_left(upload, tmp_path, monkeypatch):
    content = archive({"zeros": bytes(3 * MOST)})
    monkeypatch.setattr(uploads, "_check", lambda members, most_bytes: None)
    with pytest.raises(UserError, match="unpacks to at most"):
        receive([upload(content)], tmp_path / "input", MOST, 1)
    assert (tmp_path / "input" / "00000").stat().st_size <= MOST


def test_a_series_gets_names_of_ours_and_is_read(upload, tmp_path, dicom_folder):
    dicom_folder.series("series", np.zeros((5, 6, 7), np.int16), oblique_grid((7, 6, 5), (1.0, 1.0, 2.0)))
    slices = sorted((dicom_folder.root / "series").iterdir())
    members = {f"Muster Jolanda/{file.name}": file.read_bytes() for file in slices}
    target = tmp_path / "input"
    receive([upload(archive({**members, "README": b"about"}))], target, MOST, 1)
    assert sorted(file.name for file in target.iterdir()) == [f"{number:05d}" for number in range(6)]
    case = case_in(target, 1)
    assert (case.identifier, case.dicom, len(case.files)) == ("scan", True, 5)


def test_two_series_are_not_one_scan(upload, tmp_path, dicom_folder):
    grid = oblique_grid((7, 6, 5), (1.0, 1.0, 2.0))
    for name in "ab":
        dicom_folder.series(name, np.zeros((5, 6, 7), np.int16), grid)
    members = {str(file.relative_to(dicom_folder.root)): file.read_bytes() for file in dicom_folder.root.rglob("IM*")}
    with pytest.raises(UserError, match="Expected one scan, but got 2"):
        receive([upload(archive(members))], tmp_path / "input", MOST, 1)


def test_files_are_told_by_their_content_and_channels_by_their_order(upload, tmp_path):
    good = tmp_path / "good.nii.gz"
    write_good(good)
    files = [upload(good.read_bytes()) for _ in range(2)]
    receive(files, tmp_path / "input", MOST, 2)
    assert [file.name for file in case_in(tmp_path / "input", 2).files] == ["scan_0000.nii.gz", "scan_0001.nii.gz"]
    with pytest.raises(UserError, match="Expected one scan, but got 2 images"):
        receive([upload(good.read_bytes()) for _ in range(2)], tmp_path / "other", MOST, 1)
    with pytest.raises(UserError, match="files of one format"):
        receive([upload(good.read_bytes()), upload(archive({"a": b""}))], tmp_path / "third", MOST, 2)
