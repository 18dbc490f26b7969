"""Which axes are mirrored in training and prediction, and what becomes of left and right."""

from __future__ import annotations

from typing import Any

from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_ext.labels.left_right import left_right_axis, mirrored_name, mirrored_values
from nnunetv2_ext.labels.partial_labels import PartialLabels
from nnunetv2_ext.training.dataloading.left_right_mirror import LeftRightMirrorTransform
from nnunetv2_ext.training.options import RECORD
from nnunetv2_ext.utilities.errors import UserError


class MirroringTrainer(nnUNetTrainer):
    """nnU-Net's mirroring of all axes, or none, or one that knows left from right.

    Attributes:
        mirroring: Whether images are mirrored at all.
        mirror_pairs: Whether classes that differ by left and right change places where these are exchanged. The network
            then tells left from right by what it sees, so that its predictions are not averaged over that axis.
    """

    mirroring: bool = True
    mirror_pairs: bool = False

    # Set by nnU-Net; named here for type checkers, which do not see into nnU-Net.
    inference_allowed_mirroring_axes: tuple[int, ...] | None
    dataset_json: dict[str, Any]

    _left_right_axis: int | None = None

    def initialize(self) -> None:
        """Builds network, optimiser and loss.

        Raises:
            UserError: Left and right cannot be told.
        """
        if self.mirror_pairs:
            if self.my_init_kwargs.get(RECORD, {}).get("mirroring") is False:
                raise UserError("--mirror_pairs mirrors images and --no_mirroring does not; give one of the two.")
            mirrored_values(self.dataset_json)
            if isinstance(partial_labels := getattr(self, "partial_labels", None), PartialLabels):
                _refuse_half_pairs(partial_labels)
        super().initialize()

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(  # noqa: N802  nnU-Net's name
        self,
    ) -> tuple[Any, Any, Any, Any]:
        """nnU-Net's augmentation, with the axes that the options leave."""
        rotation, dummy_2d, initial_patch_size, axes = (
            super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        if self.mirror_pairs:
            self._left_right_axis = self._find_left_right_axis()
            self.inference_allowed_mirroring_axes = tuple(axis for axis in axes if axis != self._left_right_axis)
        elif not self.mirroring:
            self.inference_allowed_mirroring_axes = axes = None
        return rotation, dummy_2d, initial_patch_size, axes

    def get_training_transforms(self, *arguments: Any, **named: Any) -> Any:
        """nnU-Net's augmentation, in which pairs change places if they are to."""
        transforms = super().get_training_transforms(*arguments, **named)
        if self.mirror_pairs and self._left_right_axis is not None:
            table = mirrored_values(self.dataset_json)
            transforms.transforms = [
                LeftRightMirrorTransform(transform.allowed_axes, self._left_right_axis, table)
                if isinstance(transform, MirrorTransform)
                else transform
                for transform in transforms.transforms
            ]
        return transforms

    def _find_left_right_axis(self) -> int | None:
        """The axis of patches that runs from left to right in all cases; None where slices of it are trained.

        Raises:
            UserError: It is not the same in all cases, or they do not tell.
        """
        dataset = self.dataset_class(self.preprocessed_dataset_folder)
        found = {case: left_right_axis(dataset.load_case(case)[-1]) for case in dataset.identifiers}
        first, axis = next(iter(found.items()))
        if odd := [case for case, other in found.items() if other is None or other != axis]:
            raise UserError(
                f"--mirror_pairs expects images whose axis from left to right is known and the same everywhere, but in "
                f"{first} it is {_axis_name(axis)} and in {odd[0]} {_axis_name(found[odd[0]])}; bring them into one "
                "orientation and preprocess anew, or leave it out."
            )
        assert axis is not None  # of the first case, which is not among the odd ones
        # Slices of 2D trainings lack the first axis.
        place = self.plans_manager.transpose_forward.index(axis) + len(self.configuration_manager.patch_size) - 3
        return place if place >= 0 else None


def _axis_name(axis: int | None) -> str:
    return "unknown" if axis is None else "zyx"[axis]


def _refuse_half_pairs(partial_labels: PartialLabels) -> None:
    """A source that annotates one of a pair would be said to annotate the other in its mirrored images."""
    channels = {name: channel for channel, name in enumerate(partial_labels.class_names)}
    for case in (case for source in partial_labels.sources.values() for case in source.cases):
        annotated = partial_labels.annotated(case)
        for name, channel in channels.items():
            if annotated[channel] and not annotated[channels.get(mirrored_name(name), channel)]:
                raise UserError(
                    f"--mirror_pairs expects cases that annotate both of a pair, but {case} has {name} without "
                    f"{mirrored_name(name)}; leave it out."
                )
