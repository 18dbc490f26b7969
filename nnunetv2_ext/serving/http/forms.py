"""What the parts of a form hold."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import BinaryIO

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from nnunetv2_ext.serving.errors import RefusedError

_MOST_FILES, _MOST_FIELDS, _MOST_BYTES_OF_FIELD = 16, 16, 1 << 16


@asynccontextmanager
async def read_form(request: Request) -> AsyncIterator[FormData]:
    """The form of a request; files in it lie on the disk, under no name, until the end of the block.

    Raises:
        RefusedError: There is none, or it is damaged.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise RefusedError(415, "Expected a form (multipart/form-data) with the scan as one of its parts.")
    limits = {"max_files": _MOST_FILES, "max_fields": _MOST_FIELDS, "max_part_size": _MOST_BYTES_OF_FIELD}
    try:
        form = await request.form(**limits)
    except ValueError as error:  # a character set that is none
        raise RefusedError(400, f"Expected a form that can be read, but it cannot ({error}).") from None
    try:
        yield form
    finally:
        await form.close()


def files_of(form: FormData, name: str = "file") -> list[BinaryIO]:
    """The files of a part: a scan.

    Raises:
        RefusedError: It is not there, or holds text instead.
    """
    parts = form.getlist(name)
    if not parts:
        raise RefusedError(400, f"Expected a scan as the part {name!r} of the form, but there is none; send it.")
    files = [part.file for part in parts if isinstance(part, UploadFile)]
    if len(files) < len(parts):
        raise RefusedError(400, f"Expected a file as the part {name!r}, but got text; give it a file name.")
    return files


def texts(form: FormData, name: str) -> list[str]:
    """The texts of a part.

    Raises:
        RefusedError: It holds a file instead.
    """
    parts = form.getlist(name)
    found = [part for part in parts if isinstance(part, str)]
    if len(found) < len(parts):
        raise RefusedError(400, f"Expected text as the part {name!r}, but got a file.")
    return found


def one_text(form: FormData, name: str, default: str) -> str:
    """The text of a part that is there once, or not at all.

    Raises:
        RefusedError: It is there more often, or holds a file.
    """
    given = texts(form, name)
    if len(given) > 1:
        raise RefusedError(400, f"Expected the part {name!r} once, but got it {len(given)} times.")
    return given[0] if given else default
