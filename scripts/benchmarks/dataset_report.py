"""The page of a raw dataset against the least that it takes: decompressing the files of all cases.

Usage: python scripts/benchmarks/dataset_report.py [--cases 1000] [--size 192 192 96] [-np 2] [--dataset FOLDER]

Prints one JSON line: processor seconds of the report (``ours_s``) and of decompression (``peer_s``) of some cases, one
after the other in this process, and their ratio; wall-clock seconds of the report of all cases with ``-np`` processes;
the peak resident memory (MB) of this process and of the largest worker after a quarter of the cases and after all; the
size of the page (MB); and whether volumes are those of numpy. With ``--dataset`` the cases are those of a raw dataset,
such as one of real CTs; otherwise they are smooth noise with five boxes, of which 25 are different.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from _measure import report, run_once

from nnunetv2_ext.dataset_report.cases import RawDataset, read_raw_dataset
from nnunetv2_ext.dataset_report.report import report_dataset

DIFFERENT = 25
CLASSES = 5
#: Cases of the comparison with decompression.
COMPARED = 20


def write_dataset(folder: Path, cases: int, size: tuple[int, int, int]) -> None:
    """Images with the noise of a CT and label maps with five classes."""
    random = np.random.default_rng(0)
    shape = size[::-1]
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for number in range(min(cases, DIFFERENT)):
        blocks = random.integers(-1000, 1000, [-(-length // 8) for length in shape])
        image = blocks.repeat(8, 0).repeat(8, 1).repeat(8, 2)[tuple(map(slice, shape))]
        image = (image + random.normal(0, 10, shape)).astype(np.int16)
        label = np.zeros(shape, np.uint8)
        for value in range(1, CLASSES + 1):
            box = [
                slice(start, start + length // 3)
                for start, length in zip(random.integers(0, np.array(shape) // 2), shape, strict=True)
            ]
            label[tuple(box)] = value
        for array, name in (
            (image, f"imagesTr/case_{number:05d}_0000.nii.gz"),
            (label, f"labelsTr/case_{number:05d}.nii.gz"),
        ):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / name), useCompression=True)
    for number in range(DIFFERENT, cases):
        source = number % DIFFERENT
        os.link(folder / f"imagesTr/case_{source:05d}_0000.nii.gz", folder / f"imagesTr/case_{number:05d}_0000.nii.gz")
        os.link(folder / f"labelsTr/case_{source:05d}.nii.gz", folder / f"labelsTr/case_{number:05d}.nii.gz")
    labels = {"background": 0, **{f"class_{value}": value for value in range(1, CLASSES + 1)}}
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": cases, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")


def decompress(dataset: RawDataset) -> None:
    """Reads all files to their end and keeps nothing."""
    for case in dataset.cases:
        for file in (*case.images, *([case.label] if case.label else [])):
            with gzip.open(file) as stream:
                while stream.read(1 << 20):
                    pass


def peak_mb() -> float:
    """The highest resident memory so far of this process and of the largest of its workers."""
    used = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return used * 1024 / 1e6


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--size", type=int, nargs=3, default=(192, 192, 96), metavar=("X", "Y", "Z"))
    parser.add_argument("-np", "--num_processes", type=int, default=2)
    parser.add_argument("--dataset", help="ID, name or folder of a raw dataset of compressed images")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        pages = Path(temporary) / "pages"
        if not arguments.dataset:
            write_dataset(Path(temporary) / "Dataset001_Synthetic", arguments.cases, tuple(arguments.size))
        dataset = read_raw_dataset(arguments.dataset or f"{temporary}/Dataset001_Synthetic")

        def write(some: RawDataset, processes: int) -> Any:
            return report_dataset(some, pages, overwrite=True, processes=processes, progress=False)

        quarter = replace(dataset, cases=dataset.cases[: max(1, len(dataset.cases) // 4)])
        write(quarter, arguments.num_processes)
        peak_of_quarter = peak_mb()
        all_cases = run_once(lambda: write(dataset, arguments.num_processes))
        peak_of_all = peak_mb()
        compared = replace(dataset, cases=dataset.cases[:COMPARED])
        write(replace(dataset, cases=dataset.cases[:1]), 0)  # imports
        ours, peer = run_once(lambda: write(compared, 0)), run_once(lambda: decompress(compared))
        first = ours.result.measures[0]
        label = sitk.ReadImage(str(dataset.cases[0].label))
        counts = np.bincount(sitk.GetArrayFromImage(label).ravel().astype(np.intp), minlength=max(dataset.names) + 1)
        millilitres = {
            name: counts[list(values)].sum() * np.prod(label.GetSpacing()) / 1000
            for name, values in dataset.values.items()
        }
        report(
            "dataset_report",
            cases=len(dataset.cases),
            problems=len(all_cases.result.problems),
            ours_s=ours.cpu_seconds,
            peer_s=peer.cpu_seconds,
            ratio=ours.cpu_seconds / peer.cpu_seconds,
            seconds=all_cases.seconds,
            cases_per_s=len(dataset.cases) / all_cases.seconds,
            peak_mb_quarter=peak_of_quarter,
            peak_mb=peak_of_all,
            page_mb=all_cases.result.page.stat().st_size / 1e6,
            agreement=bool(np.allclose([first.volumes[name] for name in millilitres], list(millilitres.values()))),
        )


if __name__ == "__main__":
    main()
