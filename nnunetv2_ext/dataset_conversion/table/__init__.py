"""The datasets that can be converted, a file per region of the body.

Layouts are those of the published archives. In them a field in braces stands for a part of one name, ``*`` for
anything, and ``**`` for any folders.
"""

from nnunetv2_ext.dataset_conversion.table.abdomen import ABDOMEN
from nnunetv2_ext.dataset_conversion.table.decathlon import DECATHLON
from nnunetv2_ext.dataset_conversion.table.head_and_spine import HEAD_AND_SPINE
from nnunetv2_ext.dataset_conversion.table.thorax import THORAX
from nnunetv2_ext.dataset_conversion.table.whole_body import WHOLE_BODY

DATASETS = (*ABDOMEN, *DECATHLON, *HEAD_AND_SPINE, *THORAX, *WHOLE_BODY)
