"""The ten tasks of the Medical Segmentation Decathlon."""

from __future__ import annotations

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.datasets.monai_datalist import DECATHLON
from nnunetv2_ext.dataset_conversion.layout import Case
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json


class Converter(DatasetConverter):
    """A task of the Decathlon, whose own dataset.json must have the known label values."""

    def cases(self) -> list[Case]:
        """All cases, after a look at the task's own dataset.json."""
        found = super().cases()
        labels = read_json(self.root / "dataset.json", DECATHLON)["labels"]
        values = {int(value) for value in labels} - {0}
        if values != set(self.order.values):
            raise UserError(
                f"Expected the label values {list(self.order.values)} of {self.name} in {self.root / 'dataset.json'}, "
                f"but found {sorted(values)}; this is another task."
            )
        return found
