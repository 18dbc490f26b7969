"""Phantoms as nnU-Net raw datasets, each annotated by a protocol of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from nnunetv2_ext.demo.phantoms import LABEL_VALUES, Phantom, make_phantom
from nnunetv2_ext.images.geometry import Grid
from nnunetv2_ext.images.label_maps import write_volume
from nnunetv2_ext.images.volumes import Volume
from nnunetv2_ext.utilities.files import write_json

FILE_ENDING = ".nii.gz"


@dataclass(frozen=True)
class Protocol:
    """What the annotators of one dataset drew.

    Attributes:
        dataset_id: nnU-Net's ID.
        name: Name of the dataset without the ID.
        classes: Class name -> structures of the phantom that it covers. Where classes share structures, the larger one
            comes first, and they become nnU-Net's regions.
    """

    dataset_id: int
    name: str
    classes: Mapping[str, Sequence[str]]

    @property
    def folder_name(self) -> str:
        """``DatasetXXX_Name``."""
        return f"Dataset{self.dataset_id:03d}_{self.name}"

    @property
    def label_values(self) -> dict[str, int]:
        """Structure -> value in the label maps; structures that belong to the same classes share one."""
        structures = dict.fromkeys(structure for covered in self.classes.values() for structure in covered)
        memberships = {s: tuple(name for name, covered in self.classes.items() if s in covered) for s in structures}
        values = {membership: value for value, membership in enumerate(dict.fromkeys(memberships.values()), start=1)}
        return {structure: values[membership] for structure, membership in memberships.items()}

    @property
    def class_values(self) -> dict[str, list[int]]:
        """Class -> values in the label maps; several for a class that shares structures with another."""
        values = self.label_values
        return {name: list(dict.fromkeys(values[s] for s in parts)) for name, parts in self.classes.items()}

    def dataset_json(self, num_training: int) -> dict[str, object]:
        """nnU-Net's dataset.json; with regions where classes share structures."""
        covered = self.class_values
        labels = {name: parts if len(parts) > 1 else parts[0] for name, parts in covered.items()}
        content: dict[str, object] = {"channel_names": {"0": "CT"}, "labels": {"background": 0} | labels}
        if any(len(parts) > 1 for parts in covered.values()):
            # nnU-Net writes region after region with these values, so that the smaller ones, listed later, stay.
            content["regions_class_order"] = [parts[0] for parts in covered.values()]
        return content | {"numTraining": num_training, "file_ending": FILE_ENDING}

    def annotate(self, phantom: Phantom) -> UInt8[np.ndarray, "z y x"]:
        """The label map that these annotators would draw of a phantom."""
        translation = np.zeros(len(LABEL_VALUES) + 1, dtype=np.uint8)
        for structure, value in self.label_values.items():
            translation[LABEL_VALUES[structure]] = value
        return translation[phantom.labels]


def write_raw_dataset(
    protocol: Protocol,
    raw_folder: Path,
    *,
    num_training: int,
    num_test: int,
    first_seed: int,
    patient: Callable[[int], Phantom] = make_phantom,
) -> Path:
    """Generates patients and writes them as an nnU-Net raw dataset.

    Args:
        protocol: Which structures are annotated, and how.
        raw_folder: ``nnUNet_raw``.
        num_training: Cases in imagesTr and labelsTr.
        num_test: Cases in imagesTs and labelsTs.
        first_seed: Patient ``i`` has the seed ``first_seed + i``: different datasets should have different patients.
        patient: Makes one from a seed.

    Returns:
        The dataset's folder.
    """
    folder = raw_folder / protocol.folder_name
    for number in range(num_training + num_test):
        part = "Tr" if number < num_training else "Ts"
        phantom = patient(first_seed + number)
        case = f"{protocol.name}_{number:03d}"
        _write(phantom.image, phantom, folder / f"images{part}" / f"{case}_0000{FILE_ENDING}")
        _write(protocol.annotate(phantom), phantom, folder / f"labels{part}" / f"{case}{FILE_ENDING}")
    write_json(protocol.dataset_json(num_training), folder / "dataset.json")
    return folder


def _write(array: np.ndarray, phantom: Phantom, path: Path) -> None:
    # Grids count x, y, z; their axes point to the patient's left, back and head, as the phantom's do.
    straight = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    write_volume(Volume(array, Grid(array.shape[::-1], phantom.spacing[::-1], phantom.origin[::-1], straight)), path)
