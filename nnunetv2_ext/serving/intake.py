"""Scans that come in: written under names of ours, and read in a process that a library may crash."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from nnunetv2_ext.serving.errors import RefusedError
from nnunetv2_ext.serving.jobs import new_id
from nnunetv2_ext.serving.uploads import receive
from nnunetv2_ext.utilities.executors import WorkerDiedError
from nnunetv2_ext.utilities.folders import folder_under_construction

Result = TypeVar("Result")


class Intake:
    """Takes scans in.

    Args:
        folder: For scans that are kept for several jobs.
        executor: Where files from outside are read.
        most_bytes: How large an unpacked archive may be.
    """

    def __init__(self, folder: Path, executor: Executor, most_bytes: int) -> None:
        self._folder, self._executor, self._most_bytes = folder, executor, most_bytes

    def receive(self, uploads: Sequence[BinaryIO], folder: Path, channels: int, admits_2d: bool) -> None:
        """Makes a folder whose ``input`` holds a scan.

        Args:
            uploads: One image per channel, or one ZIP archive of a DICOM series.
            folder: The folder.
            channels: How many channels the model reads.
            admits_2d: Whether images of two dimensions make sense to it.

        Raises:
            UserError: They are no scan, or none for the model; then there is no folder.
        """
        with folder_under_construction(folder, overwrite=False) as building:
            files = _written(uploads, building)
            self.check(receive, files, building / "input", self._most_bytes, channels, admits_2d)

    def keep(self, uploads: Sequence[BinaryIO]) -> str:
        """Keeps a scan for several jobs, and returns its name.

        Raises:
            UserError: It is none.
        """
        name = new_id()
        with folder_under_construction(self._folder / name, overwrite=False) as building:
            self.check(receive, _written(uploads, building), building / "input", self._most_bytes)
            shutil.rmtree(building / "input")
            for upload in uploads:
                upload.seek(0)
            _written(uploads, building)
        return name

    def kept(self, name: str) -> list[Path]:
        """The files of a scan that is kept.

        Raises:
            UserError: There is none of that name.
        """
        folders = {folder.name: folder for folder in self._all_kept()}
        if name not in folders:
            raise RefusedError(404, "Expected the name of a scan that is kept, but there is none; send it again.")
        return sorted(folders[name].iterdir())

    def forget(self, name: str) -> None:
        """Deletes a scan that is kept.

        Raises:
            UserError: There is none of that name.
        """
        shutil.rmtree(self.kept(name)[0].parent)

    def forget_old(self, past: float) -> None:
        """Deletes the scans that were kept before a time in seconds since 1970."""
        for folder in self._all_kept():
            if folder.stat().st_mtime < past:
                shutil.rmtree(folder, ignore_errors=True)

    def check(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Runs what reads files from outside in its process; a crash there is the file's fault."""
        try:
            result: Result = self._executor.submit(function, *arguments).result()
        except WorkerDiedError as death:
            raise RefusedError(422, f"The process that read the scan {death}; is it damaged?") from None
        return result

    def _all_kept(self) -> list[Path]:
        # Hidden ones are locks, and scans that just come in.
        return list(self._folder.glob("[!.]*"))


def _written(uploads: Sequence[BinaryIO], folder: Path) -> list[Path]:
    """Uploads as files of a folder, under names of ours."""
    files = [folder / f"upload_{number:04d}" for number in range(len(uploads))]
    for upload, file in zip(uploads, files, strict=True):
        with open(file, "wb") as target:
            shutil.copyfileobj(upload, target, 1 << 20)
    return files
