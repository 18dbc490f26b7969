"""Any folder of images and one mask per class."""

from __future__ import annotations

from functools import cached_property

from nnunetv2_ext.dataset_conversion.own_files import OwnFiles
from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.utilities.errors import UserError


class Converter(OwnFiles):
    """Any folder of images and one mask per class, overlapping or not."""

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
