"""Makers of tiny nnU-Net raw datasets, and of miniatures of published datasets in their own layout."""

from __future__ import annotations

import json
import multiprocessing.pool
import types
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_ext.labels import LabelOrder

SHAPE = (12, 14, 16)
SPACING = (1.5, 1.25, 3.0)
ORIGIN = (-20.0, 10.0, 300.0)


class Miniature:
    """Writes tiny images and label maps below a folder, and remembers what each label map holds."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.random = np.random.default_rng(7)

    def image(self, *, seed: int | None = None, channels: int = 1) -> np.ndarray:
        """Noise that looks like CT numbers: (z, y, x), or (channels, z, y, x)."""
        random = self.random if seed is None else np.random.default_rng(seed)
        shape = SHAPE if channels == 1 else (channels, *SHAPE)
        return random.integers(-1000, 1000, shape).astype(np.int16)

    def label(self, order: LabelOrder | str, *, leave_out: tuple[str, ...] = ()) -> np.ndarray:
        """Every class as two voxels, left ones at the patient's left (large x), in the integers of the order."""
        order = LabelOrder.read(order) if isinstance(order, str) else order
        label = np.zeros(SHAPE, dtype=np.uint16)
        for cell, (name, value) in enumerate(order.labels.items()):
            x = 12 if "left" in name else 2 if "right" in name else 7
            if name not in leave_out:
                label[cell % SHAPE[0], cell // SHAPE[0], x : x + 2] = value
        return label

    def save(self, path: str, array: np.ndarray, *, axes: str = "LPS", origin=ORIGIN, spacing=SPACING) -> Path:
        """Writes an array (z, y, x) that is oriented LPS, with its axes stored in another orientation if asked."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if array.ndim == 4:
            image = sitk.JoinSeries([self._volume(channel, origin, spacing) for channel in array])
        else:
            image = sitk.DICOMOrient(self._volume(array, origin, spacing), axes)
        sitk.WriteImage(image, str(target), useCompression=path.endswith(("gz", "nrrd")))
        return target

    def case(self, image: str, label: str | None, order: LabelOrder | str, **keywords) -> None:
        """An image with its label map."""
        self.save(image, self.image(), **keywords)
        if label is not None:
            self.save(label, self.label(order), **keywords)

    def masks(self, folder: str, order: LabelOrder | str, names: dict[str, str] | None = None) -> None:
        """One mask per class."""
        order = LabelOrder.read(order) if isinstance(order, str) else order
        label = self.label(order)
        for name, value in order.labels.items():
            self.save(f"{folder}/{(names or {}).get(name, name)}.nii.gz", (label == value).astype(np.uint8))

    def text(self, path: str, content: str | dict) -> Path:
        """A text or JSON file."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content if isinstance(content, str) else json.dumps(content))
        return target

    def dicom(self, folder: str, array: np.ndarray) -> list:
        """An axial CT series; returns the slices, sorted from the feet up."""
        import pydicom
        from pydicom.dataset import FileDataset, FileMetaDataset
        from pydicom.uid import ExplicitVRLittleEndian, generate_uid

        target = self.root / folder
        target.mkdir(parents=True)
        series, study, frame = generate_uid(), generate_uid(), generate_uid()
        slices = []
        for z, plane in enumerate(array):
            meta = FileMetaDataset()
            meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
            meta.MediaStorageSOPInstanceUID = generate_uid()
            meta.TransferSyntaxUID = ExplicitVRLittleEndian
            file = target / f"1-{len(array) - z:03d}.dcm"
            data = FileDataset(str(file), {}, file_meta=meta, preamble=b"\0" * 128)
            data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
            data.SeriesInstanceUID, data.StudyInstanceUID, data.FrameOfReferenceUID = series, study, frame
            data.Modality, data.PatientID, data.InstanceNumber = "CT", "mini", z + 1
            data.ImagePositionPatient = [ORIGIN[0], ORIGIN[1], ORIGIN[2] + z * SPACING[2]]
            data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            data.PixelSpacing, data.SliceThickness = [SPACING[1], SPACING[0]], SPACING[2]
            data.Rows, data.Columns = plane.shape
            data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
            data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
            data.RescaleIntercept, data.RescaleSlope = 0, 1
            data.PixelData = np.ascontiguousarray(plane, dtype=np.int16).tobytes()
            pydicom.dcmwrite(file, data, enforce_file_format=True)
            slices.append(data)
        return slices

    def rtstruct(self, path: str, contours: dict[str, list[np.ndarray]]) -> Path:
        """A structure set; each contour is an array of points (x, y, z) in mm."""
        import pydicom
        from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
        from pydicom.uid import ExplicitVRLittleEndian, generate_uid

        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        data = FileDataset(str(target), {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        data.Modality, data.SeriesInstanceUID, data.StudyInstanceUID = "RTSTRUCT", generate_uid(), generate_uid()
        data.StructureSetROISequence, data.ROIContourSequence = [], []
        for number, (name, polygons) in enumerate(contours.items(), start=1):
            roi, drawn = Dataset(), Dataset()
            roi.ROINumber, roi.ROIName = number, name
            drawn.ReferencedROINumber, drawn.ContourSequence = number, []
            for points in polygons:
                contour = Dataset()
                contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
                contour.ContourData = [f"{value:.4f}" for value in np.ravel(points)]
                drawn.ContourSequence.append(contour)
            data.StructureSetROISequence.append(roi)
            data.ROIContourSequence.append(drawn)
        pydicom.dcmwrite(target, data, enforce_file_format=True)
        return target

    @staticmethod
    def contours_of(mask: np.ndarray) -> list[np.ndarray]:
        """A rectangle half a voxel around the voxels of a mask on every slice that has some."""
        found = []
        for z, plane in enumerate(mask):
            y, x = np.nonzero(plane)
            if len(y):
                corners = np.array(
                    [[x.min(), y.min()], [x.max(), y.min()], [x.max(), y.max()], [x.min(), y.max()]], float
                )
                corners += np.array([[-0.4, -0.4], [0.4, -0.4], [0.4, 0.4], [-0.4, 0.4]])
                points = np.column_stack([corners, np.full(4, z)]) * SPACING + ORIGIN
                found.append(points)
        return found

    @staticmethod
    def _volume(array: np.ndarray, origin, spacing) -> sitk.Image:
        image = sitk.GetImageFromArray(array)
        image.SetOrigin(origin)
        image.SetSpacing(spacing)
        return image


@pytest.fixture
def miniature(tmp_path):
    """A builder of miniatures in a folder of its own."""
    return Miniature(tmp_path / "source")


@pytest.fixture
def new_miniature():
    """Makes builders for further folders."""
    return Miniature


@pytest.fixture
def verify_integrity(monkeypatch, capsys):
    """nnU-Net's own ``verify_dataset_integrity``, whose warnings about geometry fail the test too."""
    from nnunetv2.experiment_planning import verify_dataset_integrity as module

    # Threads instead of spawned processes, each of which would import torch again.
    pools = types.SimpleNamespace(get_context=lambda _: types.SimpleNamespace(Pool=multiprocessing.pool.ThreadPool))
    monkeypatch.setattr(module, "multiprocessing", pools)

    def verify(folder: Path) -> None:
        capsys.readouterr()
        module.verify_dataset_integrity(str(folder), 1)
        assert "mismatch" not in capsys.readouterr().out

    return verify


@pytest.fixture
def make_raw_dataset(nnunet_folders):
    """Writes nnUNet_raw/<name> and returns its folder; images and label maps are arrays (z, y, x)."""
    import SimpleITK

    def make(name, labels, cases, *, order=None, channels=("CT",), ending=".nii.gz", extra=None, spacing=(1.5, 1, 1)):
        folder = nnunet_folders / "nnUNet_raw" / name
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True)

        def write(array, path):
            image = SimpleITK.GetImageFromArray(array)
            image.SetSpacing([float(value) for value in spacing[::-1]])
            SimpleITK.WriteImage(image, str(path))

        for case, (images, label) in cases.items():
            for channel, image in enumerate(images if isinstance(images, list) else [images]):
                write(image, folder / "imagesTr" / f"{case}_{channel:04d}{ending}")
            write(label, folder / "labelsTr" / f"{case}{ending}")
        dataset_json = {
            "channel_names": {str(index): channel for index, channel in enumerate(channels)},
            "labels": labels,
            "numTraining": len(cases),
            "file_ending": ending,
            **({"regions_class_order": order} if order else {}),
            **(extra or {}),
        }
        (folder / "dataset.json").write_text(json.dumps(dataset_json))
        return folder

    return make


@pytest.fixture
def tiny_case():
    """Makes an image of noise and a label map with the given values in random places."""

    def make(seed, values, shape=(8, 10, 9), dtype=np.uint8):
        rng = np.random.default_rng(seed)
        image = rng.normal(0, 100, shape).astype(np.float32)
        return image, rng.choice(np.array([0, *values]), shape).astype(dtype)

    return make
