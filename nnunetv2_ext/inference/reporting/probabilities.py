"""Probabilities on disk, as nnU-Net's ensembling reads them, without an array of (classes x image) in memory."""

from __future__ import annotations

import math
import os
import pickle
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nnunetv2_ext.inference.deciding.resample import probabilities
from nnunetv2_ext.inference.deciding.streaming import Pieces
from nnunetv2_ext.inference.preparing.nnunet import NnunetPreprocessing
from nnunetv2_ext.inference.preparing.protocol import Prepared
from nnunetv2_ext.inference.segmentation import Segmenter
from nnunetv2_ext.inference.windows.ring import LogitSlab
from nnunetv2_ext.utilities.files import atomic_path

# Planes of logits that are resampled at once: all classes of them are held at the spacing of the image.
_PLANES_AT_ONCE = 4


class Probabilities:
    """Probabilities of one case, kept in a nameless file that vanishes with the object.

    Args:
        segmenter: Knows how the plans resample logits.
        has_regions: Sigmoid per class instead of softmax over classes.
        folder: Where there is room for ``channels x image`` float32 numbers.
    """

    def __init__(self, segmenter: Segmenter, has_regions: bool, folder: Path) -> None:
        self._segmenter = segmenter
        self._has_regions = has_regions
        self._folder = folder
        self._values: np.ndarray | None = None

    def fill(self, logits: Float[Tensor, "classes z y x"], prepared: Prepared) -> None:
        """Resamples logits and turns them into probabilities.

        Args:
            logits: All logits of the case at the network's spacing.
            prepared: The case.
        """
        self._values = values = self._new_array(len(logits), prepared)
        if self._segmenter.resamples_linearly:
            pieces = Pieces(logits.shape[1:], prepared.image_shape, self._segmenter.nearest_axis(prepared))
            for slab in _slabs(logits):
                for piece in pieces.of(slab):
                    z, y, x = piece.outputs
                    part = probabilities(piece.logits, piece.axes, has_regions=self._has_regions)
                    values[:, z, y, x] = part.cpu().numpy()
            return
        # With any other function of the plans: all classes go to the file one by one, then planes are normalised.
        for channel, resampled in enumerate(self._segmenter.resample_channels(logits, prepared)):
            values[channel] = resampled
        for plane in range(values.shape[1]):
            of_plane = torch.from_numpy(values[:, plane].copy())
            values[:, plane] = (of_plane.sigmoid() if self._has_regions else of_plane.softmax(0)).numpy()

    def write(
        self,
        target: Path,
        remembered: Path,
        preprocessing: NnunetPreprocessing,
        prepared: Prepared,
        classes: Sequence[str],
        properties: Any,
        channels: Sequence[int] | None = None,
    ) -> None:
        """Writes an ``.npz`` (``probabilities``: classes, z, y, x) and a ``.pkl``, as stock nnU-Net does.

        Args:
            target: The ``.npz``.
            remembered: The ``.pkl``.
            preprocessing: Puts the probabilities where the image was cut out; outside, background is certain.
            prepared: The case.
            classes: Names of the channels; written as ``classes`` beside the probabilities.
            properties: What nnU-Net's reader would have said about the image; they go to the ``.pkl``.
            channels: Which of ``classes`` were predicted, in the order of the prediction; the others get 0 everywhere.
        """
        values = self._values
        assert values is not None
        with (
            atomic_path(target) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        ):
            with archive.open("classes.npy", "w") as file:
                np.lib.format.write_array(file, np.array(list(classes)), allow_pickle=False)
            with archive.open("probabilities.npy", "w", force_zip64=True) as file:
                rows = dict(zip(range(len(classes)) if channels is None else channels, values, strict=True))
                nothing = np.zeros(prepared.image_shape, np.float32)
                for channel in range(len(classes)):
                    # What lies outside the crop comes back as 0: certain background is 0 below 1.
                    top = np.float32(channel == 0 and not self._has_regions)
                    whole = preprocessing.uncrop(rows.get(channel, nothing) - top, prepared) + top
                    if channel == 0:
                        header = {"descr": "<f4", "fortran_order": False, "shape": (len(classes), *whole.shape)}
                        np.lib.format.write_array_header_2_0(file, header)
                    file.write(np.ascontiguousarray(whole, dtype="<f4").data.cast("B"))
        with atomic_path(remembered) as temporary:
            temporary.write_bytes(pickle.dumps(properties))

    def _new_array(self, channels: int, prepared: Prepared) -> np.ndarray:
        shape = (channels, *prepared.image_shape)
        # Without a name no interrupt can leave it behind.
        with tempfile.TemporaryFile(dir=self._folder) as file:
            # A disk without room says so now, and not by a bus error when the array is filled.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, 4 * math.prod(shape))
            else:
                for _ in range(channels):
                    file.write(bytes(4 * math.prod(prepared.image_shape)))
                file.flush()
            return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)


def _slabs(logits: Float[Tensor, "classes z y x"]) -> list[LogitSlab]:
    planes = logits.shape[1]
    edges = [(start, min(start + _PLANES_AT_ONCE, planes)) for start in range(0, planes, _PLANES_AT_ONCE)]
    return [LogitSlab(0, start, stop, logits[:, start:stop]) for start, stop in edges]
