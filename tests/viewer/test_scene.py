from __future__ import annotations

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.viewer.scene import read_scene

ORIENTATIONS = ["".join(letters) for axes in permutations(("RL", "AP", "SI")) for letters in product(*axes)]


def _write(path, array, affine):
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def _case(folder, affine=None, shape=(7, 9, 11)):
    rng = np.random.default_rng(0)
    affine = np.diag([2.0, 3.0, 4.0, 1.0]) if affine is None else affine
    labels = np.zeros(shape, np.uint8)
    labels[1:3, 2:5, 3:9] = 1
    labels[4, 4, 4:6] = 3
    image = rng.integers(-1000, 1000, shape).astype(np.int16)
    return _write(folder / "ct.nii.gz", image, affine), _write(folder / "map.nii.gz", labels, affine)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_orientation_of_the_file_gives_one_picture(tmp_path, orientation):
    image, labels = _case(tmp_path)
    expected = read_scene(image, [labels])
    turned = []
    for file in (image, labels):
        source = nib.Nifti1Image.from_filename(file)
        ornt = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(orientation)
        )
        other = source.as_reoriented(ornt)
        turned.append(_write(tmp_path / f"turned_{file.name}", np.asarray(other.dataobj), other.affine))
    found = read_scene(turned[0], turned[1:])
    np.testing.assert_array_equal(found.image, expected.image)
    np.testing.assert_array_equal(found.maps["turned_map.nii.gz"], expected.maps["map.nii.gz"])
    for name in ("to_patient", "spacing", "classes"):
        assert found.description[name] == expected.description[name]
    # What the page says of a voxel is what lies there in the file.
    voxels = np.asarray(nib.Nifti1Image.from_filename(turned[0]).dataobj)
    for at in [(0, 0, 0), (10, 8, 6), (3, 2, 5)]:
        x, y, z = np.rint(np.array(found.description["to_file"]) @ (at[2], at[1], at[0], 1)).astype(int)
        assert voxels[x, y, z] == found.image[at]


def test_the_picture_is_as_radiologists_expect(real_ct):
    labels = real_ct / "totalsegmentator_v2_labels.nii.gz"
    scene = read_scene(real_ct / "ct.nii.gz", [labels], "totalsegmentator_v2")
    (maps,) = scene.maps.values()
    order = LabelOrder.read("totalsegmentator_v2")
    centre = {
        name: np.argwhere(maps == order.value(name)).mean(0)
        for name in ("liver", "spleen", "vertebrae_L1", "kidney_left", "kidney_right", "aorta", "heart")
        if (maps == order.value(name)).any()
    }
    # z from head to feet, y from front to back, x from the patient's right to the left.
    assert centre["liver"][2] < centre["aorta"][2] < centre["spleen"][2]
    assert centre["kidney_right"][2] < centre["kidney_left"][2]
    assert centre["liver"][1] < centre["vertebrae_L1"][1]
    assert centre["liver"][0] < centre["vertebrae_L1"][0]


def test_classes_have_names_volumes_and_a_place(tmp_path):
    image, labels = _case(tmp_path)
    (tmp_path / "labels.json").write_text('{"labels": {"background": 0, "liver": 1}, "channel_names": {"0": "CT"}}')
    scene = read_scene(image, [labels])
    liver, other = scene.description["classes"]
    assert (liver["name"], other["name"]) == ("liver", "3")
    assert liver["ml"] == [pytest.approx(2 * 3 * 6 * 24 / 1000)]
    assert other["ml"] == [pytest.approx(2 * 24 / 1000)]
    (maps,) = scene.maps.values()
    assert [maps[tuple(each["at"])] for each in (liver, other)] == [1, 3]


def test_oblique_scans_are_resampled_along_the_patient(tmp_path):
    angle = np.radians(20)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation * (1.0, 1.0, 2.0)
    grid = np.stack(np.meshgrid(*[np.arange(size) for size in (40, 44, 24)], indexing="ij"), -1)
    inside = np.linalg.norm((grid - (20, 18, 12)) * (1, 1, 2), axis=-1) < 12
    image = _write(tmp_path / "ct.nii.gz", inside.astype(np.int16) * 100, affine)
    labels = _write(tmp_path / "map.nii.gz", inside.astype(np.uint8), affine)
    scene = read_scene(image, [labels])
    assert "oblique" in scene.notes[0]
    (sphere,) = scene.description["classes"]
    assert sphere["ml"][0] == pytest.approx(inside.sum() * 2 / 1000, rel=0.02)
    (maps,) = scene.maps.values()
    # Its centre lies where the file's affine puts it.
    z, y, x = np.argwhere(maps == 1).mean(0)
    found = np.array(scene.description["to_patient"]) @ (x, y, z, 1)
    np.testing.assert_allclose(found, (affine @ (20, 18, 12, 1))[:3], atol=0.3)
    voxel = np.array(scene.description["to_file"]) @ (x, y, z, 1)
    np.testing.assert_allclose(voxel, (20, 18, 12), atol=0.3)


def test_large_scans_are_thinned_with_a_note(tmp_path):
    image, labels = _case(tmp_path)
    scene, whole = read_scene(image, [labels], voxels=100), read_scene(image, [labels])
    assert scene.notes == ("Every second voxel of each axis is shown, to keep the file small.",)
    np.testing.assert_array_equal(scene.image, whole.image[::2, ::2, ::2])
    at = (2, 1, 3)
    voxel = np.array(scene.description["to_file"]) @ (at[2], at[1], at[0], 1)
    same = np.array(whole.description["to_file"]) @ (2 * at[2], 2 * at[1], 2 * at[0], 1)
    np.testing.assert_allclose(voxel, same)
    np.testing.assert_allclose(scene.description["spacing"], (8, 6, 4))


def test_fractions_are_kept_to_a_part_of_65535(tmp_path):
    values = np.random.default_rng(0).normal(0, 1e-3, (4, 5, 6)).astype(np.float32)
    scene = read_scene(_write(tmp_path / "map.nii.gz", values, np.diag([-1.0, -1.0, 1.0, 1.0])), [])
    shown = scene.image * scene.description["slope"] + scene.description["intercept"]
    step = (values.max() - values.min()) / 65535
    np.testing.assert_allclose(shown, values.transpose()[::-1], atol=step)


def _other_grid(folder, image, labels):
    return image, [_write(folder / "other.nii.gz", np.zeros((7, 9, 11), np.uint8), np.eye(4))]


def _two_dimensions(folder, image, labels):
    return _write(folder / "flat.nii.gz", np.zeros((7, 9), np.int16), np.eye(4)), []


def _negative(folder, image, labels):
    return image, [
        _write(folder / "odd.nii.gz", np.full((7, 9, 11), -1, np.int16), nib.Nifti1Image.from_filename(image).affine)
    ]


def _three(folder, image, labels):
    return image, [labels] * 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_other_grid, "on the grid of"),
        (_two_dimensions, "but .* is 2D"),
        (_negative, "label values from 0 to 65535"),
        (_three, "at most 2 label maps"),
    ],
)
def test_what_cannot_be_shown_is_told(tmp_path, make, message):
    image, labels = make(tmp_path, *_case(tmp_path))
    with pytest.raises(UserError, match=message):
        read_scene(image, labels)
