from __future__ import annotations

import numpy as np
import pytest

from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.labels.left_right import left_right_axis, mirrored_name, mirrored_values
from nnunetv2_ext.resources import list_resources
from nnunetv2_ext.utilities.errors import UserError


@pytest.mark.parametrize("name", list_resources("label_orders"))
def test_names_tell_the_pairs_of_all_label_orders(name):
    order = LabelOrder.read(name)
    for left, right in order.left_right_pairs:
        assert (mirrored_name(left), mirrored_name(right)) == (right, left)


def test_only_words_are_sides():
    assert mirrored_name("Right lung, upper") == "Left lung, upper"
    assert mirrored_name("cleft_palate") == "cleft_palate"
    assert mirrored_name("right-atrium left") == "left-atrium right"


def test_values_of_pairs_change_places():
    labels = {"background": 0, "liver": 1, "kidney_right": 2, "kidney_left": 4, "spleen": 3, "ignore": 5}
    assert mirrored_values({"labels": labels}).tolist() == [0, 1, 4, 3, 2, 5]


def test_values_of_overlapping_classes_keep_what_they_mean():
    labels = {"background": 0, "lung_left": [1, 2], "lung_right": [3, 4], "tumour": [2, 4]}
    table = mirrored_values({"labels": labels, "regions_class_order": [1, 3, 2]})
    assert table.tolist() == [0, 3, 4, 1, 2]
    labels = {"background": 0, "lung_left": [1, 2], "lung_right": [3, 3], "tumour": [2, 2]}
    with pytest.raises(UserError, match="expects a label value of lung_right, tumour as there is one of lung_left"):
        mirrored_values({"labels": labels, "regions_class_order": [1, 3, 2]})


def test_what_cannot_be_mirrored_is_refused():
    with pytest.raises(UserError, match="expects classes that differ by left and right"):
        mirrored_values({"labels": {"background": 0, "liver": 1}})
    paired = {"background": 0, "lung_left": 1, "lung_right": 2}
    with pytest.raises(UserError, match="expects kidney_right beside kidney_left"):
        mirrored_values({"labels": {**paired, "kidney_left": 3}})
    # There is none on the left.
    alone = {**paired, "lung_middle_lobe_right": 3}
    assert mirrored_values({"labels": alone}).tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ASR", "SRA", "PIL", "IAR"])
def test_the_axis_is_that_of_nibabels_codes(codes):
    import nibabel as nib

    straight, turned = (nib.orientations.axcodes2ornt(each) for each in ("RAS", codes))
    image = nib.Nifti1Image(np.zeros((2, 3, 4), np.uint8), np.diag([0.5, 0.7, 3.0, 1.0]))
    affine = image.as_reoriented(nib.orientations.ornt_transform(straight, turned)).affine
    assert nib.aff2axcodes(affine) == tuple(codes)
    # nnU-Net's arrays are (z, y, x).
    expected = 2 - next(axis for axis, code in enumerate(codes) if code in "LR")
    assert left_right_axis({"nibabel_stuff": {"original_affine": affine}}) == expected
    direction = np.diag([-1, -1, 1]) @ (affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    assert left_right_axis({"sitk_stuff": {"direction": tuple(direction.ravel())}}) == expected


def test_images_without_geometry_do_not_tell():
    assert left_right_axis({"spacing": [999, 1, 1]}) is None
    assert left_right_axis({"sitk_stuff": {"direction": (1.0, 0.0, 0.0, 1.0)}}) is None
