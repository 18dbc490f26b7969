"""Cuts a volume that is being resampled into tiles, so that no resampled array is larger than a processor's cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nnunetv2_ext.inference.deciding.axes import Axes, Tile
from nnunetv2_ext.utilities.errors import UserError

# For z, y and x: output voxels of a tile, and the fewest and most input voxels it may cover. Large enough to hide the
# cost of a call, small enough to rule out most classes and to stay in the processor's second-level cache; long rows
# keep vector units busy, and a GPU hides its calls only behind larger tiles.
_TILE = {
    "cpu": ((20, 4, 16), (20, 4, 16), (80, 4, 64)),
    "cuda": ((48, 8, 32), (48, 8, 32), (48, 8, 32)),
}


@dataclass(frozen=True)
class TileOnDevice:
    """One axis of a tile, and its weights on the device of the logits."""

    tile: Tile
    weights: Float[Tensor, "outputs inputs"]


@dataclass(frozen=True)
class Beam:
    """The tiles that share a tile of the z axis and a tile of the y axis.

    Attributes:
        logits: Float32 and contiguous: what the tiles need.
        z_tile: Their tile of the z axis.
        y_tile: Their tile of the y axis.
        x_tiles: All tiles of the x axis.
    """

    logits: Float[Tensor, "classes z y X"]
    z_tile: TileOnDevice
    y_tile: TileOnDevice
    x_tiles: list[TileOnDevice]

    def outputs(self, x_tile: TileOnDevice) -> tuple[slice, slice, slice]:
        """Where a tile lies in the output."""
        return self.z_tile.tile.outputs, self.y_tile.tile.outputs, x_tile.tile.outputs

    def highest_and_lowest(self) -> tuple[Float[Tensor, "classes tiles"], Float[Tensor, "classes tiles"]]:
        """The largest and the least logit of every class in every tile.

        Raises:
            UserError: A logit is NaN or infinite.
        """
        # Two reductions of one axis each: torch vectorises them, but not one reduction of two axes.
        highest, lowest = self.logits.amax(1).amax(1), self.logits.amin(1).amin(1)
        refuse_nonfinite(highest, lowest)
        spans = [tile.tile.inputs for tile in self.x_tiles]
        return (
            torch.stack([highest[:, span].amax(1) for span in spans], 1),
            torch.stack([lowest[:, span].amin(1) for span in spans], 1),
        )

    def resampled(self, x_tile: TileOnDevice, classes: Int[Tensor, " some"]) -> Float[Tensor, "some Z Y X"]:
        """The resampled logits of some classes in a tile: one small matrix product per axis."""
        values = self.logits[..., x_tile.tile.inputs].index_select(0, classes)
        if not x_tile.tile.is_identity:
            values = values @ x_tile.weights.t()
        if not self.y_tile.tile.is_identity:
            values = self.y_tile.weights @ values
        if not self.z_tile.tile.is_identity:
            plane = values.shape[2:]
            values = (self.z_tile.weights @ values.flatten(2)).unflatten(2, plane)
        return values

    def neighbours(
        self, x_tile: TileOnDevice, precision: type[np.floating]
    ) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """Along z, y and x: lower and upper inputs of a tile's outputs, counted from the beam's first, and weights."""
        z, y, x = self.z_tile.tile, self.y_tile.tile, x_tile.tile
        start = np.uint32(x.inputs.start)
        weights = tuple(tile.weight.astype(precision, copy=False) for tile in (z, y, x))
        return (z.lower, y.lower, x.lower + start), (z.upper, y.upper, x.upper + start), weights


def for_each_beam(logits: Float[Tensor, "classes z y x"], axes: Axes, visit: Callable[[Beam], None]) -> None:
    """Calls ``visit`` for every beam of tiles; on a CPU in as many threads as torch has."""
    device = logits.device
    sizes = _TILE["cuda" if device.type == "cuda" else "cpu"]
    tiles = [
        [TileOnDevice(tile, torch.tensor(tile.weights, device=device)) for tile in axis.tiles(*size)]
        for axis, size in zip(axes, sizes, strict=True)
    ]

    def work(pair: tuple[TileOnDevice, TileOnDevice]) -> None:
        z_tile, y_tile = pair
        # Autocast and gradients are set per thread. In half precision the products would no longer be exact.
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            part = logits[:, z_tile.tile.inputs, y_tile.tile.inputs].float().contiguous()
            visit(Beam(part, z_tile, y_tile, tiles[2]))

    beams = [(z_tile, y_tile) for z_tile in tiles[0] for y_tile in tiles[1]]
    with _exact_products(device):
        if device.type != "cpu":
            for beam in beams:
                work(beam)
            return
        # Torch's own threads meet after every call, which costs more than the short calls for a tile; whole beams
        # share nothing.
        try:
            with ThreadPoolExecutor(torch.get_num_threads(), initializer=partial(torch.set_num_threads, 1)) as pool:
                for _ in pool.map(work, beams):
                    pass
        finally:
            # The number is kept per thread, but also as the default of threads still to come.
            torch.set_num_threads(torch.get_num_threads())


def refuse_nonfinite(*values: Tensor) -> None:
    """Raises a UserError where a value is NaN or infinite."""
    if not all(bool(torch.isfinite(value).all()) for value in values):
        raise UserError(
            "Expected finite logits, but the network's output holds NaN or infinity; check the checkpoint, and predict "
            "in float32 (--precision float32)."
        )


@contextmanager
def _exact_products(device: torch.device) -> Iterator[None]:
    """Full float32 products even where the caller allows TF32 or bfloat16 for the network."""
    # Torch's older interface raises once a program has used this newer one, which knows what the older one set.
    backends: Any = torch.backends
    backend = (backends.cuda if device.type == "cuda" else backends.mkldnn).matmul
    before = backend.fp32_precision
    backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        backend.fp32_precision = before
