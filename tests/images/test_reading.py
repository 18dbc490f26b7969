"""Reading images: the same voxels and grid as nnU-Net reads, and sentences for what cannot be predicted."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2_ext.images.label_maps import write_label_map
from nnunetv2_ext.images.reading import check_scan, read_scan, scan_of_array, scan_of_image
from nnunetv2_ext.inference.cases import Case, find_cases
from nnunetv2_ext.utilities.errors import UserError

OBLIQUE = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
PERMUTED = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def _read(file, channels=1, admit_2d=False):
    return read_scan(Case("case", (file,)), channels, admit_2d=admit_2d)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("direction", [None, OBLIQUE, PERMUTED], ids=["straight", "oblique", "permuted"])
def test_voxels_spacing_and_grid_are_those_of_nnunets_reader(tmp_path, make_ct, ending, direction):
    file = tmp_path / f"image{ending}"
    SimpleITK.WriteImage(make_ct(direction=direction), str(file))
    scan = _read(file)
    array, properties = SimpleITKIO().read_images([str(file)])
    np.testing.assert_array_equal(scan.channels, array)
    np.testing.assert_allclose(scan.spacing, properties["spacing"], rtol=1e-9)
    np.testing.assert_allclose(scan.grid.origin, properties["sitk_stuff"]["origin"], rtol=1e-9)
    np.testing.assert_allclose(scan.grid.direction, properties["sitk_stuff"]["direction"], atol=1e-9)


def test_nibabels_reader_sees_the_same(tmp_path, make_ct):
    SimpleITK.WriteImage(make_ct(direction=PERMUTED), str(tmp_path / "image.nii.gz"))
    array, properties = NibabelIO().read_images([str(tmp_path / "image.nii.gz")])
    scan = _read(tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(scan.channels, array)
    np.testing.assert_allclose(scan.spacing, properties["spacing"], rtol=1e-6)


def test_rescaled_nifti_gives_intensities(tmp_path):
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    image.header.set_slope_inter(0.5, -1024)
    nibabel.save(image, tmp_path / "image.nii")
    array, _ = SimpleITKIO().read_images([str(tmp_path / "image.nii")])
    np.testing.assert_allclose(_read(tmp_path / "image.nii").channels, array, rtol=1e-6)


def test_a_sheared_nifti_that_itk_refuses_is_read(tmp_path):
    affine = np.array([[1, 0.02, 0, 5], [0, 1, 0, 6], [0, 0, 2.0, 7], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.float32), affine)
    image.set_qform(None, code=0)
    nibabel.save(image, tmp_path / "image.nii.gz")
    with pytest.raises(RuntimeError, match="orthonormal"):
        SimpleITK.ReadImage(str(tmp_path / "image.nii.gz"))
    scan = _read(tmp_path / "image.nii.gz")
    assert scan.channels.shape == (1, 5, 4, 3)
    np.testing.assert_allclose(scan.spacing, (2, 1, 1), rtol=1e-3)
    direction = np.reshape(scan.grid.direction, (3, 3))
    np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-9)
    np.testing.assert_array_equal(scan.grid.nifti_header.get_best_affine(), image.header.get_best_affine())


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.97])
def test_truncated_and_empty_files_are_refused(tmp_path, make_ct, ending, share):
    file = tmp_path / f"image{ending}"
    SimpleITK.WriteImage(make_ct(), str(file))
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=f"Expected a complete image in .*image{ending}"):
        _read(file)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_are_counted_and_refused(tmp_path, value):
    array = np.zeros((4, 5, 6), np.float32)
    array[1, 2, 3:5] = value
    with pytest.raises(UserError, match="2 voxels that are NaN or infinite"):
        check_scan(scan_of_array(array, (1, 1, 1)), 1, admit_2d=False)


def test_large_finite_values_are_no_overflow():
    array = np.full((4, 5, 6), 3e38, np.float32)
    check_scan(scan_of_array(array, (1, 1, 1)), 1, admit_2d=False)


def test_wrong_numbers_of_channels_are_refused(tmp_path, make_ct):
    SimpleITK.WriteImage(make_ct(), str(tmp_path / "a_0000.nii.gz"))
    SimpleITK.WriteImage(make_ct(), str(tmp_path / "a_0001.nii.gz"))
    case = find_cases(tmp_path, 2, ".nii.gz")[0]
    with pytest.raises(UserError, match="Expected 1 channel per case, but a has 2"):
        read_scan(case, 1, admit_2d=False)
    with pytest.raises(UserError, match="Expected 3 channels per case, but a has 2"):
        read_scan(case, 3, admit_2d=False)


def test_channels_on_other_grids_are_refused(tmp_path, make_ct):
    SimpleITK.WriteImage(make_ct(), str(tmp_path / "a_0000.nii.gz"))
    SimpleITK.WriteImage(make_ct(spacing=(1.5, 1.6, 2.6)), str(tmp_path / "a_0001.nii.gz"))
    with pytest.raises(UserError, match="on one grid"):
        read_scan(find_cases(tmp_path, 2, ".nii.gz")[0], 2, admit_2d=False)


def test_a_2d_image_is_refused_by_3d_models_and_read_as_nnunet_does_by_2d_models(tmp_path, make_ct):
    SimpleITK.WriteImage(make_ct()[:, :, 3], str(tmp_path / "image.nii.gz"))
    with pytest.raises(UserError, match="Expected a 3D image"):
        _read(tmp_path / "image.nii.gz")
    scan = _read(tmp_path / "image.nii.gz", admit_2d=True)
    array, properties = SimpleITKIO().read_images([str(tmp_path / "image.nii.gz")])
    np.testing.assert_array_equal(scan.channels, array)
    np.testing.assert_allclose(scan.spacing, properties["spacing"], rtol=1e-6)


def test_a_4d_image_is_refused_unless_its_fourth_axis_holds_the_channels(tmp_path):
    array = np.random.default_rng(0).normal(size=(2, 4, 5, 6)).astype(np.float32)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array, isVector=False), str(tmp_path / "image.nii.gz"))
    with pytest.raises(UserError, match="Expected 1 channel per case, but case has 2"):
        _read(tmp_path / "image.nii.gz")
    stock, _ = SimpleITKIO().read_images([str(tmp_path / "image.nii.gz")])
    scan = _read(tmp_path / "image.nii.gz", channels=2)
    np.testing.assert_array_equal(scan.channels, stock)
    assert scan.grid.dimension == 3
    nibabel.save(nibabel.Nifti1Image(array[0].T[..., None], np.eye(4)), tmp_path / "single.nii.gz")
    np.testing.assert_array_equal(_read(tmp_path / "single.nii.gz").channels, array[:1])


def test_components_are_channels():
    array = np.random.default_rng(0).normal(size=(4, 5, 6, 2)).astype(np.float32)
    scan = scan_of_image(SimpleITK.GetImageFromArray(array, isVector=True))
    np.testing.assert_array_equal(scan.channels, np.moveaxis(array, -1, 0))


def test_a_dicom_series_is_one_case_with_the_volume_in_hu(tmp_path, make_ct):
    image = make_ct(size=(10, 12, 6), spacing=(0.9, 0.9, 3.0))
    _write_dicom(image, tmp_path / "study")
    (tmp_path / "study" / "notes.txt").write_text("not DICOM")
    cases = find_cases(tmp_path / "study", 1, ".nii.gz")
    assert [(case.identifier, len(case.files), case.dicom) for case in cases] == [("001_20200102", 6, True)]
    scan = read_scan(cases[0], 1, admit_2d=False)
    np.testing.assert_array_equal(scan.channels[0], SimpleITK.GetArrayFromImage(image))
    np.testing.assert_allclose(scan.grid.spacing, image.GetSpacing(), atol=1e-4)
    np.testing.assert_allclose(scan.grid.origin, image.GetOrigin(), atol=1e-4)
    assert [len(case.files) for case in find_cases(tmp_path, 1, ".nii.gz")] == [6]


def test_a_dicom_series_with_a_missing_slice_is_refused(tmp_path, make_ct):
    _write_dicom(make_ct(size=(10, 12, 8), spacing=(0.9, 0.9, 3.0)), tmp_path / "study")
    (tmp_path / "study" / "3.dcm").unlink()
    with pytest.raises(UserError, match="equal distances"):
        read_scan(find_cases(tmp_path / "study", 1, ".nii.gz")[0], 1, admit_2d=False)


@settings(max_examples=20, deadline=None)
@given(
    size=st.tuples(*[st.integers(1, 7)] * 3),
    spacing=st.tuples(*[st.floats(0.1, 9)] * 3),
    seed=st.integers(0, 99),
)
def test_an_array_and_its_image_are_the_same_scan(size, spacing, seed):
    array = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    from_array, from_image = scan_of_array(array, spacing), scan_of_image(image)
    np.testing.assert_array_equal(from_array.channels, from_image.channels)
    assert from_array.grid == from_image.grid
    np.testing.assert_allclose(from_array.spacing, from_image.spacing)


@pytest.mark.parametrize(("shape", "spacing"), [((4, 5), (1, 1)), ((4, 5, 6), (1, 1)), ((4, 5, 6), (1, 0, 1))])
def test_arrays_without_three_axes_or_spacings_are_refused(shape, spacing):
    with pytest.raises(UserError, match="three positive spacings"):
        scan_of_array(np.zeros(shape), spacing)


def _write_dicom(image, folder):
    """One CT series, slice by slice, as SimpleITK's documentation writes it."""
    folder.mkdir()
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    x, y, _ = np.reshape(image.GetDirection(), (3, 3)).T
    for number in range(image.GetDepth()):
        plane = image[:, :, number]
        tags = {
            "0008|0020": "20200102",
            "0008|0060": "CT",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"1.2.3.4.5.{number + 1}",
            "0020|000d": "1.2.3.4",
            "0020|000e": "1.2.3.4.5",
            "0020|0013": str(number),
            "0020|0032": "\\".join(map(str, image.TransformIndexToPhysicalPoint((0, 0, number)))),
            "0020|0037": "\\".join(map(str, (*x, *y))),
        }
        for tag, value in tags.items():
            plane.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{number}.dcm"))
        writer.Execute(plane)


@pytest.mark.parametrize("has_spacing", [True, False])
def test_tiff_stacks_are_read_and_written_as_nnunets_reader_does(tmp_path, has_spacing):
    import tifffile
    from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

    array = np.random.default_rng(0).integers(0, 200, (4, 5, 6)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a_0000.tif", array, photometric="minisblack")
    if has_spacing:
        (tmp_path / "a.json").write_text('{"spacing": [3.0, 2.0, 1.5]}')
    case = find_cases(tmp_path, 1, ".tif")[0]
    scan = read_scan(case, 1, admit_2d=False)
    expected, properties = Tiff3DIO().read_images([str(tmp_path / "a_0000.tif")])
    np.testing.assert_array_equal(scan.channels, expected)
    assert scan.spacing == tuple(properties["spacing"])
    write_label_map(array % 3, {1: "x", 2: "y"}, scan.grid, tmp_path / "map.tif")
    labels, properties = Tiff3DIO().read_seg(str(tmp_path / "map.tif"))
    np.testing.assert_array_equal(labels[0], array % 3)
    assert tuple(properties["spacing"]) == scan.spacing


def test_natural_images_are_read_as_nnunets_reader_does(tmp_path):
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO

    colours = np.random.default_rng(0).integers(0, 255, (5, 6, 3)).astype(np.uint8)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(colours, isVector=True), str(tmp_path / "a_0000.png"))
    scan = read_scan(find_cases(tmp_path, 3, ".png")[0], 3, admit_2d=True)
    expected, properties = NaturalImage2DIO().read_images([str(tmp_path / "a_0000.png")])
    np.testing.assert_array_equal(scan.channels, expected)
    assert scan.spacing == tuple(properties["spacing"])
