"""LCTSC: DICOM with contours."""

import pydicom
import pytest
from pydicom.dataset import Dataset

from nnunetv2_ext.cli.convert_dataset import main
from nnunetv2_ext.labels import LabelOrder

PATIENTS = ("LCTSC-Train-S1-001", "LCTSC-Train-S1-002")


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


@pytest.fixture
def patients(miniature):
    """Two patients with their contours."""
    order = LabelOrder.read("lctsc")
    names = dict(zip(order.labels, ("SpinalCord", "Lung_R", "Lung_L", "Heart", "Esophagus"), strict=True))
    contours = {names[name]: miniature.contours_of(miniature.label(order) == order.value(name)) for name in names}
    for patient in PATIENTS:
        miniature.dicom(f"LCTSC/{patient}/study/1-CT", miniature.image())
        miniature.rtstruct(f"LCTSC/{patient}/study/2-RTSTRUCT/1-1.dcm", contours)
    return miniature


def _refer(structures, images):
    """Makes an RTSTRUCT refer to the series of an image folder."""
    content, series, study, frame = pydicom.dcmread(structures), Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = pydicom.dcmread(next(images.glob("*.dcm"))).SeriesInstanceUID if images else "1.2.3"
    study.RTReferencedSeriesSequence = [series]
    frame.RTReferencedStudySequence = [study]
    content.ReferencedFrameOfReferenceSequence = [frame]
    content.save_as(structures)


def _convert(miniature, nnunet_folders, capsys):
    code = main(["lctsc", "-i", str(miniature.root), "-d", "7", "-np", "1"])
    folder = nnunet_folders / "nnUNet_raw" / "Dataset007_LCTSC" / "labelsTr"
    return code, capsys.readouterr().out, sorted(file.name for file in folder.glob("*"))


def test_of_two_structure_sets_the_one_counts_that_refers_to_the_series(patients, nnunet_folders, capsys):
    first = patients.root / "LCTSC" / PATIENTS[0] / "study"
    patients.rtstruct(f"LCTSC/{PATIENTS[0]}/study/3-RTSTRUCT/1-1.dcm", {"Nothing": []})
    _refer(first / "2-RTSTRUCT" / "1-1.dcm", first / "1-CT")
    _refer(first / "3-RTSTRUCT" / "1-1.dcm", None)
    code, _, labels = _convert(patients, nnunet_folders, capsys)
    assert (code, labels) == (0, [f"{patient}.nii.gz" for patient in PATIENTS])


def test_a_patient_with_two_fitting_structure_sets_or_a_damaged_one_is_refused_alone(patients, nnunet_folders, capsys):
    study = patients.root / "LCTSC" / PATIENTS[0] / "study"
    patients.rtstruct(f"LCTSC/{PATIENTS[0]}/study/3-RTSTRUCT/1-1.dcm", {"Nothing": []})
    for number in (2, 3):
        _refer(study / f"{number}-RTSTRUCT" / "1-1.dcm", study / "1-CT")
    code, output, labels = _convert(patients, nnunet_folders, capsys)
    assert (code, labels) == (1, [f"{PATIENTS[1]}.nii.gz"])
    assert f"{PATIENTS[0]}: Expected one RTSTRUCT of the image series" in output
    (study / "3-RTSTRUCT" / "1-1.dcm").write_bytes(b"\0" * 300)
    code, output, labels = _convert(patients, nnunet_folders, capsys)
    assert (code, labels) == (1, [f"{PATIENTS[1]}.nii.gz"])
    assert "is damaged" in output
