"""The folder of one try: inputs, targets, victims, and what everything in it looked like before."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Mapping
from fnmatch import fnmatchcase as fnmatch
from pathlib import Path

SECRET = b"SECRET of a file that no command was asked to read. " * 200
#: A payload that is executed leaves this file.
SENTINEL = "EXECUTED"


class Sandbox:
    """A fresh folder with nnU-Net's three folders, inputs, a target, and files that are nobody's business.

    Args:
        root: The folder; must not exist.
        library: The good files, written once per run; see `fixtures.py`.
    """

    def __init__(self, root: Path, library: Path) -> None:
        self.root = root
        self._mounted: list[Path] = []
        self.library = library
        self.raw, self.preprocessed, self.results = (
            root / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        )
        self.inputs, self.out, self.temporary = root / "in", root / "out", root / "tmp"
        for folder in (self.raw, self.preprocessed, self.results, self.inputs, self.temporary):
            folder.mkdir(parents=True)
        self.victim = root / "victim"
        (self.victim / "fold_0").mkdir(parents=True)
        (self.victim / "kept.txt").write_text("kept")
        (self.victim / "plans.json").write_text("{}")
        (root / "secret.bin").write_bytes(SECRET)
        self.environment = {
            "nnUNet_raw": str(self.raw),
            "nnUNet_preprocessed": str(self.preprocessed),
            "nnUNet_results": str(self.results),
            "TMPDIR": str(self.temporary),
            "TEMP": str(self.temporary),
            "SENTINEL": str(self.sentinel),
        }

    @property
    def sentinel(self) -> Path:
        """The file that an executed payload creates."""
        return self.root / SENTINEL

    @property
    def payload(self) -> str:
        """A shell command that creates the sentinel."""
        return f"touch {self.sentinel}"

    @property
    def log(self) -> Path:
        """What the commands print; beside the sandbox, so that it is no change of it."""
        return self.root.with_suffix(".log")

    def bring(self, name: str, to: Path) -> Path:
        """Copies a good file or folder from the library."""
        source = self.library / name
        to.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, to, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, to)
        return to

    def mount(self, folder: Path, size: str) -> None:
        """Makes a folder a file system of its own, as large as ``size`` says."""
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "attack", str(folder)]
        subprocess.run(command, check=True, capture_output=True)
        self._mounted.append(folder)

    def fill(self, folder: Path, left: int) -> None:
        """Fills the file system of a folder but for some bytes."""
        state = os.statvfs(folder)
        with open(folder / "ballast", "wb") as file:
            file.write(bytes(max(0, state.f_bavail * state.f_frsize - left)))

    def remove(self) -> None:
        """Removes the sandbox, whatever the permissions in it."""
        for folder in self._mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)
        for parent, names, _ in os.walk(self.root):
            for name in names:
                path = Path(parent, name)
                if not path.is_symlink():
                    path.chmod(0o700)
        shutil.rmtree(self.root, ignore_errors=True)
        for log in self.root.parent.glob(f"{self.root.name}*.log"):
            log.unlink()


def snapshot(root: Path) -> dict[str, str]:
    """Every entry below a folder -> what it is: kind, permissions and, of files, a hash of the content."""
    found: dict[str, str] = {}
    pending = [root]
    while pending:
        for entry in os.scandir(pending.pop()):
            name = os.path.relpath(entry.path, root)
            state = entry.stat(follow_symlinks=False)
            mode = f"{stat.S_IMODE(state.st_mode):o}"
            if entry.is_symlink():
                found[name] = f"link to {os.readlink(entry.path)}"
            elif entry.is_dir():
                found[name] = f"folder {mode}"
                pending.append(Path(entry.path))
            elif entry.is_file():
                found[name] = f"file {mode} {_hash(entry.path)}"
            else:
                found[name] = "special"
    return found


def changes(before: Mapping[str, str], after: Mapping[str, str], targets: tuple[str, ...]) -> list[str]:
    """What became different outside the targets."""
    problems = []
    for name in sorted(before.keys() | after.keys()):
        if any(fnmatch(name, pattern) for target in (*targets, "tmp") for pattern in (target, f"{target}/*")):
            continue
        if before.get(name) != after.get(name):
            what = "created" if name not in before else "deleted" if name not in after else "changed"
            problems.append(f"{what} {name} outside its target")
    return problems


def _hash(path: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
