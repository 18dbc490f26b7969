"""Any folder of images and one mask per class."""

from __future__ import annotations

from functools import cached_property

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import FilePattern
from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.utilities.errors import UserError


class Converter(DatasetConverter):
    """Any folder of images and one mask per class, overlapping or not."""

    def file_patterns(self) -> tuple[FilePattern, ...]:
        """The user's patterns."""
        (usual,) = self.entry.patterns
        image, label = self.options.image or usual.image, self.options.label or usual.label or ""
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
