import gzip
import os
import struct

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_ext.images.names import read_header_names
from nnunetv2_ext.labels import LabelOrder
from nnunetv2_ext.utilities.errors import UserError

TABLE = (
    '<?xml version="1.0" encoding="UTF-8"?><CaretExtension><VolumeInformation Index="0"><LabelTable>'
    '<Label Key="0" Red="0" Green="0" Blue="0" Alpha="0">background</Label>'
    '<Label Key="1" Red="1" Green="0" Blue="0" Alpha="1">liver</Label>'
    '<Label Key="5" Red="0" Green="1" Blue="0" Alpha="1">kidney_left</Label>'
    "</LabelTable></VolumeInformation></CaretExtension>"
)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_reads_a_nifti_header_extension(tmp_path, ending):
    image = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.uint8), np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"something else first"))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, TABLE.encode()))
    nibabel.save(image, tmp_path / f"case{ending}")
    assert LabelOrder.read(tmp_path / f"case{ending}").labels == {"liver": 1, "kidney_left": 5}


def test_reads_a_slicer_segmentation(tmp_path):
    image = sitk.GetImageFromArray(np.zeros((2, 3, 4), np.uint8))
    for segment, (name, value) in enumerate([("liver", 1), ("kidney_left", 5)]):
        image.SetMetaData(f"Segment{segment}_Name", name)
        image.SetMetaData(f"Segment{segment}_LabelValue", str(value))
    sitk.WriteImage(image, str(tmp_path / "case.seg.nrrd"), useCompression=True)
    assert LabelOrder.read(tmp_path / "case.seg.nrrd").labels == {"liver": 1, "kidney_left": 5}


def test_says_so_when_there_are_no_names(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4), np.uint8)), str(tmp_path / "case.nii.gz"))
    with pytest.raises(UserError, match="holds none"):
        LabelOrder.read(tmp_path / "case.nii.gz")


def test_says_so_when_the_file_is_damaged(tmp_path):
    (tmp_path / "case.nii.gz").write_bytes(gzip.compress(b"no image at all"))
    with pytest.raises(UserError, match="damaged"):
        LabelOrder.read(tmp_path / "case.nii.gz")
    (tmp_path / "case.nii.gz").write_bytes(gzip.compress(bytes(400))[:30])
    with pytest.raises(UserError, match="damaged"):
        LabelOrder.read(tmp_path / "case.nii.gz")


@pytest.mark.parametrize("ending", [".nii.gz", ".seg.nrrd"])
def test_reads_what_predictions_carry(tmp_path, ending):
    from nnunetv2_ext.images.geometry import Grid
    from nnunetv2_ext.images.label_maps import write_label_map

    grid = Grid((4, 3, 2), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1, 0, 0, 0, 1))
    labels = np.zeros((2, 3, 4), np.uint8)
    labels[0, 0, :2] = 1, 5
    write_label_map(labels, {1: "liver", 5: "kidney_left"}, grid, tmp_path / f"case{ending}")
    assert LabelOrder.read(tmp_path / f"case{ending}").labels == {"liver": 1, "kidney_left": 5}


def test_other_files_have_no_header_to_read(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4), np.uint8)), str(tmp_path / "case.mha"))
    with pytest.raises(UserError, match=r"^Expected a label map \(\.nii\.gz or \.seg\.nrrd\) with names in its header"):
        read_header_names(tmp_path / "case.mha")


def test_a_file_that_is_nrrd_by_name_only_is_refused(tmp_path):
    (tmp_path / "case.seg.nrrd").write_bytes(b"something else\n")
    with pytest.raises(UserError, match=r"damaged \(it is not NRRD\)"):
        LabelOrder.read(tmp_path / "case.seg.nrrd")


@pytest.mark.parametrize("ending", [".nii.gz", ".seg.nrrd"])
def test_a_pipe_has_no_header_to_read(tmp_path, ending):
    os.mkfifo(tmp_path / f"case{ending}")
    with pytest.raises(UserError, match="no regular file"):
        read_header_names(tmp_path / f"case{ending}")


def test_an_extension_that_claims_to_be_endless_is_read_no_further_than_the_voxels(tmp_path):
    content = bytearray(nibabel.Nifti1Image(np.zeros((2, 3, 4), np.uint8), np.eye(4)).to_bytes())
    content[348:360] = b"\1\0\0\0" + struct.pack("<ii", -8, 0)
    content[108:112] = struct.pack("<f", 1e30)
    with gzip.open(tmp_path / "case.nii.gz", "wb", compresslevel=1) as file:
        file.write(content + bytes(1 << 26))
    with pytest.raises(UserError, match="too short"):
        read_header_names(tmp_path / "case.nii.gz")
