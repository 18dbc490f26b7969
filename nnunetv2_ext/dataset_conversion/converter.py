"""The contract of a converter: where a dataset keeps its files and what they mean.

A published dataset is one module in ``datasets/`` with one class that states a name, a label order and file patterns:

    ```python
    class SegTHOR(DatasetConverter):
        \"\"\"...what the folder looks like...\"\"\"

        name = "segthor"
        title = "SegTHOR"
        label_order = "segthor"
        patterns = (FilePattern("train/{case}/{case}.nii.gz", "train/{case}/GT.nii.gz"),)
    ```

Everything else, from reading and checking to writing, is common to all. See docs/extend.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nnunetv2_ext.dataset_conversion.layout import Case, FilePattern, find_cases, find_root
from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.utilities.errors import UserError

if TYPE_CHECKING:
    from nnunetv2_ext.images.volumes import Volume


@dataclass(frozen=True)
class ConversionOptions:
    """What the user may choose.

    Attributes:
        order: Label order (name or file) of the generic converters.
        image: File pattern of images of the generic converters.
        label: File pattern of labels of the generic converters.
        channel_names: Channel names of the generic converters; None for CT.
        resample_labels: Resample labels onto the image where their grids differ.
        strict: Warnings are errors.
        accept: Kinds of errors that are only warnings.
        copy_images: Rewrite every image instead of linking those that nnU-Net can read as they are.
        regions: Write the overlapping classes that the field evaluates (organ with its tumour) instead of the labels.
        overlaps: ``"regions"`` or ``"last"``: what becomes of overlapping masks; None for the dataset's own way.
    """

    order: str | None = None
    image: str | None = None
    label: str | None = None
    channel_names: tuple[str, ...] | None = None
    resample_labels: bool = False
    strict: bool = False
    accept: tuple[str, ...] = ()
    copy_images: bool = False
    regions: bool = False
    overlaps: str | None = None


class DatasetConverter:
    """Finds and reads the cases of one dataset. Instances travel to worker processes, so they must pickle.

    Attributes:
        name: On the command line.
        title: Ending of the nnU-Net dataset's folder name.
        label_order: Name of the label order that its label maps are in.
        channel_names: nnU-Net's channel names; ``CT`` chooses CT normalisation.
        patterns: Where its files lie.
        masks_exclude: Whether masks are meant not to overlap, so that stray overlaps need no regions.
        label_grids_are_wrong: Label maps have the image's voxels but a header that does not say where they lie.
        rewrite_values: Integers of its label maps that stand for another class, or (0) for none.
        is_generic: Whether the user says what the files mean.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    label_order: ClassVar[str] = ""
    channel_names: ClassVar[tuple[str, ...]] = ("CT",)
    patterns: ClassVar[tuple[FilePattern, ...]] = ()
    masks_exclude: ClassVar[bool] = True
    label_grids_are_wrong: ClassVar[bool] = False
    rewrite_values: ClassVar[Mapping[int, int]] = {}
    is_generic: ClassVar[bool] = False

    def __init__(self, source: Path | str, options: ConversionOptions | None = None) -> None:
        self.source = Path(source)
        self.options = options or ConversionOptions()
        foreign = {name: getattr(self.options, name) for name in ("order", "image", "label", "channel_names")}
        given = [f"--{name}" for name, value in foreign.items() if value is not None]
        if given and not self.is_generic:
            raise UserError(f"Expected {', '.join(given)} with a generic layout, but {self.name} has its own.")

    @cached_property
    def root(self) -> Path:
        """The folder that the patterns are relative to."""
        return find_root(self.source, self.file_patterns(), self.name)

    def file_patterns(self) -> tuple[FilePattern, ...]:
        """Where the files of this source lie; `patterns`, unless the user says so."""
        return self.patterns

    def cases(self) -> list[Case]:
        """All cases, in a fixed order.

        Raises:
            UserError: The source does not have this dataset's layout.
        """
        return find_cases(self.root, self.file_patterns())

    @cached_property
    def order(self) -> LabelOrder:
        """What the integers of the source's label maps mean; for masks, the names of the classes."""
        return LabelOrder.read(self.label_order)

    @property
    def target_order(self) -> LabelOrder:
        """What the integers of the nnU-Net dataset mean: those of the source without gaps."""
        return self.order.consecutive()

    def rewritten_values(self) -> Mapping[int, int]:
        """Integers of the label maps that stand for another class, or (0) for none."""
        return self.rewrite_values

    def channels(self) -> tuple[str, ...]:
        """nnU-Net's channel names."""
        return self.options.channel_names or self.channel_names

    def read_image(self, case: Case) -> list[Volume]:
        """The channels of a case.

        Raises:
            UserError: A file cannot be read.
        """
        from nnunetv2_ext.images.reading import read_dicom_series, read_volumes

        return [
            volume
            for path in case.images
            for volume in ([read_dicom_series(path)] if path.is_dir() else read_volumes(path, finite=False))
        ]

    def read_label(self, case: Case, image: Volume) -> Volume:
        """The label map of a case, in the integers of `order`.

        Args:
            case: A case with a label.
            image: Its first channel, for annotations that have no grid of their own.

        Raises:
            UserError: The file cannot be read.
        """
        from nnunetv2_ext.images.reading import read_volume

        assert case.label is not None
        return read_volume(case.label)

    def metadata(self, cases: Sequence[str]) -> dict[str, Any]:
        """Further entries for the dataset.json, given the identifiers of its training cases."""
        return {}
