"""Every command that writes images notices that the disk takes no more: it says so and replaces nothing."""

from __future__ import annotations

import importlib
import json
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest

from nnunetv2_ext.images.geometry import Grid
from nnunetv2_ext.images.label_maps import write_label_map
from nnunetv2_ext.utilities.errors import UserError

resource = pytest.importorskip("resource", reason="the size of files is limited as POSIX systems do")

#: Bytes that a file may have: less than any image here, more than any file of text.
LIMIT = 40_000

# Noise, which does not compress.
VOXELS = np.random.default_rng(0).integers(0, 256, (30, 64, 64)).astype(np.uint8)
LABELS = {"background": 0, **{f"class {value}": value for value in range(1, 256)}}
DATASET = {"channel_names": {"0": "CT"}, "labels": LABELS, "numTraining": 1, "file_ending": ".nii.gz"}


def _write(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(VOXELS.T, np.diag([1.5, 1.5, 2, 1])), file)


def _json(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(DATASET), encoding="utf-8")
    return file


# One function per command: makes the folders and returns the command, its arguments and where the result goes.


def remap(folder: Path) -> tuple[str, list[object], Path]:
    _write(folder / "in/case.nii.gz")
    order = _json(folder / "order.json")
    orders = ["--from", order, "--to", order, "--overwrite", "-np", 1]
    return "remap_labels", ["-i", folder / "in", "-o", folder / "out", *orders], folder / "out/case.nii.gz"


def convert(folder: Path) -> tuple[str, list[object], Path]:
    for part in ("images", "labels"):
        _write(folder / "in" / part / "case.nii.gz")
    options = ["-d", 1, "-n", "Full", "--order", _json(folder / "order.json"), "-np", 1]
    target = folder / "nnUNet_raw/Dataset001_Full/labelsTr/case.nii.gz"
    return "convert_dataset", ["label_maps", "-i", folder / "in", *options], target


def merge(folder: Path) -> tuple[str, list[object], Path]:
    dataset = folder / "nnUNet_raw/Dataset001_Noise"
    _write(dataset / "imagesTr/case_0000.nii.gz")
    _write(dataset / "labelsTr/case.nii.gz")
    _json(dataset / "dataset.json")
    target = folder / "nnUNet_raw/Dataset002_Full/labelsTr/Noise_case.nii.gz"
    return "merge_datasets", [1, "-d", 2, "-n", "Full", "--overwrite", "-np", 1], target


def predict(folder: Path) -> tuple[str, list[object], Path]:
    _write(folder / "in/case.nii.gz")
    how = ["-m", folder / "model", "-f", 0, "-device", "cpu", "--disable_tta", "--overwrite", "--output_type", "nii"]
    return "predict", ["-i", folder / "in", "-o", folder / "out", *how], folder / "out/case.nii"


@pytest.fixture
def small_disk():
    """Lets files grow to `LIMIT` only, which is what a full disk looks like to those who write them."""

    @contextmanager
    def limited():
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.mark.parametrize("call", [remap, convert, merge, predict])
def test_commands_say_it_and_replace_nothing(nnunet_folders, make_model_folder, small_disk, capfd, call):
    if call is predict:
        make_model_folder(nnunet_folders / "model", patch_size=(16, 32, 32))
    command, arguments, target = call(nnunet_folders)
    if call is not convert:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"the result of an earlier run")
    before = {file: file.read_bytes() for file in nnunet_folders.rglob("*") if file.is_file()}
    main = importlib.import_module(f"nnunetv2_ext.cli.{command}").main
    with small_disk():
        code = main([str(argument) for argument in arguments])
    said = "".join(capfd.readouterr())
    assert code in (1, 2), said
    assert "File too large" in said
    assert "Traceback" not in said
    after = {file: file.read_bytes() for file in nnunet_folders.rglob("*") if file.is_file()}
    assert {file: content for file, content in after.items() if file in before} == before
    assert not [file for file in after if file not in before and ".nii" in file.name]


@pytest.mark.parametrize("ending", ["nii.gz", "nii", "nrrd", "mha", "seg.nrrd", "tif", "png", "bmp", "gipl"])
def test_every_format_is_proven_before_it_replaces_a_file(tmp_path, small_disk, ending):
    axes = 2 if ending in ("png", "bmp") else 3
    array = VOXELS.reshape(1, 480, 256) if axes == 2 else VOXELS
    grid = Grid(array.shape[::-1][:axes], (1.0,) * axes, (0.0,) * axes, tuple(np.eye(axes).ravel()))
    target = tmp_path / f"map.{ending}"
    write_label_map(array % 5, {4: "liver"}, grid, target)
    good = target.read_bytes()
    with small_disk(), pytest.raises(UserError, match=rf"Expected to write .*map\.{ending}"):
        write_label_map(array, {255: "liver"}, grid, target)
    assert target.read_bytes() == good
    assert not list(tmp_path.glob(".*"))
