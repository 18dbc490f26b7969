"""The only module that nnU-Net's trainer lookup imports from this package.

nnU-Net removes every module found below an external folder from ``sys.modules`` after the lookup. Re-exporting the
classes from the installed package keeps their identity, so they can be pickled and subclassed.
"""

from nnunetv2_ext.training.trainers import *  # noqa: F403
