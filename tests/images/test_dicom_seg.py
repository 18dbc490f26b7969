"""Segmentations in DICOM, as highdicom and pydicom write them, against the masks that they were made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from fixtures.dicom_folders import frames_of, oblique_grid, segmentation, set_pixels

from nnunetv2_ext.images.colours import display_colours
from nnunetv2_ext.images.dicom_annotations import plain_name, read_annotation, referred_series
from nnunetv2_ext.images.dicom_seg import Segmentation
from nnunetv2_ext.images.dicom_source import Algorithm, only_series, read_source
from nnunetv2_ext.images.label_maps import write_dicom
from nnunetv2_ext.images.reading import read_slices
from nnunetv2_ext.images.segments import segments_of
from nnunetv2_ext.utilities.errors import UserError

GRID = oblique_grid((13, 11, 7), (1.5, 1.25, 3.0))


@pytest.fixture
def slices(dicom_folder):
    """An oblique series of noise."""
    noise = np.random.default_rng(0).integers(-1000, 1000, GRID.size[::-1])
    return dicom_folder.series("P1/ct", noise, GRID)


@pytest.fixture
def masks():
    """Two structures side by side, which miss whole slices."""
    labels = np.random.default_rng(1).integers(0, 3, GRID.size[::-1])
    labels[[0, 3]] = 0
    return {"Liver": labels == 1, "Left kidney": labels == 2}


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_masks_are_where_their_frames_say(kind, dicom_folder, slices, masks):
    file = dicom_folder.seg("P1/seg", slices, masks, kind)
    segments = Segmentation(file)
    assert set(segments.names) == {"liver", "left_kidney"}
    grid = read_slices([dicom_folder.root / "P1/ct" / f"IM{s.InstanceNumber - 1:04d}" for s in slices]).grid
    assert GRID.difference(grid) is None
    np.testing.assert_array_equal(segments.mask(["liver"], grid), masks["Liver"])
    np.testing.assert_array_equal(segments.mask(["left_kidney"], grid), masks["Left kidney"])
    np.testing.assert_array_equal(segments.mask(["left_kidney", "liver"], grid), masks["Liver"] | masks["Left kidney"])
    assert not segments.mask(["spleen"], grid).any()


def test_overlaps_are_kept(dicom_folder, slices):
    random = np.random.default_rng(2)
    masks = {name: random.random(GRID.size[::-1]) < 0.5 for name in ("whole", "part")}
    segments = Segmentation(dicom_folder.seg("P1/seg", slices, masks))
    for name, mask in masks.items():
        np.testing.assert_array_equal(segments.mask([name], GRID), mask)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_rows_may_run_another_way(kind, dicom_folder, slices, masks):
    """Mirrored rows, and rows for columns."""
    content = pydicom.dcmread(dicom_folder.save("P1/seg", segmentation(slices, masks, kind)))
    frames = frames_of(content)
    across, down = np.reshape(GRID.direction, (3, 3))[:, :2].T
    content.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = [
        f"{value:.9g}" for value in (*down, *-across)
    ]
    content.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [GRID.spacing[0], GRID.spacing[1]]
    for frame in content.PerFrameFunctionalGroupsSequence:
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        position += across * GRID.spacing[0] * (GRID.size[0] - 1)
        frame.PlanePositionSequence[0].ImagePositionPatient = [f"{value:.9g}" for value in position]
    content.Rows, content.Columns = content.Columns, content.Rows
    set_pixels(content, frames.transpose(0, 2, 1)[:, ::-1])
    segments = Segmentation(dicom_folder.save("P1/seg", content))
    np.testing.assert_array_equal(segments.mask(["liver"], GRID), masks["Liver"])


@pytest.mark.parametrize("syntax", [pydicom.uid.RLELossless, pydicom.uid.DeflatedExplicitVRLittleEndian])
def test_compressed_files_are_read(syntax, dicom_folder, slices, masks):
    content = segmentation(slices, masks, "LABELMAP")
    if syntax == pydicom.uid.RLELossless:
        content = pydicom.dcmread(dicom_folder.save("P1/plain", content))
        content.compress(syntax)
    else:
        content.file_meta.TransferSyntaxUID = syntax
    segments = Segmentation(dicom_folder.save("P1/seg", content))
    np.testing.assert_array_equal(segments.mask(["liver"], GRID), masks["Liver"])


def test_the_header_says_what_and_of_which_images(dicom_folder, slices, masks):
    annotation = read_annotation(dicom_folder.seg("P1/seg", slices, masks))
    assert annotation.names == {"liver", "left_kidney"}
    assert annotation.instances == {str(image.SOPInstanceUID) for image in slices}
    assert annotation.frames_of_reference == {slices[0].FrameOfReferenceUID}
    content = pydicom.dcmread(dicom_folder.root / "P1/seg")
    del content.ReferencedSeriesSequence
    # Frames without a voxel are left out.
    assert read_annotation(dicom_folder.save("P1/seg", content)).instances == {
        str(image.SOPInstanceUID) for z, image in enumerate(slices) if z not in (0, 3)
    }


def _shift(content: Any) -> None:
    for frame in content.PerFrameFunctionalGroupsSequence:
        position = frame.PlanePositionSequence[0]
        moved = np.array(position.ImagePositionPatient, float) + np.reshape(GRID.direction, (3, 3))[:, 0] * 0.75
        position.ImagePositionPatient = [f"{value:.9g}" for value in moved]


def _far_away(content: Any) -> None:
    position = content.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence[0]
    normal = np.reshape(GRID.direction, (3, 3))[:, 2]
    moved = np.array(position.ImagePositionPatient, float) + normal * 300
    position.ImagePositionPatient = [f"{value:.9g}" for value in moved]


def _drop(name: str) -> Callable[[Any], None]:
    def drop(content: Any) -> None:
        for group in (*content.SharedFunctionalGroupsSequence, *content.PerFrameFunctionalGroupsSequence):
            if name in group:
                delattr(group, name)

    return drop


def _set(**elements: object) -> Callable[[Any], None]:
    def change(content):
        for name, value in elements.items():
            setattr(content, name, value)

    return change


def _group(name: str, **elements: object) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for group in (*content.SharedFunctionalGroupsSequence, *content.PerFrameFunctionalGroupsSequence):
            for element, value in elements.items() if name in group else ():
                setattr(group[name][0], element, value)

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_shift, "on voxels of its images"),
        (_far_away, "reaches beyond them"),
        (_group("PixelMeasuresSequence", PixelSpacing=[2.5, 3]), "on voxels of its images"),
        (_group("PixelMeasuresSequence", PixelSpacing=[0, 0]), "on voxels of its images"),
        (_group("PlaneOrientationSequence", ImageOrientationPatient=[1, 0, 0, 0, 1, 0]), "on voxels of its images"),
        (_group("PlanePositionSequence", ImagePositionPatient=[1, 2]), "is damaged"),
        (_set(Rows=65535, Columns=65535), "reaches beyond them"),
        (_set(Rows=12), "reaches beyond them"),
        (_set(Rows=0), "reaches beyond them"),
        (_set(Rows=10), "bytes of pixels"),
        (_set(NumberOfFrames=4), "it describes 10 of 4 frames"),
        (_set(NumberOfFrames=10**9), "it describes 10 of 1000000000 frames"),
        (_set(BitsAllocated=8), "bytes of pixels"),
        (_set(BitsAllocated=64), "its pixels have 64 bits"),
        (_set(SegmentationType="SURFACE"), "its type is 'SURFACE'"),
        (_set(PixelData=b"\0" * 10), "is damaged"),
        (_drop("PlanePositionSequence"), "it has no PlanePositionSequence"),
        (_drop("PlaneOrientationSequence"), "it has no PlaneOrientationSequence"),
        (_drop("PixelMeasuresSequence"), "it has no PixelMeasuresSequence"),
        (_drop("SegmentIdentificationSequence"), "it has no SegmentIdentificationSequence"),
        (lambda content: delattr(content, "PerFrameFunctionalGroupsSequence"), "is damaged"),
        (lambda content: delattr(content, "SegmentSequence"), "is damaged"),
        (lambda content: delattr(content, "PixelData"), "is damaged"),
    ],
)
def test_what_is_damaged_ends_in_a_sentence(change, sentence, dicom_folder, slices, masks):
    file = dicom_folder.seg("P1/seg", slices, masks)
    content = pydicom.dcmread(file)
    change(content)
    content.save_as(file)
    with pytest.raises(UserError, match=sentence) as caught:
        Segmentation(file).mask(["liver"], GRID)
    assert str(file) in str(caught.value)


def test_an_image_that_is_too_small_is_another_one(dicom_folder, slices, masks):
    other = oblique_grid((13, 11, 5), GRID.spacing)
    with pytest.raises(UserError, match="reaches beyond them"):
        Segmentation(dicom_folder.seg("P1/seg", slices, masks)).mask(["liver"], other)


def test_segments_refer_to_the_series_by_its_images(dicom_folder, slices, masks):
    from nnunetv2_ext.images.dicom import find_annotated

    noise = np.random.default_rng(9).integers(0, 9, GRID.size[::-1])
    dicom_folder.series("P1/other", noise, GRID)
    file = dicom_folder.seg("P1/seg", slices, masks)
    series, (found,) = find_annotated(dicom_folder.root)
    assert found == file
    assert referred_series(read_annotation(file), series).uid == slices[0].SeriesInstanceUID
    with pytest.raises(UserError, match="but it is not there; get it, too"):
        referred_series(read_annotation(file), [one for one in series if one.uid != slices[0].SeriesInstanceUID])
    with pytest.raises(UserError, match=r"but 2 fit: .*; part them"):
        referred_series(read_annotation(file), [one for one in series if one.uid == slices[0].SeriesInstanceUID] * 2)


# Writing -------------------------------------------------------------------------------------------------------------

NAMES = {2: "liver", 5: "kidney_left", 300: "kidney_cyst_right", 7: "absent", 9: "Lésion à gauche"}


@pytest.fixture
def label_map():
    """Integers with gaps, which miss whole slices."""
    labels = np.random.default_rng(3).choice([0, 2, 5, 300, 9], GRID.size[::-1]).astype(np.uint16)
    labels[[0, 3]] = 0
    return labels


@pytest.fixture
def write(dicom_folder, tmp_path, slices):
    """Writes a label map as an object of the series; returns what pydicom reads, and the file."""
    files = only_series(dicom_folder.root)
    source = read_source(files, read_slices(files).grid)

    def call(labels, kind, names=NAMES):
        file = tmp_path / f"{kind}.dcm"
        write_dicom(
            labels, segments_of(labels, names), source, file, kind, Algorithm("a model " + "x" * 80, "fold_0: 1f")
        )
        return pydicom.dcmread(file), file

    return call


@pytest.mark.parametrize("kind", ["dicom_seg", "dicom_seg_binary"])
def test_what_is_written_is_read_voxel_by_voxel(kind, write, label_map):
    content, file = write(label_map, kind)
    ours, numbers = Segmentation(file), {}
    for segment in content.SegmentSequence:
        numbers[str(segment.SegmentLabel)] = int(segment.SegmentNumber)
    for value, name in NAMES.items():
        np.testing.assert_array_equal(ours.mask([plain_name(name)], GRID), label_map == value, err_msg=name)
    kept = {name: value for value, name in NAMES.items() if name != "absent"}
    counted = {name: number for number, name in enumerate(sorted(kept, key=kept.__getitem__), start=1)}
    assert numbers == (counted if kind.endswith("binary") else {"Background": 0, **kept})
    # highdicom finds the frames by their positions, not by those of the series.
    read = highdicom.seg.segread(file).get_volume(combine_segments=True, relabel=False)
    read = read.match_geometry(_volume(label_map))
    table = np.zeros(301, int)
    for name, number in numbers.items():
        table[kept.get(name, 0)] = number
    np.testing.assert_array_equal(read.array, table[label_map])


def _volume(labels):
    """The label map as highdicom knows volumes, from the grid that the slices were made of."""
    return highdicom.Volume(labels, GRID.matrix[:, [2, 1, 0, 3]], "PATIENT")


@pytest.mark.parametrize("kind", ["dicom_seg", "dicom_seg_binary", "rtstruct"])
def test_every_object_belongs_to_its_series_and_says_what_it_is(kind, write, label_map, slices):
    content, _ = write(label_map, kind)
    first = slices[0]
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "AccessionNumber", "StudyInstanceUID", "StudyDate"):
        assert content[keyword].value == first[keyword].value
    assert content.FrameOfReferenceUID == first.FrameOfReferenceUID
    assert content.SeriesInstanceUID != first.SeriesInstanceUID
    assert set(_values(content, "ReferencedSOPInstanceUID")) >= {image.SOPInstanceUID for image in slices}
    assert first.SeriesInstanceUID in _values(content, "SeriesInstanceUID")
    assert "research use only; not a medical device" in content.SeriesDescription
    assert content.ContentQualification == "RESEARCH"
    assert set(_values(content, "AlgorithmName")) == {("a model " + "x" * 80)[:64]}
    assert set(_values(content, "AlgorithmVersion")) == {"fold_0: 1f"}
    assert "Hospital Road" not in str(content)
    assert {"10200004", "64033007", "367643001", "85756007"} <= set(_values(content, "CodeValue"))


def _values(content, keyword):
    return [str(element.value) for element in content.iterall() if element.keyword == keyword]


def test_codes_and_colours_of_segments(write, label_map):
    content, _ = write(label_map, "dicom_seg")
    segments = {segment.SegmentLabel: segment for segment in content.SegmentSequence}
    kidney, cyst = segments["kidney_left"], segments["kidney_cyst_right"]
    (kind,) = kidney.SegmentedPropertyTypeCodeSequence
    assert (kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning) == ("64033007", "SCT", "Kidney")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert kidney.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Anatomical Structure"
    (organ,) = cyst.AnatomicRegionSequence
    assert (organ.CodeMeaning, organ.AnatomicRegionModifierSequence[0].CodeMeaning) == ("Kidney", "Right")
    colour = highdicom.color.CIELabColor.from_dicom_value(kidney.RecommendedDisplayCIELabValue)
    np.testing.assert_allclose(colour.to_rgb(), display_colours(NAMES)[5], atol=1.5)
    assert (kidney.SegmentAlgorithmType, content.SegmentationType) == ("AUTOMATIC", "LABELMAP")
    assert content.file_meta.TransferSyntaxUID == pydicom.uid.RLELossless


@pytest.mark.parametrize("kind", ["dicom_seg", "dicom_seg_binary"])
def test_where_nothing_was_found_the_object_says_so(kind, write, label_map, slices):
    content, file = write(np.zeros_like(label_map), kind)
    read = Segmentation(file)
    assert set(read.names) - {"background"} == {plain_name(name) for name in NAMES.values()}
    assert not read.mask(read.names, GRID).any()
    assert content.NumberOfFrames == (len(NAMES) if kind.endswith("binary") else 1)
    assert set(_values(content, "ReferencedSOPInstanceUID")) >= {image.SOPInstanceUID for image in slices}
