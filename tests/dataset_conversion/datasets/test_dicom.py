"""Any folder of DICOM series with annotations."""

from __future__ import annotations

import json

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from fixtures.dicom_folders import SECRETS, oblique_grid

from nnunetv2_ext.cli.convert_dataset import main
from nnunetv2_ext.images.geometry import Grid

GRID = oblique_grid((30, 28, 20), (1.2, 1.3, 1.5))


def _noise(grid=GRID, seed=0):
    return np.random.default_rng(seed).integers(-1000, 1000, grid.size[::-1])


def _bodies(grid=GRID):
    """A ball, and a ring that it overlaps: masks (z, y, x)."""
    z, y, x = np.indices(grid.size[::-1])
    x, y, z = (a * b - c for a, b, c in zip((x, y, z), grid.spacing, (17.4, 18.1, 14.8), strict=True))
    return {
        "ball": (x - 6) ** 2 + y**2 + z**2 < 9**2,
        "ring": (np.hypot(x, y) - 10) ** 2 + z**2 < 4**2,
    }


def _contours(mask, grid):
    """Contours of a mask half-way between its voxels and the others, in mm."""
    from skimage.measure import find_contours

    found = []
    for z, plane in enumerate(mask):
        for contour in find_contours(np.pad(plane, 1).astype(float), 0.5):
            rows, columns = contour[:-1].T - 1
            index = np.stack([columns, rows, np.full_like(rows, z), np.ones_like(rows)])
            found.append((grid.matrix @ index)[:3].T)
    return found


@pytest.fixture
def convert_dicom(dicom_folder, nnunet_folders, capfd):
    """Runs the command; returns its exit code, all that it said and wrote as text, and the dataset's folder."""

    def run(*arguments, number=7):
        line = ["dicom", "-i", str(dicom_folder.root), "-d", str(number), "-np", "1", *arguments]
        code = main(line)
        folder = nnunet_folders / "nnUNet_raw" / f"Dataset{number:03d}_Dicom"
        said = "".join([*capfd.readouterr(), *(file.read_text("utf-8") for file in folder.glob("*.json"))])
        return code, said, folder

    return run


def _read(file):
    image = sitk.ReadImage(str(file))
    return sitk.GetArrayFromImage(image), Grid.of(image)


def _classes(folder, case):
    """Class -> mask of a case, as dataset.json says."""
    array, grid = _read(folder / "labelsTr" / f"{case}.nii.gz")
    labels = json.loads((folder / "dataset.json").read_text())["labels"]
    return {name: np.isin(array, values) for name, values in labels.items() if name != "background"}, grid


def test_series_with_segmentations_and_contours(dicom_folder, convert_dicom):
    masks = _bodies()
    assert (masks["ball"] & masks["ring"]).any()
    for number, kind in enumerate(("BINARY", "FRACTIONAL"), start=1):
        slices = dicom_folder.series(f"all/{number}/ct", _noise(seed=number), GRID, patient=f"P{number}")
        dicom_folder.seg(f"all/annotations/{number}", slices, {"Ball": masks["ball"], "RING": masks["ring"]}, kind)
    slices = dicom_folder.series("all/3/ct", _noise(seed=3), GRID, patient="P3")
    dicom_folder.seg("all/3/one", slices, {"ball": masks["ball"]}, "LABELMAP")
    dicom_folder.seg("all/3/other", slices, {"ring": masks["ring"], "table": ~masks["ring"]}, "LABELMAP")
    slices = dicom_folder.series("all/4/ct", _noise(seed=4), GRID, patient="P4")
    dicom_folder.rtstruct("all/4/rt", slices, {name: _contours(mask, GRID) for name, mask in masks.items()})
    dicom_folder.series("all/4/second", _noise(seed=5), GRID, patient="P4")
    code, said, folder = convert_dicom("--classes", "ball", "ring")
    assert code == 0, said
    content = json.loads((folder / "dataset.json").read_text())
    assert (content["numTraining"], content["channel_names"]) == (4, {"0": "CT"})
    assert content["labels"] == {"background": 0, "ball": [1, 3], "ring": [2, 3]}
    for number in (1, 2, 3, 4):
        case = f"P{number}_20200102_ct"
        found, grid = _classes(folder, case)
        assert GRID.difference(grid) is None
        for name, mask in masks.items():
            np.testing.assert_array_equal(found[name], mask, err_msg=f"{case} {name}")
        image, _ = _read(folder / "imagesTr" / f"{case}_0000.nii.gz")
        np.testing.assert_array_equal(image, _noise(seed=number))
    headers = "".join(str(sitk.ReadImage(str(file)).GetMetaDataKeys()) + file.name for file in folder.rglob("*.nii.gz"))
    assert not [secret for secret in (*SECRETS.values(), "Muster") if secret in said + headers]


def test_the_commands_of_the_documentation_run(dicom_folder, code_in, nnunet_folders, verify_integrity):
    slices = dicom_folder.series("ct", _noise(), GRID)
    dicom_folder.seg("seg", slices, dict(zip(("Heart", "Lung_L"), _bodies().values(), strict=True)))
    lines = [line for block in code_in("convert.md", "bash") for line in block.splitlines()]
    (command,) = (line for line in lines if line.startswith("nnUNetv2_ext_convert_dataset dicom "))
    assert main([*command.replace("SOURCE", str(dicom_folder.root)).split()[1:], "-np", "1"]) == 0
    verify_integrity(nnunet_folders / "nnUNet_raw" / "Dataset017_Dicom")


def test_classes_may_have_other_names_and_join_structures(dicom_folder, convert_dicom):
    masks = _bodies()
    slices = dicom_folder.series("ct", _noise(), GRID, modality="MR")
    dicom_folder.seg("seg", slices, {"Lesion 1": masks["ball"], "lesion 2": masks["ring"]})
    code, said, folder = convert_dicom("--classes", "tumour=lesion 1", "tumour=Lesion_2")
    assert code == 0, said
    np.testing.assert_array_equal(_classes(folder, "P1_20200102_ct")[0]["tumour"], masks["ball"] | masks["ring"])
    assert json.loads((folder / "dataset.json").read_text())["channel_names"] == {"0": "MR"}


def test_without_classes_it_lists_what_there_is(dicom_folder, convert_dicom):
    slices = dicom_folder.series("ct", _noise(), GRID)
    dicom_folder.seg("seg", slices, _bodies())
    code, said, folder = convert_dicom()
    assert (code, folder.exists()) == (2, False)
    assert "the annotations name ball (1), ring (1)" in said
    assert convert_dicom("--classes", "ball", "--order", "segthor")[0] == 2


def test_bad_cases_are_named_and_the_others_done(dicom_folder, convert_dicom):
    masks = _bodies()
    for patient in ("good", "twice", "poor", "other", "moved"):
        slices = dicom_folder.series(f"{patient}/ct", _noise(seed=len(patient)), GRID, patient=patient)
        named = {"ball": masks["ball"], "ring": masks["ring"]}
        if patient == "twice":
            file = dicom_folder.seg("twice/again", slices, {"ring": masks["ball"]})
        if patient == "moved":
            for image in slices:
                image.FrameOfReferenceUID = "1.2.3"
        dicom_folder.seg(f"{patient}/seg", slices, {"table": masks["ball"]} if patient == "poor" else named)
    for file in (dicom_folder.root / "other/ct").iterdir():
        file.unlink()
    (dicom_folder.root / "damaged").write_bytes((dicom_folder.root / "good/seg").read_bytes()[:900])
    code, said, folder = convert_dicom("--classes", "ball", "ring")
    assert code == 1
    assert [file.name for file in (folder / "labelsTr").iterdir()] == ["good_20200102_ct.nii.gz"]
    failed = json.loads((folder / "conversion_report.json").read_text())["failed"]
    reasons = {name.split("_")[0]: reason for name, reason in failed.items()}
    assert "twice/again and " in reasons["twice"] or "twice/seg and " in reasons["twice"]
    assert "delineate it differently" in reasons["twice"]
    assert "it delineates table" in reasons["poor"]
    assert "other/seg refers to, but it is not there" in reasons["other"]
    assert "another frame of reference" in reasons["moved"]
    assert len(failed) == 5
    assert any("damaged" in reason for reason in failed.values())
    assert "Traceback" not in said
    assert not [secret for secret in (*SECRETS.values(), "Muster") if secret in said]


def test_a_case_that_lacks_a_class_is_refused_unless_accepted(dicom_folder, convert_dicom):
    masks = _bodies()
    for patient, names in (("P1", ("ball", "ring")), ("P2", ("ball",))):
        slices = dicom_folder.series(f"{patient}/ct", _noise(seed=int(patient[1])), GRID, patient=patient)
        dicom_folder.seg(f"{patient}/seg", slices, {name: masks[name] for name in names})
    code, said, folder = convert_dicom("--classes", "ball", "ring")
    assert (code, "ring have none" in said) == (1, True)
    code, said, folder = convert_dicom("--classes", "ball", "ring", "--accept", "missing_masks")
    assert code == 0
    assert not _classes(folder, "P2_20200102_ct")[0]["ring"].any()


def test_other_names_for_a_class_are_another_dataset(dicom_folder, convert_dicom):
    slices = dicom_folder.series("ct", _noise(), GRID)
    dicom_folder.seg("seg", slices, _bodies())
    assert convert_dicom("--classes", "tumour=ball")[0] == 0
    code, said, _ = convert_dicom("--classes", "tumour=ring")
    assert (code, "other options (classes)" in said) == (2, True)


# Real images -------------------------------------------------------------------------------------------------------


@pytest.fixture
def thorax(real_ct):
    """Image, label map and some of its classes."""
    image, grid = _read(real_ct / "ct.nii.gz")
    label, _ = _read(real_ct / "totalsegmentator_v2_labels.nii.gz")
    return image, grid, {f"class {value}": label == value for value in np.unique(label)[1:]}


@pytest.mark.slow
def test_a_real_ct_comes_back(thorax, dicom_folder, convert_dicom):
    image, grid, masks = thorax
    for patient in ("SEG", "RT"):
        slices = dicom_folder.series(f"{patient}/ct", image.astype(np.int16), grid, patient=patient)
        if patient == "SEG":
            dicom_folder.seg("SEG/seg", slices, masks, "LABELMAP")
        else:
            dicom_folder.rtstruct("RT/rt", slices, {name: _contours(mask, grid) for name, mask in masks.items()})
    code, said, folder = convert_dicom("--classes", *masks, "--accept", "duplicate")
    assert code == 0, said
    segmented, contoured = (_classes(folder, f"{patient}_20200102_ct")[0] for patient in ("SEG", "RT"))
    for name, mask in masks.items():
        np.testing.assert_array_equal(segmented[name], mask)
        dice = 2 * (contoured[name] & mask).sum() / (contoured[name].sum() + mask.sum())
        assert dice >= 0.98, (name, dice)


@pytest.mark.parametrize("folder", ["ct_aorta_1p5mm", "totalsegmentator_v2_layout/s0001"])
def test_masks_of_a_real_ct_come_back_with_their_overlaps(folder, real_ct_folder, dicom_folder, convert_dicom):
    image, grid = _read(real_ct_folder / folder / "ct.nii.gz")
    files = sorted((real_ct_folder / folder / "segmentations").glob("*.nii.gz"))
    masks = {file.name.split(".")[0]: _read(file)[0] > 0 for file in files}
    masks = {name: mask for name, mask in masks.items() if mask.any()}
    slices = dicom_folder.series("ct", image.astype(np.int16), grid)
    dicom_folder.seg("seg", slices, masks)
    code, said, target = convert_dicom("--classes", *masks)
    assert code == 0, said
    found, _ = _classes(target, "P1_20200102_ct")
    for name, mask in masks.items():
        np.testing.assert_array_equal(found[name], mask, err_msg=name)


def test_a_series_of_a_scanner_with_a_drawn_mask(real_ct_folder, dicom_folder, convert_dicom):
    """JPEG 2000 in files without an ending, whose UIDs were taken away."""
    study, series, frame = (pydicom.uid.generate_uid() for _ in range(3))
    slices = []
    for file in sorted((real_ct_folder / "ct_dicom").iterdir()):
        content = pydicom.dcmread(file)
        content.StudyInstanceUID, content.SeriesInstanceUID, content.FrameOfReferenceUID = study, series, frame
        content.SOPClassUID = content.file_meta.MediaStorageSOPClassUID
        content.SOPInstanceUID = content.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        content.PatientID, content.StudyDate, content.SeriesDescription = "scanner", "20200102", "ct"
        dicom_folder.save(f"ct/{file.name}", content)
        slices.append(content)
    normal = np.cross(*np.reshape(np.array(slices[0].ImageOrientationPatient, float), (2, 3)))
    slices.sort(key=lambda content: normal @ np.array(content.ImagePositionPatient, float))
    mask = np.zeros((len(slices), slices[0].Rows, slices[0].Columns), bool)
    mask[3:9, 100:180, 60:200] = mask[5:7, 300:310, 300:340] = True
    dicom_folder.seg("seg", slices, {"drawn": mask})
    code, said, folder = convert_dicom("--classes", "drawn")
    assert code == 0, said
    np.testing.assert_array_equal(_classes(folder, "scanner_20200102_ct")[0]["drawn"], mask)
