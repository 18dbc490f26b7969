"""Any dataset in SALT's layout."""

from __future__ import annotations

import shutil
from functools import cached_property

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import FilePattern
from nnunetv2_ext.labels.label_order import LabelOrder

# What SALT writes where nobody annotated.
_IGNORE = 255
