import itertools
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_ext.images.geometry import Grid
from nnunetv2_ext.images.label_maps import write_volume
from nnunetv2_ext.images.reading import read_dicom_series, read_volume, read_volumes
from nnunetv2_ext.images.volumes import Volume, compact, crop, oriented, resample_label
from nnunetv2_ext.utilities.errors import UserError

ORIENTATIONS = [
    "".join(axes) for letters in itertools.permutations(("LR", "AP", "SI")) for axes in itertools.product(*letters)
]


def _image(shape=(5, 6, 7), seed=0):
    image = sitk.GetImageFromArray(np.random.default_rng(seed).integers(-500, 500, shape).astype(np.int16))
    image.SetSpacing((0.7, 0.9, 2.5))
    image.SetOrigin((-11.0, 7.0, 120.0))
    return image


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd"])
def test_reads_what_simpleitk_reads(tmp_path, ending):
    image = sitk.DICOMOrient(_image(), "RAS")
    sitk.WriteImage(image, str(tmp_path / f"a{ending}"))
    volume = read_volume(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(volume.grid.origin, image.GetOrigin(), rtol=1e-6)
    np.testing.assert_allclose(volume.grid.direction, image.GetDirection(), atol=1e-6)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_truncated_files_are_noticed(tmp_path, ending, kept):
    file = tmp_path / f"a{ending}"
    sitk.WriteImage(_image((20, 20, 20)), str(file), useCompression=ending != ".nii")
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(UserError, match="truncated or damaged") as error:
        read_volume(file)
    assert "\n" not in str(error.value)


def test_missing_and_foreign_files_are_said(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_volume(tmp_path / "none.nii.gz")
    (tmp_path / "text.nii.gz").write_text("this is no image")
    with pytest.raises(UserError, match="damaged"):
        read_volume(tmp_path / "text.nii.gz")


def test_a_fourth_axis_holds_channels(tmp_path):
    channels = [_image(seed=seed) for seed in range(3)]
    sitk.WriteImage(sitk.JoinSeries(channels), str(tmp_path / "a.nii.gz"))
    volumes = read_volumes(tmp_path / "a.nii.gz")
    assert len(volumes) == 3
    for volume, channel in zip(volumes, channels, strict=True):
        np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(channel))
        assert volume.grid.difference(read_volumes(_saved(channel, tmp_path))[0].grid) is None
    with pytest.raises(UserError, match="3 channels"):
        read_volume(tmp_path / "a.nii.gz")


def _saved(image, folder):
    sitk.WriteImage(image, str(folder / "b.nii.gz"))
    return folder / "b.nii.gz"


def test_axes_that_are_not_at_right_angles_are_mended(tmp_path):
    affine = np.array([[-0.8, 0.01, 0, 5], [0, -0.8, 0, 6], [0, 0.004, 2.5, 7], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), affine), tmp_path / "a.nii.gz")
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    volume = read_volume(tmp_path / "a.nii.gz")
    assert "right angles" in volume.mended
    write_volume(volume, tmp_path / "b.nii.gz")
    mended = nibabel.Nifti1Image.from_filename(tmp_path / "b.nii.gz").affine
    np.testing.assert_allclose(mended[:3, 3], affine[:3, 3], atol=1e-4)
    np.testing.assert_allclose(mended, affine, atol=0.02)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_orients_as_simpleitk_does(tmp_path, orientation):
    image = sitk.DICOMOrient(_image(), orientation)
    volume = Volume(sitk.GetArrayFromImage(image), read_volume(_saved(image, tmp_path)).grid)
    found = oriented(volume, "LPS")
    np.testing.assert_array_equal(found.array, sitk.GetArrayFromImage(_image()))
    truth = _image()
    np.testing.assert_allclose(found.grid.origin, truth.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(found.grid.direction, truth.GetDirection(), atol=1e-6)
    np.testing.assert_allclose(found.grid.spacing, truth.GetSpacing(), rtol=1e-5)


def test_a_crop_keeps_positions(tmp_path):
    volume = read_volume(_saved(sitk.DICOMOrient(_image(), "RPI"), tmp_path))
    cut = crop(volume, [(2, 6), (1, 100), (0, 3)])
    assert cut.array.shape == (3, 5, 4)
    np.testing.assert_array_equal(cut.array, volume.array[0:3, 1:, 2:6])
    np.testing.assert_allclose(cut.grid.matrix @ [0, 0, 0, 1], volume.grid.matrix @ [2, 1, 0, 1])
    with pytest.raises(UserError, match="crop inside"):
        crop(volume, [(9, 12), (0, 2), (0, 2)])


def test_resampling_reads_the_nearest_voxel(tmp_path):
    label = np.zeros((4, 4, 4), np.uint8)
    label[1, 2, 3] = 5
    fine = Grid((8, 8, 8), (0.5, 0.5, 0.5), (-0.25, -0.25, -0.25), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    coarse = Grid((4, 4, 4), (1, 1, 1), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    np.testing.assert_array_equal(
        resample_label(Volume(label, coarse), fine).array, label.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    )


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"size": (5, 5, 6)}, "voxels"),
        ({"spacing": (1.0, 1.0, 1.1)}, "spacing"),
        ({"origin": (0.0, 0.0, 1.0)}, "origin"),
        ({"direction": (-1, 0, 0, 0, 1, 0, 0, 0, 1)}, "axes"),
    ],
)
def test_grids_are_compared(other, words):
    grid: dict[str, Any] = {"size": (5, 5, 5), "spacing": (1.0, 1.0, 1.0), "origin": (0.0, 0.0, 0.0)}
    grid["direction"] = (1, 0, 0, 0, 1, 0, 0, 0, 1)
    difference = Grid(**grid).difference(Grid(**(grid | other)))
    assert difference is not None
    assert words in difference
    assert Grid(**grid).difference(Grid(**(grid | {"origin": (1e-4, 0, 0), "spacing": (1.0001, 1, 1)}))) is None


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.array([1.0, -1000.0]), np.int16),
        (np.array([1.5, -1000.0]), np.float32),
        (np.array([1.0, 70000.0]), np.float32),
        (np.array([1, 2], np.uint8), np.uint8),
    ],
)
def test_compact_keeps_values(array, dtype):
    assert compact(array.reshape(1, 1, 2)).dtype == dtype
    np.testing.assert_array_equal(compact(array.reshape(1, 1, 2)), array.reshape(1, 1, 2))


def test_dicom_series_are_read_and_gaps_noticed(miniature):
    voxels = miniature.image()
    miniature.dicom("patient/study/series", voxels)
    miniature.dicom("patient/study/scout", voxels[:2])
    volume = read_dicom_series(miniature.root / "patient")
    np.testing.assert_array_equal(volume.array, voxels)
    np.testing.assert_allclose(volume.grid.origin, (-20.0, 10.0, 300.0))
    np.testing.assert_allclose(volume.grid.spacing, (1.5, 1.25, 3.0))
    (miniature.root / "patient/study/series/1-005.dcm").unlink()
    with pytest.raises(UserError, match="slice is probably missing"):
        read_dicom_series(miniature.root / "patient")
    with pytest.raises(UserError, match="does not exist"):
        read_dicom_series(miniature.root / "patient" / "nobody")
