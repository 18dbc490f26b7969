"""STU-Net, MultiTalent, SALT label trees and MONAI bundles for an unmodified nnU-Net v2."""

__version__ = "0.1.0"
