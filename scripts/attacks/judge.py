"""Whether a command held: judged by what it left, printed and returned, without the package's help."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from attacks.client import LATE, Process
from attacks.sandbox import Sandbox, changes, snapshot
from attacks.table import Expect

_DEFECT = re.compile(r"Traceback \(most recent call last\)|Exception ignored in|Fatal Python error|terminate called")
#: Names of what is under construction, as mkstemp and this package name it.
_TEMPORARY = re.compile(r"\.tmp(\.|$)|\.old$|\.part$|^tmp[a-z0-9_]{8}$|^\..+\.[a-z0-9_]{8}$")
#: What commands may leave in the folder for temporary files: nothing but empty folders of caches.
_TOLERATED = re.compile(r"\.lock$|^pymp-")


def judge(box: Sandbox, process: Process, before: Mapping[str, str], expect: Expect) -> list[str]:
    """What is wrong with one command's work; nothing if it held."""
    output = process.output()
    problems = [*judge_process(process, expect), *judge_files(box, before, expect.targets)]
    if expect.says and not re.search(expect.says, output, re.DOTALL):
        problems.append(f"the output does not say {expect.says!r}")
    for check in expect.checks:
        problems += check(box, output)
    return problems


def judge_process(process: Process, expect: Expect) -> list[str]:
    """Exit code, output and the processes that are left."""
    problems = []
    code, output = process.code, process.output()
    if code == LATE or code is None:
        problems.append("hung until its time was over")
    elif code < 0:
        problems.append(f"was killed by signal {-code}")
    elif code not in expect.codes:
        problems.append(f"exit code {code} instead of {' or '.join(map(str, sorted(expect.codes)))}")
    if found := _DEFECT.search(output):
        problems.append(f"printed {found[0]!r}: {_last_line(output)}")
    if "\0" in output or "\x1b]" in output:
        problems.append("printed control characters")
    if leftovers := process.leftovers():
        problems.append(f"left {len(leftovers)} processes")
    return problems


def judge_files(box: Sandbox, before: Mapping[str, str], targets: tuple[str, ...]) -> list[str]:
    """Nothing outside the targets changed, no payload ran, nothing half-written is left."""
    problems = []
    if box.sentinel.exists():
        problems.append("EXECUTED the payload")
    after = snapshot(box.root)
    problems += [change for change in changes(before, after, targets) if "EXECUTED" not in change]
    for name in after.keys() - before.keys():
        last = name.rpartition("/")[2]
        if (_TEMPORARY.search(last) or name.startswith("tmp/")) and not _TOLERATED.search(last):
            problems.append(f"left the temporary {name}")
    new = [name for name in after if after[name] != before.get(name) and after[name].startswith("file")]
    problems += unreadable(box.root, sorted(new))
    strangers = [entry.name for entry in box.root.parent.iterdir() if not re.fullmatch(r"\d+\w*(\.log)?", entry.name)]
    return problems + [f"wrote {name} beside its sandbox" for name in strangers]


def unreadable(root: Path, names: Iterable[str]) -> list[str]:
    """Results, given by their names below a folder, that another library cannot read to their end."""
    problems = []
    for name in names:
        file = root / name
        if file.name.startswith(".") or ".lock/" in name:
            continue
        with contextlib.suppress(PermissionError):
            try:
                read_to_the_end(file)
            except Exception as error:
                problems.append(f"{file.name} cannot be read: {type(error).__name__}: {error}")
    return problems


def read_to_the_end(file: Path) -> Any:
    """Reads a result by the library of its format; other files are not looked at."""
    if file.name.endswith((".nii", ".nii.gz")):
        return voxels_of(file)
    if file.suffix == ".json":
        return json.loads(file.read_text(encoding="utf-8"))
    if file.suffix in (".nrrd", ".mha"):
        import SimpleITK

        return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file)))
    if file.suffix in (".pth", ".ts", ".pt"):
        with zipfile.ZipFile(file) as archive:
            if archive.testzip() is not None:
                raise ValueError("damaged archive")
    return None


def voxels_of(file: Path) -> npt.NDArray[Any]:
    """Voxels (x, y, z) of a NIfTI file, which has to be complete."""
    content = file.read_bytes()
    if file.name.endswith(".gz"):
        content = gzip.decompress(content)
    kinds = {540: nibabel.Nifti2Image}
    image: Any = kinds.get(int.from_bytes(content[:4], "little"), nibabel.Nifti1Image).from_stream(io.BytesIO(content))
    voxels = np.asanyarray(image.dataobj)
    if not np.isfinite(voxels).all():
        raise ValueError("voxels that are no finite numbers")
    return voxels


def _last_line(output: str) -> str:
    lines = [line for line in output.splitlines() if re.match(r"[\w.]+(Error|Exception|Interrupt|Exit)\b", line)]
    return (lines or output.splitlines() or [""])[-1][:160]
