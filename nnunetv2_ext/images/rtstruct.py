"""Contours of DICOM radiotherapy structure sets (RTSTRUCT): read as masks, and drawn around those of a label map.

pydicom reads and writes the file, scikit-image fills the polygons and draws them: both are kept well, while the
packages made for RTSTRUCT alone have seen no release for years and bring a second image library along.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Integer

from nnunetv2_ext.images.dicom_annotations import (
    STRUCTURE_SET,
    Annotation,
    read_annotation,
    read_object,
    reading,
    structures,
)
from nnunetv2_ext.images.dicom_source import DESCRIPTION, Algorithm, SourceSeries
from nnunetv2_ext.images.geometry import Grid
from nnunetv2_ext.images.segments import Segment
from nnunetv2_ext.utilities.errors import UserError

# A contour may lie this far (in slices) from the middle of a slice before it is taken to belong to another image.
_OFF_SLICE = 0.3
# Contours of other kinds are points and lines. Files without the kind are old; they hold these.
_AREAS = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "")


class StructureSet:
    """A structure set with its contours.

    Args:
        file: The RTSTRUCT file.

    Raises:
        UserError: It cannot be read.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        content = read_object(file)
        with reading(file):
            self._structures = structures(content)

    @property
    def names(self) -> Set[str]:
        """Plain names of the structures that somebody drew."""
        return self._structures.keys()

    def mask(self, names: Collection[str], grid: Grid) -> npt.NDArray[np.bool_]:
        """The union of some structures.

        A voxel belongs to a structure if its centre lies inside an odd number of the structure's contours on its slice,
        so that a contour within a contour is a hole.

        Args:
            names: Plain names; those that are not there are nothing.
            grid: Of the image that the contours were drawn on; its third index axis must be the slice axis.

        Raises:
            UserError: Contours do not lie on slices of the image, or are damaged.
        """
        mask = np.zeros(grid.shape, dtype=bool)
        for name in names:
            for contours in self._structures.get(name, ()):
                mask |= self._filled(contours, grid, name)
        return mask

    def _filled(self, contours: Any, grid: Grid, name: str) -> npt.NDArray[np.bool_]:
        from skimage.draw import polygon

        inside = np.zeros(grid.shape, dtype=bool)
        to_index = np.linalg.inv(grid.matrix)
        for contour in contours:
            with reading(self.file):
                if str(contour.get("ContourGeometricType") or "").upper() not in _AREAS:
                    continue
                points = np.reshape(np.asarray(contour.ContourData, dtype=float), (-1, 3))
                index = points @ to_index[:3, :3].T + to_index[:3, 3]
                z = round(float(index[:, 2].mean()))
            if np.abs(index[:, 2] - z).max() > _OFF_SLICE or not 0 <= z < len(inside):
                raise UserError(
                    f"Expected the contours of {name} in {self.file} on slices of the image, but one lies at slice "
                    f"{index[:, 2].mean():.2f} of {len(inside)}; it belongs to another series."
                )
            rows, columns = polygon(index[:, 1], index[:, 0], inside.shape[1:])
            inside[z, rows, columns] ^= True
        return inside


def find_rtstruct(folder: Path) -> Path | None:
    """The structure set below a patient's folder; None where there is none.

    Of several, it is the one that refers to the image series with the most slices, which is the one that is read.

    Raises:
        UserError: Several refer to that series, or none of several, or a file is damaged.
    """
    series: dict[Path, list[Path]] = {}
    for file in sorted(folder.rglob("*.dcm")):
        series.setdefault(file.parent, []).append(file)
    found, images = [], ""
    # One look per series is enough, and image series have hundreds of files; the largest comes last.
    for files in sorted(series.values(), key=len):
        header = read_object(files[0], stop_before_pixels=True, specific_tags=["Modality", "SeriesInstanceUID"])
        if header.get("Modality") == "RTSTRUCT":
            found += files
        else:
            images = str(header.get("SeriesInstanceUID"))
    annotations: list[Annotation] = [read_annotation(file) for file in found] if len(found) > 1 else []
    fitting = [each.file for each in annotations if images in each.series] if annotations else found
    if found and len(fitting) != 1:
        raise UserError(
            f"Expected one RTSTRUCT of the image series below {folder}, but found "
            f"{len(fitting) or 'none'} among {', '.join(map(str, found))}; remove the others."
        )
    return fitting[0] if fitting else None


def write_rtstruct(
    labels: Integer[np.ndarray, "z y x"],
    found: Sequence[Segment],
    source: SourceSeries,
    algorithm: Algorithm,
    target: Path,
) -> None:
    """Writes the contours of a label map, in the planes of its slices; what fails comes as libraries raise it.

    Args:
        labels: ``(z, y, x)`` on the grid of the series.
        found: The classes that occur, see `segments_of`; all of them in an empty label map.
        source: The series.
        algorithm: What made the label map.
        target: The file.
    """
    import highdicom
    from pydicom.uid import ImplicitVRLittleEndian
    from scipy.ndimage import find_objects

    first = source.headers[0]
    patient_and_study = {
        name: first[keyword].value
        for name, keyword in (
            ("study_instance_uid", "StudyInstanceUID"),
            ("patient_id", "PatientID"),
            ("patient_name", "PatientName"),
            ("patient_birth_date", "PatientBirthDate"),
            ("patient_sex", "PatientSex"),
            ("accession_number", "AccessionNumber"),
            ("study_id", "StudyID"),
            ("study_date", "StudyDate"),
            ("study_time", "StudyTime"),
            ("referring_physician_name", "ReferringPhysicianName"),
        )
    }
    content = highdicom.SOPClass(
        sop_class_uid=STRUCTURE_SET,
        modality="RTSTRUCT",
        # With explicit types, contours may take no more than 64 KiB.
        transfer_syntax_uid=ImplicitVRLittleEndian,
        **patient_and_study,
        **source.object_arguments(3),
    )
    content.copy_patient_and_study_information(first)
    content.FrameOfReferenceUID, content.PositionReferenceIndicator = first.FrameOfReferenceUID, ""
    content.OperatorsName = ""
    content.StructureSetLabel, content.StructureSetName = "SEGMENTATION", DESCRIPTION
    content.StructureSetDate, content.StructureSetTime = content.InstanceCreationDate, content.InstanceCreationTime
    content.ApprovalStatus = "UNAPPROVED"
    references = [
        _item(ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID)
        for header in source.headers
    ]
    content.ReferencedFrameOfReferenceSequence = [_frame_of_reference(first, references)]
    boxes = find_objects(labels.astype(np.int32, copy=False))
    items = []
    for number, segment in enumerate(found, start=1):
        drawn = _item(ROIDisplayColor=list(segment.colour), ReferencedROINumber=number)
        if (box := boxes[segment.value - 1] if labels.any() else None) is not None:
            corner = [edges.start for edges in box]
            drawn.ContourSequence = [
                _contour(outline + corner[1:], z, source.grid, references[z])
                for z, plane in enumerate(labels[box] == segment.value, start=corner[0])
                for outline in outlines(plane)
            ]
        items.append((_structure(number, segment, algorithm, first), drawn, _observation(number, segment)))
    content.StructureSetROISequence, content.ROIContourSequence, content.RTROIObservationsSequence = (
        list(column) for column in zip(*items, strict=True)
    )
    content.save_as(target)


def _frame_of_reference(first: Any, references: list[Any]) -> Any:
    """The coordinates, the study, the series and all its images."""
    series = _item(SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=references)
    study = _item(
        # Detached study management: retired, but the only class that a study ever had.
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",
        ReferencedSOPInstanceUID=first.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    return _item(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _structure(number: int, segment: Segment, algorithm: Algorithm, first: Any) -> Any:
    return _item(
        ROINumber=number,
        ReferencedFrameOfReferenceUID=first.FrameOfReferenceUID,
        ROIName=segment.name,
        ROIGenerationAlgorithm="AUTOMATIC",
        ROIDerivationAlgorithmIdentificationSequence=algorithm.identification(),
    )


def _observation(number: int, segment: Segment) -> Any:
    category, kind, region = segment.codes.items()
    observation = _item(
        ObservationNumber=number,
        ReferencedROINumber=number,
        SegmentedPropertyCategoryCodeSequence=[category],
        RTROIIdentificationCodeSequence=[kind],
        RTROIInterpretedType="",
        ROIInterpreter="",
    )
    if region is not None:
        observation.AnatomicRegionSequence = [region]
    return observation


def _contour(outline: Float[np.ndarray, "points 2"], z: int, grid: Grid, reference: Any) -> Any:
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    index = np.column_stack([outline[:, ::-1], np.full(len(outline), z), np.ones(len(outline))])
    points = (index @ grid.matrix.T)[:, :3]
    contour = _item(
        ContourImageSequence=[reference], ContourGeometricType="CLOSED_PLANAR", NumberOfContourPoints=len(points)
    )
    # Most of the time goes into numbers as texts, and pydicom's own take twice as long.
    text = "\\".join(f"{value:.4f}" for value in points.ravel()).encode()
    text += b" " * (len(text) % 2)
    tag = Tag("ContourData")
    contour[tag] = RawDataElement(tag, "DS", len(text), text, 0, True, True)
    return contour


def outlines(mask: Bool[np.ndarray, "rows columns"]) -> Iterator[Float[np.ndarray, "points 2"]]:
    """Closed polygons (row, column) half-way between the pixels of a mask and the others.

    A hole is cut out by a keyhole: one line leads from the outline to the hole and back, through pixels of the mask.
    Programs fill a contour within a contour.
    """
    from skimage.measure import find_contours

    # Doubled, the points are whole numbers. Contours run around what is inside against those around holes.
    padded = np.pad(mask, 1)
    rings = [np.rint(2 * (ring[:-1] - 1)).astype(int) for ring in find_contours(padded.astype(float), 0.5)]
    merged = [ring for ring in rings if _area(ring) < 0]
    holes = sorted((ring for ring in rings if _area(ring) > 0), key=lambda ring: ring[:, 1].min())
    owner = {tuple(point): number for number, ring in enumerate(merged) for point in (ring.tolist() if holes else ())}
    for hole in holes:
        # From its leftmost point, which lies in the middle of a row, to the left until the mask ends. What is there is
        # an outline or a hole further left, which has been cut out before.
        start = int(hole[:, 1].argmin())
        row, column = hole[start, 0] // 2, hole[start, 1] // 2
        outside = np.flatnonzero(~mask[row, :column])
        end = (int(2 * row), int(2 * outside[-1] + 1 if len(outside) else -1))
        number = owner[end]
        owner.update(dict.fromkeys(map(tuple, hole.tolist()), number))
        ring = merged[number]
        place = int(np.flatnonzero((ring == end).all(axis=1))[0])
        there_and_back = np.concatenate([np.roll(hole, -start, axis=0), hole[start : start + 1]])
        merged[number] = np.concatenate([ring[: place + 1], there_and_back, ring[place:]])
    for ring in merged:
        yield ring / 2


def _area(ring: Integer[np.ndarray, "points 2"]) -> int:
    """Twice the area that a polygon encloses, with its sign."""
    rows, columns = ring.T
    return int(np.sum(rows * np.roll(columns, -1) - np.roll(rows, -1) * columns))


def _item(**elements: Any) -> Any:
    from pydicom import Dataset

    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item
