"""Finds images that occur more than once, in one dataset or across datasets, whatever their files are called.

Public datasets share images (the multi-organ set of Gibson et al. consists of BTCV and NIH Pancreas-CT images). When
one copy is trained on and another validated on, the validation is worthless.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# Two copies of one image that went through different file formats differ by rounding, about 1e-6 of the intensity
# range. Different images of equal size agree to 1e-4 in all of five independent numbers about once in 1e15 pairs.
STATISTICS_TOLERANCE = 1e-4


@dataclass(frozen=True)
class ImageFingerprint:
    """What is kept of an image to recognise it.

    Attributes:
        voxel_hash: Hash of shape and voxel values. It does not see the header, the file format or the data type.
        shape: Size in voxels along the axes, ascending.
        statistics: Numbers that survive flipped or exchanged axes, another intensity offset or scale, and another
            value in the padding outside the field of view. Empty for an image that is constant almost everywhere.
    """

    voxel_hash: str
    shape: tuple[int, ...]
    statistics: tuple[float, ...]


@dataclass(frozen=True)
class DuplicateGroup:
    """Cases that show the same image.

    Attributes:
        cases: Identifiers, sorted.
        identical: Whether all voxel values are equal; otherwise shape and statistics are.
    """

    cases: tuple[str, ...]
    identical: bool


def image_fingerprint(channels: Sequence[npt.NDArray[Any]]) -> ImageFingerprint:
    """Fingerprint of a case.

    Args:
        channels: One array per channel, shape (z, y, x) or (y, x); read plane by plane, never copied as a whole to a
            larger type.
    """
    digest = hashlib.blake2b(digest_size=16)
    statistics: list[float] = []
    for channel in channels:
        volume = channel if channel.ndim == 3 else channel[None]
        digest.update(repr(volume.shape).encode())
        for plane in volume:
            # Adding 0 turns -0.0 into 0.0, which some writers store and others do not.
            digest.update(np.add(plane, np.float32(0), dtype=np.float32).tobytes())
        statistics += _invariant_statistics(volume)
    shape = tuple(sorted(channels[0].shape if channels[0].ndim == 3 else (1, *channels[0].shape)))
    return ImageFingerprint(digest.hexdigest(), shape, tuple(statistics))


def find_duplicates(fingerprints: Mapping[str, ImageFingerprint]) -> list[DuplicateGroup]:
    """Groups the cases that show the same image.

    Args:
        fingerprints: Case identifier -> fingerprint.

    Returns:
        Groups of at least two cases, in the order of their first case.
    """
    by_hash: dict[str, list[str]] = defaultdict(list)
    by_shape: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for case, fingerprint in fingerprints.items():
        by_hash[fingerprint.voxel_hash].append(case)
        if fingerprint.statistics:
            by_shape[fingerprint.shape, len(fingerprint.statistics)].append(case)
    close = (pair for cases in by_shape.values() for pair in _close_pairs(cases, fingerprints))
    return [
        DuplicateGroup(cases, identical=len({fingerprints[case].voxel_hash for case in cases}) == 1)
        for cases in joined([*by_hash.values(), *close])
    ]


def _invariant_statistics(volume: npt.NDArray[Any]) -> list[float]:
    """Mean, spread, and the spread of the mean profile along each axis, between median and 99.5th percentile.

    The lower half is left out because it is where scanners and converters pad with -2048, -1024 or 0; values are
    measured in units of the remaining range, which takes offset and scale away.
    """
    # In place on one copy, and without interpolation, so that no array of doubles arises.
    values = volume.ravel().copy()
    positions = (values.size // 2, min(values.size - 1, int(values.size * 0.995)))
    values.partition(positions)
    low, high = (float(values[position]) for position in positions)
    del values
    if not np.isfinite([low, high]).all() or high <= low:
        return []
    depth, height, width = volume.shape
    profile_z, profile_y, profile_x = np.zeros(depth), np.zeros(height), np.zeros(width)
    squares = 0.0
    for z, plane in enumerate(volume):
        clipped = (np.clip(plane, low, high).astype(np.float64) - low) / (high - low)
        squares += float(np.square(clipped).sum())
        profile_z[z] = clipped.mean()
        profile_y += clipped.mean(axis=1) / depth
        profile_x += clipped.mean(axis=0) / depth
    mean = float(profile_z.mean())
    spread = float(np.sqrt(max(0.0, squares / volume.size - mean**2)))
    axes = sorted((len(profile), float(profile.std())) for profile in (profile_z, profile_y, profile_x))
    return [mean, spread, *(deviation for _, deviation in axes)]


def _close_pairs(cases: Sequence[str], fingerprints: Mapping[str, ImageFingerprint]) -> list[tuple[str, str]]:
    """Pairs whose statistics agree; sorted by the first number, so that only neighbours are compared."""
    order = sorted(cases, key=lambda case: fingerprints[case].statistics[0])
    table = np.array([fingerprints[case].statistics for case in order])
    pairs = []
    for index in range(len(order)):
        end = np.searchsorted(table[:, 0], table[index, 0] + STATISTICS_TOLERANCE, side="right")
        distances = np.abs(table[index + 1 : end] - table[index]).max(axis=1, initial=0)
        pairs += [(order[index], order[index + 1 + i]) for i in np.flatnonzero(distances <= STATISTICS_TOLERANCE)]
    return pairs


def joined(groups: Iterable[Sequence[str]]) -> list[tuple[str, ...]]:
    """Groups that have no case in common: those that have one become one, sorted."""
    group_of: dict[str, tuple[str, ...]] = {}
    for group in groups:
        parts = {group_of.get(case, (case,)) for case in group}
        if len(parts) > 1:
            union = tuple(sorted(case for part in parts for case in part))
            group_of.update(dict.fromkeys(union, union))
    return sorted(set(group_of.values()))
