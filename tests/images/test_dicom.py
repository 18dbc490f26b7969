"""DICOM series: damaged ones are refused by every command, whatever GDCM makes of them, and the others are done."""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from nnunetv2_ext.utilities.errors import UserError

LABELS = {"background": 0, "liver": 1, "spleen": 2, "aorta": 3}


def _with(**elements: object) -> Callable[[Path], None]:
    """Gives all slices of a series other elements, which pydicom would not write."""

    def spoil(folder: Path) -> None:
        for file in folder.iterdir():
            data = pydicom.dcmread(file)
            for name, value in elements.items():
                data[name] = pydicom.DataElement(data[name].tag, data[name].VR, value, validation_mode=0)
            with pydicom.config.disable_value_validation():
                data.save_as(file)

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


def _moved(position: Callable[[int], tuple[float, float, float]], turned: int = -1) -> Callable[[Path], None]:
    """Puts the slices elsewhere; one of them shows another plane."""

    def spoil(folder: Path) -> None:
        for number, file in enumerate(sorted(folder.iterdir())):
            data = pydicom.dcmread(file)
            data.ImagePositionPatient = list(position(number))
            if number == turned:
                data.ImageOrientationPatient = [0, 1, 0, 1, 0, 0]
            data.save_as(file)

    return spoil


def _without(element: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for file in folder.iterdir():
            data = pydicom.dcmread(file)
            delattr(data, element)
            data.save_as(file)

    return spoil


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
    "gantry tilt": _moved(lambda number: (0.0, number * 1.5, number * 3.0)),
    "two points in time": _moved(lambda number: (0.0, 0.0, number // 2 * 3.0)),
    "no positions": _without("ImagePositionPatient"),
    "no orientations": _without("ImageOrientationPatient"),
    "one slice turned": _moved(lambda number: (0.0, 0.0, number * 3.0), turned=5),
    "rows along columns": _with(ImageOrientationPatient=["1", "0", "0", "1", "0", "0"]),
    "no directions": _with(ImageOrientationPatient=["0"] * 6),
}


#: Kind -> what is said of it.
SENTENCES = {
    "slice missing": "a slice is probably missing",
    "gantry tilt": "a gantry tilt of 26.6 degrees",
    "two points in time": "one image per position",
    "no positions": "the position of every slice",
    "rows along columns": "Expected position, orientation, spacing",
    "no orientations": "the orientation of every slice",
    "one slice turned": "slices of one orientation",
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


def _predict(series: Path, model: Path, target: Path, *options: str) -> tuple[int, Path]:
    from nnunetv2_ext.cli.predict import main

    how = ("-m", model, "-f", 0, "-device", "cpu", "--disable_tta", "-npp", 0, "-nps", 0)
    return main([str(a) for a in ("-i", series / "images", "-o", target / "out", *how, *options)]), target / "out"


@pytest.mark.slow
@pytest.mark.parametrize("call", [_convert, _predict])
def test_damaged_series_are_refused_and_the_others_done(nnunet_folders, softmax_model, series, capfd, call):
    code, results = call(series, softmax_model, nnunet_folders)
    said = "".join([*capfd.readouterr(), *(file.read_text("utf-8") for file in results.parent.glob("*report.json"))])
    assert code == 1
    assert "Traceback" not in said
    assert {kind for kind in BAD if kind not in said} == set()
    lines = said.splitlines()
    wrong = {kind for kind, words in SENTENCES.items() if not any(kind in line and words in line for line in lines)}
    assert wrong == set()
    (file,) = results.glob("*.nii.gz")
    assert file.name in ("good_0000.nii.gz", "mini_20200102_good.nii.gz")
    image = nibabel.Nifti1Image.from_filename(file)
    assert image.shape == (16, 14, 12)


@pytest.mark.parametrize("call", [_convert, _predict])
def test_a_pipe_among_slices_stops_nothing(nnunet_folders, softmax_model, miniature, call):
    miniature.dicom("images/odd", miniature.image())
    _pipe(miniature.root / "images/odd")
    miniature.save("labels/odd.nii.gz", np.ones((12, 14, 16), np.uint8))
    code, _ = call(miniature.root, softmax_model, nnunet_folders)
    assert code in (1, 2)


def _described(folder: Path, **elements: str) -> None:
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        for name, value in elements.items():
            setattr(data, name, value)
        data.save_as(file)


@pytest.fixture
def archive(miniature):
    """Patients, studies and series as an archive gives them, called by names that are not to be seen again."""
    nothing = dict.fromkeys(("PatientID", "StudyDate", "SeriesDescription"), "")
    known = {"PatientName": "Muster^Jolanda", "PatientBirthDate": "19610203", "AccessionNumber": "ACC4711"}
    for number, elements in enumerate(
        (
            {"PatientID": "PAT-7731", "SeriesDescription": "Abdomen venous"},
            {"PatientID": "PAT-7731", "SeriesDescription": "Abdomen venous"},
            {"PatientID": "muster-jolanda", "SeriesDescription": "of ACC4711"},
            nothing,
        )
    ):
        folder = f"images/Muster Jolanda/ACC4711/series{number}"
        miniature.dicom(folder, miniature.image())
        _described(miniature.root / folder, **known, **elements)
    for name, elements in (
        ("scan0", {"ImageType": "ORIGINAL\\PRIMARY\\LOCALIZER"}),
        ("b", {"SeriesDescription": "Scout"}),
    ):
        miniature.dicom(f"images/Muster Jolanda/ACC4711/{name}", miniature.image()[:2])
        _described(miniature.root / f"images/Muster Jolanda/ACC4711/{name}", **known, **elements)
    return miniature.root


def test_series_are_found_and_named_by_id_date_and_description(softmax_model, archive, capfd):
    code, results = _predict(archive, softmax_model, archive)
    said = "".join(capfd.readouterr())
    assert code == 0, said
    names = {file.name.removesuffix(".nii.gz") for file in results.glob("*.nii.gz")}
    assert names == {"PAT-7731_20200102_Abdomen_venous", "PAT-7731_20200102_Abdomen_venous_2", "003_20200102", "004"}
    assert "Passed over 4 DICOM files" in said


@pytest.mark.parametrize("numbered", [False, True])
def test_nothing_tells_who_the_patients_are(softmax_model, archive, capfd, numbered):
    table = archive / "who_is_who.csv"
    options = ["--statistics", "--preview", "--report", "--save_probabilities"]
    options += ["--pseudonyms", str(table)] if numbered else []
    code, results = _predict(archive, softmax_model, archive, *options)
    texts = {"what was said": "".join(capfd.readouterr()).encode()}
    assert code == 0, texts
    for file in results.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        texts[str(file.relative_to(results))] = gzip.decompress(content) if file.suffix == ".gz" else content
    assert len(texts) > 20
    secrets = [b"muster", b"jolanda", b"19610203", b"acc4711", *([b"pat-7731", b"venous"] if numbered else [])]
    assert {(name, secret) for name, text in texts.items() for secret in secrets if secret in text.lower()} == set()
    assert [name for name in texts for secret in secrets if secret.decode() in name.lower()] == []
    if numbered:
        maps = sorted(file.name for file in results.glob("*.nii.gz"))
        assert maps == [f"case{number:05d}.nii.gz" for number in range(1, 5)]
        rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
        assert {row["pseudonym"]: row["name"] for row in rows}["case00001"] == "PAT-7731_20200102_Abdomen_venous"
        assert table.stat().st_mode & 0o077 == 0
        assert _predict(archive, softmax_model, archive, "--pseudonyms", str(results / "table.csv"))[0] == 2


def test_pseudonyms_stay_from_run_to_run(tmp_path):
    from nnunetv2_ext.images.dicom import pseudonyms

    table = tmp_path / "table.csv"
    first = pseudonyms({"b": tmp_path / "1", "c": tmp_path / "2"}, table)
    second = pseudonyms({"a": tmp_path / "3", "c": tmp_path / "2", "b": tmp_path / "other"}, table)
    assert first == {"b": "case00001", "c": "case00002"}
    assert second == {"a": "case00003", "c": "case00002", "b": "case00004"}
    table.write_text("something else")
    with pytest.raises(UserError, match="it is another file"):
        pseudonyms({"a": tmp_path}, table)
    assert table.read_text() == "something else"
