"""What was sent becomes the input of a job: named by us, unpacked within limits, and read once to its end.

All of it runs in a process of its own, which a library may crash or a bomb may fill.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nnunetv2_ext.images.reading import Case, read_scan, read_slices, read_volumes
from nnunetv2_ext.inference.cases import find_cases
from nnunetv2_ext.serving.errors import RefusedError
from nnunetv2_ext.utilities.errors import UserError, disk_error

#: More slices than any series has.
MOST_MEMBERS = 20_000

# The list at the end of an archive, which is read as a whole: names are of 4 KB at most.
_MOST_BYTES_OF_LIST = MOST_MEMBERS * 1024
_END, _END_64, _COMMENT, _RECORD, _LOCATOR = b"PK\x05\x06", b"PK\x06\x07", 1 << 16, 56, 20
_BLOCK = 1 << 20
_CASE = "scan"


def receive(
    uploads: Sequence[Path], target: Path, most_bytes: int, channels: int | None = None, admit_2d: bool = False
) -> None:
    """Moves files that were sent into a new folder and checks that they are one scan.

    Args:
        uploads: One image per channel, or one ZIP archive of a DICOM series.
        target: The folder.
        most_bytes: How large an unpacked archive may be.
        channels: How many channels the model reads; None where no model is chosen yet.
        admit_2d: Whether images of two dimensions make sense to the model.

    Raises:
        UserError: They are not.
    """
    target.mkdir()
    endings = [_ending(upload) for upload in uploads]
    if endings == [".zip"]:
        _unpack(uploads[0], target, most_bytes)
        uploads[0].unlink()
    elif ".zip" in endings or len(set(endings)) > 1:
        raise RefusedError(422, "Expected files of one format, or one ZIP archive, but got several; send one scan.")
    else:
        for number, (upload, ending) in enumerate(zip(uploads, endings, strict=True)):
            shutil.move(upload, target / f"{_CASE}_{number:04d}{ending}")
    case = case_in(target, channels or len(uploads))
    if channels is not None:
        read_scan(case, channels, admit_2d=admit_2d)
    elif case.dicom:
        read_slices(case.files)
    else:
        for file in case.files:
            read_volumes(file)


def case_in(folder: Path, channels: int) -> Case:
    """The one scan of a folder that `receive` has filled.

    Raises:
        UserError: There are several.
    """
    cases = find_cases(folder, channels, ".nii.gz")
    if len(cases) != 1:
        raise UserError(f"Expected one scan, but got {len(cases)} images or series; send one of them.")
    # Series are called by their patient.
    return replace(cases[0], identifier=_CASE)


def _ending(file: Path) -> str:
    """What a file is, by its first bytes: its name is not ours."""
    with open(file, "rb") as stream:
        beginning = stream.read(4)
    if not beginning:
        raise RefusedError(400, "Expected a scan, but got an empty file; send it again.")
    if beginning[:2] == b"\x1f\x8b":
        return ".nii.gz"
    if {int.from_bytes(beginning, "little"), int.from_bytes(beginning, "big")} & {348, 540}:
        return ".nii"
    found = {b"NRRD": ".nrrd", b"PK\x03\x04": ".zip"}.get(beginning)
    if found is None:
        raise RefusedError(
            415, "Expected NIfTI (.nii.gz, .nii), NRRD, or a ZIP archive of a DICOM series, but got something else."
        )
    return found


def _unpack(archive: Path, target: Path, most_bytes: int) -> None:
    """Writes the members of an archive, numbered; no name of it becomes one of ours."""
    if _bytes_of_list(archive) > _MOST_BYTES_OF_LIST:
        raise RefusedError(
            413, f"Expected at most {MOST_MEMBERS} files in the archive, but it has more; send one series."
        )
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            _check(members, most_bytes)
            left = most_bytes
            for number, member in enumerate(members):
                with opened.open(member) as source, open(target / f"{number:05d}", "wb") as file:
                    # What is written counts, not what the archive says of itself.
                    while block := source.read(_BLOCK):
                        left -= len(block)
                        if left < 0:
                            raise _too_large(most_bytes)
                        file.write(block)
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and disk_error(error):
            raise
        raise RefusedError(
            422, f"Expected a complete ZIP archive, but it cannot be read ({error}); send it again."
        ) from None


def _check(members: Sequence[zipfile.ZipInfo], most_bytes: int) -> None:
    if not members:
        raise RefusedError(422, "Expected a DICOM series in the archive, but it is empty.")
    if len(members) > MOST_MEMBERS:
        raise RefusedError(
            413, f"Expected at most {MOST_MEMBERS} files in the archive, but found {len(members)}; send one series."
        )
    if sum(member.file_size for member in members) > most_bytes:
        raise _too_large(most_bytes)
    for member in members:
        parts = member.filename.replace("\\", "/").split("/")
        if ".." in parts or parts[0] == "" or ":" in parts[0]:
            raise RefusedError(
                422, "Expected names within the archive, but one leads out of it ('..' or an absolute path)."
            )
        if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise RefusedError(422, "Expected an archive without encryption, stored or deflated, but it is not.")


def _bytes_of_list(archive: Path) -> int:
    """How long the list of members says it is; 0 where there is none, which zipfile tells."""
    with open(archive, "rb") as file:
        file.seek(max(0, archive.stat().st_size - _COMMENT - _RECORD - 2 * _LOCATOR))
        tail = file.read()
    end = tail.rfind(_END)
    if tail[max(0, end - _LOCATOR) : end].startswith(_END_64):
        record = tail[max(0, end - _LOCATOR - _RECORD) : end]
        return int.from_bytes(record[40:48], "little")
    return int.from_bytes(tail[end + 12 : end + 16], "little") if end >= 0 else 0


def _too_large(most_bytes: int) -> RefusedError:
    return RefusedError(
        413, f"Expected an archive that unpacks to at most {most_bytes >> 20} MiB, but it is larger; send one series."
    )
