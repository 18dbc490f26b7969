"""Complete files are read; every way to cut or spoil one is noticed."""

from __future__ import annotations

import numpy as np
import pytest

from nnunetv2_ext.images.files import image_ending, label_maps_among
from nnunetv2_ext.images.reading import read_volume, read_volumes
from nnunetv2_ext.utilities.errors import UserError


@pytest.fixture(params=[".nii.gz", ".nii", ".mha", ".nrrd", ".gipl", ".tif", ".png"])
def image_file(request, tmp_path):
    import SimpleITK

    array = np.random.default_rng(0).integers(0, 2000, (6, 7, 8)).astype(np.uint16)
    array = array[:1] if request.param == ".png" else array
    file = tmp_path / f"image{request.param}"
    image = SimpleITK.GetImageFromArray(array[0] if request.param == ".png" else array)
    SimpleITK.WriteImage(image, str(file), request.param != ".tif")
    return file, array


def test_a_truncated_bitmap_is_refused(tmp_path):
    import SimpleITK

    file = tmp_path / "image.bmp"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.full((40, 50), 7, np.uint8)), str(file))
    assert (read_volumes(file)[0].array == 7).all()
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(UserError, match="shorter than its header says"):
        read_volumes(file)


@pytest.mark.parametrize("big", [False, True])
def test_a_stack_whose_pages_run_in_a_circle_is_refused(tmp_path, big):
    import tifffile

    file = tmp_path / "image.tif"
    tifffile.imwrite(file, np.zeros((3, 4, 5), np.uint8), photometric="minisblack", bigtiff=big, metadata=None)
    assert read_volume(file).array.shape == (3, 4, 5)
    with tifffile.TiffFile(file) as tiff:
        first, last = tiff.pages[0].offset, tiff.pages[2]
        wide, count, entry = (8, 8, 20) if big else (4, 2, 12)
        end = last.offset + count + len(last.tags) * entry
    content = bytearray(file.read_bytes())
    content[end : end + wide] = first.to_bytes(wide, "little")
    file.write_bytes(content)
    with pytest.raises(UserError, match="truncated or damaged"):
        read_volume(file)


def test_a_complete_file_is_read(image_file):
    file, array = image_file
    np.testing.assert_array_equal(read_volume(file).array, array)


@pytest.mark.parametrize("fraction", [0, 0.05, 0.5, 0.9])
def test_a_truncated_file_is_refused(image_file, fraction):
    file, _ = image_file
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(UserError, match=f"{file.name}, but it cannot be read, it is truncated or damaged"):
        read_volume(file)


def test_a_spoilt_byte_is_refused(tmp_path):
    import SimpleITK

    file = tmp_path / "image.nii.gz"
    array = np.random.default_rng(0).integers(-1000, 1000, (6, 7, 8)).astype(np.int16)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(file), True)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(UserError, match="truncated or damaged"):
        read_volume(file)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_volume(tmp_path / "image.nii.gz")


def test_nifti_comes_as_nibabel_reads_it(tmp_path):
    import nibabel

    image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.diag([2.0, 3, 4, 1]))
    image.header.set_slope_inter(0.5, -1024)
    for name in ("image.nii", "image.nii.gz", "IMAGE.NII.GZ"):
        nibabel.save(image, tmp_path / name)
        volume = read_volume(tmp_path / name)
        np.testing.assert_array_equal(volume.array.T, np.arange(60).reshape(3, 4, 5) * 0.5 - 1024)
        np.testing.assert_array_equal(volume.grid.header_affine, image.affine)


def test_a_wrong_checksum_behind_the_voxels_is_refused(tmp_path):
    import nibabel

    file = tmp_path / "image.nii.gz"
    voxels = np.random.default_rng(0).integers(0, 255, (80, 90, 100)).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), file)
    content = bytearray(file.read_bytes())
    content[-8] ^= 0xFF  # the trailer of gzip: checksum, then length, four bytes each
    file.write_bytes(content)
    # nibabel alone stops before it
    np.testing.assert_array_equal(nibabel.Nifti1Image.from_filename(file).dataobj, voxels)
    with pytest.raises(UserError, match="CRC check failed"):
        read_volume(file)


def test_endings_of_two_parts_are_taken_whole():
    assert image_ending("a.b.nii.gz") == ".nii.gz"
    assert image_ending("A.NII") == ".nii"
    assert image_ending("a.gz") is None
    assert image_ending("a.seg.nrrd") is None
    assert image_ending("a.seg.nrrd", [".seg.nrrd"]) == ".seg.nrrd"


def test_label_maps_are_told_from_pictures_of_them(tmp_path):
    names = ["a.nii.gz", "a.png", "b.seg.nrrd", "notes.txt", "a.json"]
    assert list(label_maps_among([tmp_path / name for name in names], tmp_path)) == ["a", "b"]
    assert label_maps_among([tmp_path / "x/a.png"], tmp_path) == {"x/a": tmp_path / "x/a.png"}
    with pytest.raises(UserError, match="are called a; rename"):
        label_maps_among([tmp_path / "a.nii.gz", tmp_path / "a.mha"], tmp_path)
