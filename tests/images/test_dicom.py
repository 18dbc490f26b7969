"""DICOM series: damaged ones are refused by every command, whatever GDCM makes of them, and the others are done."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

LABELS = {"background": 0, "liver": 1, "spleen": 2, "aorta": 3}


def _with(**elements: object) -> Callable[[Path], None]:
    """Gives all slices of a series other elements, which pydicom would not write."""

    def spoil(folder: Path) -> None:
        for file in folder.iterdir():
            data = pydicom.dcmread(file)
            for name, value in elements.items():
                data[name] = pydicom.DataElement(data[name].tag, data[name].VR, value, validation_mode=0)
            pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
            try:
                data.save_as(file)
            finally:
                pydicom.config.settings.writing_validation_mode = None

    return spoil


def _cut(share: float, slice_number: int) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        file = sorted(folder.iterdir())[slice_number]
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * share)])

    return spoil


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "1-000.dcm")


def _bad_pixels(folder: Path) -> None:
    file = sorted(folder.iterdir())[-1]
    content = file.read_bytes()
    file.write_bytes(content.replace(b"\x28\x00\x10\x00US\x02\x00\x0e\x00", b"\x28\x00\x10\x00US\x02\x00\x10\x00"))
    assert file.read_bytes() != content


#: Kind -> what spoils a folder of slices.
BAD: dict[str, Callable[[Path], None]] = {
    "last slice cut": _cut(0.9, 0),
    "first slice cut": _cut(0.9, -1),
    "slice within cut": _cut(0.5, 5),
    "slice empty": _cut(0.0, -1),
    "slice missing": lambda folder: sorted(folder.iterdir())[5].unlink(),
    "more rows than pixels": _with(Rows=6000),
    "fewer rows than pixels": _with(Rows=6),
    "one slice with more rows": _bad_pixels,
    "other bits": _with(BitsAllocated=8, BitsStored=8, HighBit=7),
    "spacing 0": _with(PixelSpacing=["0", "0"]),
    "spacing NaN": _with(PixelSpacing=["nan", "nan"]),
    "spacing of a metre": _with(PixelSpacing=["1000", "1000"]),
    "slope 0": _with(RescaleSlope="0"),
    "slope NaN": _with(RescaleSlope="nan"),
    "intercept infinite": _with(RescaleIntercept="inf"),
    "no directions": _with(ImageOrientationPatient=["0"] * 6),
}


@pytest.fixture
def series(miniature):
    """Folders of slices, a good one and one per kind of damage, and a label map for each."""
    for kind in ("good", *BAD):
        voxels = miniature.image()
        miniature.dicom(f"images/{kind}", voxels)
        miniature.save(f"labels/{kind}.nii.gz", np.random.default_rng(1).integers(0, 4, voxels.shape).astype(np.uint8))
        if kind in BAD:
            BAD[kind](miniature.root / "images" / kind)
    return miniature.root


def _convert(series: Path, model: Path, target: Path) -> tuple[int, Path]:
    from nnunetv2_ext.cli.convert_dataset import main

    order = series / "order.json"
    dataset = {"channel_names": {"0": "CT"}, "labels": LABELS, "numTraining": 1, "file_ending": ".nii.gz"}
    order.write_text(json.dumps(dataset))
    arguments = ("label_maps", "-i", series, "--image", "images/{case}", "--order", order, "-d", 1, "-n", "D", "-np", 1)
    return main([str(argument) for argument in arguments]), target / "nnUNet_raw/Dataset001_D/imagesTr"


def _predict(series: Path, model: Path, target: Path) -> tuple[int, Path]:
    from nnunetv2_ext.cli.predict import main

    how = ("-m", model, "-f", 0, "-device", "cpu", "--disable_tta", "-npp", 0, "-nps", 0)
    return main([str(a) for a in ("-i", series / "images", "-o", target / "out", *how)]), target / "out"


@pytest.mark.parametrize("call", [_convert, _predict])
def test_damaged_series_are_refused_and_the_others_done(nnunet_folders, softmax_model, series, capfd, call):
    code, results = call(series, softmax_model, nnunet_folders)
    said = "".join(capfd.readouterr())
    assert code == 1
    assert "Traceback" not in said
    assert {kind for kind in BAD if kind not in said} == set()
    files = [file.name.removesuffix(".nii.gz").removesuffix("_0000") for file in results.glob("*.nii.gz")]
    assert files == ["good"]
    image = nibabel.load(next(results.glob("good*.nii.gz")))
    assert image.shape == (16, 14, 12)


@pytest.mark.parametrize("call", [_convert, _predict])
def test_a_pipe_among_slices_stops_nothing(nnunet_folders, softmax_model, miniature, call):
    miniature.dicom("images/odd", miniature.image())
    _pipe(miniature.root / "images/odd")
    miniature.save("labels/odd.nii.gz", np.ones((12, 14, 16), np.uint8))
    code, _ = call(miniature.root, softmax_model, nnunet_folders)
    assert code in (1, 2)
