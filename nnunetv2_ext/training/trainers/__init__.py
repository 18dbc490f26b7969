"""Every trainer of this package. A new trainer module is added to the list of imports below; nothing else is needed."""

from nnunetv2_ext.training.trainers.finetune import *  # noqa: F403
from nnunetv2_ext.training.trainers.label_tree import *  # noqa: F403
from nnunetv2_ext.training.trainers.mednext import *  # noqa: F403
from nnunetv2_ext.training.trainers.monai import *  # noqa: F403
from nnunetv2_ext.training.trainers.multitalent import *  # noqa: F403
from nnunetv2_ext.training.trainers.primus import *  # noqa: F403
from nnunetv2_ext.training.trainers.source_heads import *  # noqa: F403
from nnunetv2_ext.training.trainers.stunet import *  # noqa: F403
