"""LCTSC: DICOM with contours."""

from nnunetv2_ext.labels import LabelOrder


def test_converts_the_published_layout(miniature, assert_converts):
    order = LabelOrder.read("lctsc")
    rois = {"spinal_cord": "SpinalCord", "lung_right": "Lung_R", "lung_left": "Lung_L", "heart": "Heart"}
    for patient in ("LCTSC-Train-S1-001", "LCTSC-Test-S1-101"):
        label = miniature.label(order)
        miniature.dicom(f"LCTSC/{patient}/study/1-CT", miniature.image())
        contours = {
            rois.get(name, "Esophagus"): miniature.contours_of(label == value) for name, value in order.labels.items()
        }
        miniature.rtstruct(f"LCTSC/{patient}/study/2-RTSTRUCT/1-1.dcm", contours)
    assert_converts("lctsc", training=1, test=1)
