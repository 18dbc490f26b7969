"""Kills conversions and merges at random moments, runs them again, and compares with undisturbed ones.

    python scripts/faults_datasets.py --conversions 50 --merges 20

Sources and datasets are small and made here, in a temporary folder. Every try begins a command, kills it by SIGKILL
(the command alone, or all of its processes) at a moment between its first file and its end, and runs it again. Then all
files in nnUNet_raw and nnUNet_preprocessed, litter included, must be those of an undisturbed run, byte by byte. With
--overwrite, a complete dataset must be there whenever the command is killed. Prints how many tries were equal; the exit
code is 0 if and only if all were. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SHAPE = (24, 48, 48)
CASES = 10
#: No try is begun after this.
MINUTES = 14.0
#: No command takes this long.
SECONDS = 120


@dataclass(frozen=True)
class Kind:
    """What is run and killed.

    Attributes:
        command: Name of the module in `nnunetv2_ext.cli`.
        arguments: Of the command.
        exists: Whether a complete dataset is there before.
    """

    command: str
    arguments: tuple[str, ...]
    exists: bool = False

    def __str__(self) -> str:
        return " ".join((self.command, *self.arguments))


_LABEL_MAPS = ("label_maps", "-i", "label_maps", "--order", "order.json", "-d", "11", "-n", "Maps")
_MASKS = ("masks", "-i", "masks", "-d", "12", "-n", "Masks")
_MERGE = ("3", "4", "-d", "50", "-n", "Both")
CONVERSIONS = (
    Kind("convert_dataset", (*_LABEL_MAPS, "-np", "2")),
    Kind("convert_dataset", (*_LABEL_MAPS, "-np", "1", "--orientation", "RAS")),
    Kind("convert_dataset", (*_LABEL_MAPS, "-np", "2", "--copy_images", "--overwrite"), exists=True),
    # Masks overlap: what their integers are is known when all cases are.
    Kind("convert_dataset", (*_MASKS, "-np", "2")),
)
MERGES = (
    Kind("merge_datasets", (*_MERGE, "-np", "2")),
    Kind("merge_datasets", (*_MERGE, "-np", "1", "--copy", "--leave_one_dataset_out")),
    Kind("merge_datasets", (*_MERGE, "-np", "2", "--overwrite"), exists=True),
)


def main() -> int:
    """Runs the tries and reports."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--conversions", type=int, default=50, metavar="N", help="how many conversions to kill")
    parser.add_argument("--merges", type=int, default=20, metavar="N", help="how many merges to kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    chance, end = random.Random(arguments.seed), time.monotonic() + MINUTES * 60
    all_equal = True
    with tempfile.TemporaryDirectory(prefix="faults.") as name:
        bench = Bench(Path(name))
        for what, kinds, wanted in (
            ("conversions", CONVERSIONS, arguments.conversions),
            ("merges", MERGES, arguments.merges),
        ):
            counts: Counter[str] = Counter()
            for number in range(wanted):
                if time.monotonic() > end:
                    print(f"{MINUTES:g} minutes are over.")
                    all_equal = False
                    break
                kind = kinds[number % len(kinds)]
                moment, whole_group = chance.random(), chance.random() < 0.5
                killed, difference = bench.disturb(kind, moment, whole_group)
                counts.update({"tried": 1, "killed": killed, "equal": not difference})
                if difference:
                    print(f"{kind}, killed at {moment:.3f} of its time: {difference}")
            print(
                f"{what}: {counts['tried']} tried, {counts['killed']} killed before their end, {counts['equal']} equal"
            )
            all_equal = all_equal and counts["equal"] == wanted
    return 0 if all_equal else 1


class Bench:
    """A folder with sources, and what undisturbed runs made of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folders = {name: folder / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        for path in self._folders.values():
            path.mkdir()
        _write_sources(folder)
        self._undisturbed: dict[Kind, tuple[float, dict[str, bytes]]] = {}

    def disturb(self, kind: Kind, moment: float, whole_group: bool) -> tuple[bool, str]:
        """Kills a command and runs it again.

        Args:
            kind: What to run.
            moment: Share of its time, from its first file to its end.
            whole_group: Kill all processes of the command at once; else their parent alone.

        Returns:
            Whether it was killed before its end, and what differs from an undisturbed run; empty for nothing.
        """
        if kind not in self._undisturbed:
            self._clear()
            process = self._begin(kind)
            began = self._wait_for_files(process)
            self._end(process)
            self._undisturbed[kind] = time.monotonic() - began, self._result()
        seconds, expected = self._undisturbed[kind]
        self._clear()
        if kind.exists:
            self._end(self._begin(kind))
        process = self._begin(kind)
        began = self._wait_for_files(process)
        time.sleep(max(0.0, began + moment * seconds - time.monotonic()))
        killed = process.poll() is None
        if killed:
            os.killpg(process.pid, signal.SIGKILL) if whole_group else process.kill()
        process.wait(SECONDS)
        complete = [name for name in expected if name.endswith("dataset.json")]
        if kind.exists and not all((self._folder / name).is_file() for name in complete):
            return killed, "no complete dataset was left"
        try:
            self._end(self._begin(kind))
        except RuntimeError as error:
            return killed, str(error)
        found = self._result()
        changed = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
        return killed, ", ".join(sorted(changed)[:5])

    def _clear(self) -> None:
        for name in ("nnUNet_raw", "nnUNet_preprocessed"):
            for path in self._folders[name].iterdir():
                if path.is_dir() and not path.name.startswith(("Dataset003", "Dataset004")):
                    shutil.rmtree(path)
                elif path.is_file():
                    path.unlink()

    def _begin(self, kind: Kind) -> subprocess.Popen[bytes]:
        code = f"import sys; from nnunetv2_ext.cli.{kind.command} import main; sys.exit(main())"
        with open(self._folder / "output", "wb") as output:
            return subprocess.Popen(
                [sys.executable, "-c", code, *kind.arguments],
                cwd=self._folder,
                env={**os.environ, **{name: str(path) for name, path in self._folders.items()}},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_for_files(self, process: subprocess.Popen[bytes]) -> float:
        """When the command's first file appeared, also in a folder that it builds beside the dataset."""
        known = set(_names(self._folders["nnUNet_raw"]))
        while process.poll() is None and set(_names(self._folders["nnUNet_raw"])) <= known:
            time.sleep(0.002)
        return time.monotonic()

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        code = process.wait(SECONDS)
        if code != 0:
            output = (self._folder / "output").read_text(encoding="utf-8", errors="replace")
            raise RuntimeError(f"exit code {code}: {output[-500:]}")

    def _result(self) -> dict[str, bytes]:
        files = (path for name in ("nnUNet_raw", "nnUNet_preprocessed") for path in self._folders[name].rglob("*"))
        return {str(path.relative_to(self._folder)): path.read_bytes() for path in files if path.is_file()}


def _names(folder: Path) -> list[str]:
    try:
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    except FileNotFoundError:  # folders come and go
        return []


def _write_sources(folder: Path) -> None:
    chance = np.random.default_rng(0)
    (folder / "order.json").write_text(json.dumps({"name": "order", "labels": {"liver": 1, "spleen": 2}}))
    for number in range(CASES):
        image = chance.normal(0, 200, SHAPE).astype(np.int16)
        label = chance.integers(0, 3, SHAPE).astype(np.uint8)
        case = f"case_{number}"
        _write(image, folder / "label_maps" / "images" / f"{case}.nii.gz")
        _write(label, folder / "label_maps" / "labels" / f"{case}.nii.gz")
        _write(image, folder / "masks" / case / "ct.nii.gz")
        for name, mask in {"body": label > 0, "liver": label == 1, "spleen": label == 2}.items():
            _write(mask.astype(np.uint8), folder / "masks" / case / "segmentations" / f"{name}.nii.gz")
        for dataset in ("Dataset003_A", "Dataset004_B"):
            own = image if dataset.endswith("A") else image[::-1, ::-1] // 2
            _write(own, folder / "nnUNet_raw" / dataset / "imagesTr" / f"{case}_0000.nii.gz")
            _write(label, folder / "nnUNet_raw" / dataset / "labelsTr" / f"{case}.nii.gz")
    for dataset in ("Dataset003_A", "Dataset004_B"):
        content = {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, "liver": 1, "spleen": 2},
            "numTraining": CASES,
            "file_ending": ".nii.gz",
        }
        (folder / "nnUNet_raw" / dataset / "dataset.json").write_text(json.dumps(content))


def _write(array: np.ndarray, path: Path) -> None:
    import SimpleITK

    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.ascontiguousarray(array)), str(path))


if __name__ == "__main__":
    sys.exit(main())
