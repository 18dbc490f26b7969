"""Any folder of images and one mask per class."""

from __future__ import annotations

from functools import cached_property

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import FilePattern
from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.utilities.errors import UserError


class Masks(DatasetConverter):
    """Any folder of images and one mask per class, overlapping or not.

    Expects, unless ``--image`` and ``--label`` say otherwise, where ``{case}`` stands for the name of a case and
    ``{class}`` for that of a class::

        {case}/ct.nii.gz
        {case}/segmentations/{class}.nii.gz

    The classes are those that have a mask in any case, sorted by name, or those of ``--order`` in its order.
    Where masks overlap, every class becomes a region of the integers that it covers, so that nothing is lost
    (``--overlaps last`` lets the later class win instead).
    """

    name = "masks"
    title = "Masks"
    masks_exclude = False
    is_generic = True

    def file_patterns(self) -> tuple[FilePattern, ...]:
        """The user's patterns."""
        image = self.options.image or "{case}/ct.nii.gz"
        label = self.options.label or "{case}/segmentations/{class}.nii.gz"
        if "{case}" not in image or "{case}" not in label or "{class}" not in label:
            raise UserError(
                f"Expected {{case}} in --image and {{case}} and {{class}} in --label, but got {image!r} and {label!r}; "
                "one label map per case is the layout 'label_maps'."
            )
        return (FilePattern(image, label),)

    @cached_property
    def order(self) -> LabelOrder:
        """The classes, numbered from 1."""
        names = sorted({name for case in self.cases() for name in case.masks})
        if not self.options.order:
            return LabelOrder(self.name, {name: value for value, name in enumerate(names, start=1)})
        order = LabelOrder.read(self.options.order).consecutive()
        foreign = [name for name in names if name not in order.labels]
        if foreign:
            raise UserError(f"Expected the classes of {order.name}, but there are masks of {', '.join(foreign[:6])}.")
        return order
