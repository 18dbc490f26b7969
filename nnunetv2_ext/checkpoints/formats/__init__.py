"""One module per published naming of weights; `FORMATS` lists them in the order in which they are tried.

A further format is a module with a `CheckpointFormat` that recognises the names of its weights and translates them to
nnU-Net v2's, and an entry here.
"""

from __future__ import annotations

from nnunetv2_ext.checkpoints.formats import (
    ctfm,
    mednext,
    monai_bundle,
    multitalent_v2,
    nnssl,
    nnunet_v1_resenc,
    nnunet_v1_unet,
    nnunet_v2,
    stunet_v1,
    suprem,
    vista3d,
)
from nnunetv2_ext.checkpoints.formats.base import CheckpointFormat

FORMATS: tuple[CheckpointFormat, ...] = (
    # First: what it says of itself counts more than its names, some of which are nnU-Net's.
    nnssl.FORMAT,
    stunet_v1.FORMAT,
    nnunet_v1_unet.FORMAT,
    nnunet_v1_resenc.FORMAT,
    mednext.FORMAT,
    # Before the bundles, whose names it uses.
    suprem.FORMAT,
    monai_bundle.FORMAT,
    multitalent_v2.FORMAT,
    vista3d.FORMAT,
    ctfm.FORMAT,
    # Last: it takes everything that brings nnU-Net v2 plans or uses nnU-Net v2 names.
    nnunet_v2.FORMAT,
)

__all__ = ["FORMATS", "CheckpointFormat"]
