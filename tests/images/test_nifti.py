"""NIfTI label maps: the header of the image, bit by bit, and a label table that other programs read."""

from __future__ import annotations

import gzip
from xml.dom import minidom

import nibabel
import numpy as np
import pytest

from nnunetv2_ext.images.label_maps import write_label_map
from nnunetv2_ext.images.names import read_header_names
from nnunetv2_ext.images.reading import read_scan, scan_of_array
from nnunetv2_ext.inference.cases import Case

NAMES = {1: "liver", 2: "A/tumour <&>", 7: "Dünndarm"}
QUATERNION = ["qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"]
GEOMETRY = [*QUATERNION, "pixdim", "sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"]


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("codes", [(1, 0), (0, 2), (1, 4), (0, 0)])
def test_both_transforms_and_their_codes_are_copied(tmp_path, kind, codes):
    turn = np.array([[-1.5, 0, 0, 9], [0, 0, -2.5, 8], [0, 1.25, 0, 7], [0, 0, 0, 1.0]])
    image = kind(np.zeros((4, 5, 6), np.int16), turn)
    image.set_qform(turn, code=codes[0])
    # Another place than the quaternion's: a program that merges both would be found out.
    image.set_sform(turn + np.array([[0, 0, 0, 100]] * 3 + [[0] * 4]), code=codes[1])
    image.header.set_slope_inter(2, -1000)
    nibabel.save(image, tmp_path / "ct.nii.gz")
    scan = read_scan(Case("ct", (tmp_path / "ct.nii.gz",)), 1, admit_2d=False)
    labels = np.arange(120).reshape(6, 5, 4) % 8
    write_label_map(labels, NAMES, scan.grid, tmp_path / "map.nii.gz")
    before, after = (kind.from_filename(tmp_path / f"{name}.nii.gz") for name in ("ct", "map"))
    assert type(nibabel.load(tmp_path / "map.nii.gz")) is kind
    for name in GEOMETRY:
        np.testing.assert_array_equal(after.header[name], before.header[name], err_msg=name)
    np.testing.assert_array_equal(after.affine, before.affine)
    np.testing.assert_array_equal(np.asarray(after.dataobj), labels.T)


def test_the_label_table_is_what_totalsegmentators_reader_looks_for(tmp_path):
    labels = np.zeros((3, 4, 5), int)
    write_label_map(labels, NAMES, scan_of_array(labels, (1, 1, 1)).grid, tmp_path / "map.nii.gz")
    image = nibabel.Nifti1Image.from_filename(tmp_path / "map.nii.gz")
    # As its load_multilabel_nifti does, with another XML parser than the one that wrote it.
    extension = image.header.extensions[0]
    document = minidom.parseString(extension.get_content().rstrip(b"\0"))
    table = document.getElementsByTagName("CaretExtension")[0].getElementsByTagName("VolumeInformation")[0]
    found = table.getElementsByTagName("LabelTable")[0].getElementsByTagName("Label")
    names = {int(label.getAttribute("Key")): label.childNodes[0].nodeValue for label in found}
    assert names == NAMES
    assert all(0 <= float(label.getAttribute(part)) <= 1 for label in found for part in ("Red", "Green", "Blue"))
    first, second = image.header.extensions
    assert (first.get_code(), second.get_code()) == (0, 30)
    assert first.content.rstrip(b"\0") == second.content.rstrip(b"\0")
    assert read_header_names(tmp_path / "map.nii.gz") == {name: value for value, name in NAMES.items()}


def test_extensions_of_the_image_do_not_travel(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, b"patient's name"))
    for field in ("descrip", "db_name", "aux_file"):
        image.header[field] = b"patient's name"
    nibabel.save(image, tmp_path / "ct.nii.gz")
    scan = read_scan(Case("ct", (tmp_path / "ct.nii.gz",)), 1, admit_2d=False)
    write_label_map(np.zeros((5, 4, 3), int), NAMES, scan.grid, tmp_path / "map.nii.gz")
    header = nibabel.Nifti1Image.from_filename(tmp_path / "map.nii.gz").header
    contents = [extension.content for extension in header.extensions]
    assert len(contents) == 2
    assert b"patient" not in gzip.decompress((tmp_path / "map.nii.gz").read_bytes())
