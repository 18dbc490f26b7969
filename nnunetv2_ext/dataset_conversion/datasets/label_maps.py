"""Any folder of images and label maps."""

from __future__ import annotations

from functools import cached_property

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import FilePattern
from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.utilities.errors import UserError


class LabelMaps(DatasetConverter):
    """Any folder of images and label maps.

    Expects, unless ``--image`` and ``--label`` say otherwise, where ``{case}`` stands for the name of a case and
    ``{channel}`` for that of a channel::

        images/{case}.nii.gz
        labels/{case}.nii.gz

    ``--order`` says what the integers mean: the name of a label order, a JSON file like those in ``label_orders/``, or
    a dataset.json. Without it, the first label map must carry its names in its header.
    """

    name = "label_maps"
    title = "LabelMaps"
    is_generic = True

    def file_patterns(self) -> tuple[FilePattern, ...]:
        """The user's patterns."""
        image = self.options.image or "images/{case}.nii.gz"
        label = self.options.label or "labels/{case}.nii.gz"
        if "{case}" not in image or "{case}" not in label or "{class}" in label:
            raise UserError(
                f"Expected {{case}} in --image and --label, and no {{class}}, but got {image!r} and {label!r}; one "
                "mask per class is the layout 'masks'."
            )
        return (FilePattern(image, label),)

    @cached_property
    def order(self) -> LabelOrder:
        """The user's label order, or the names in the header of the first label map."""
        if self.options.order:
            return LabelOrder.read(self.options.order)
        first = next((case.label for case in self.cases() if case.label is not None), None)
        if first is None:
            raise UserError(f"Expected label maps in {self.root}, but found none.")
        return LabelOrder.read(first)
