"""Any folder of images and label maps."""

from __future__ import annotations

from functools import cached_property

from nnunetv2_ext.dataset_conversion.own_files import OwnFiles
from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.utilities.errors import UserError


class Converter(OwnFiles):
    """Any folder of images and label maps."""

    @cached_property
    def order(self) -> LabelOrder:
        """The user's label order, or the names in the header of the first label map."""
        if self.options.order:
            return LabelOrder.read(self.options.order)
        first = next((case.label for case in self.cases() if case.label is not None), None)
        if first is None:
            raise UserError(f"Expected label maps in {self.root}, but found none.")
        return LabelOrder.read(first)
