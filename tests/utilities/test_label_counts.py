"""Counting in pieces equals counting at once."""

from __future__ import annotations

import numpy as np
import pytest

from nnunetv2_ext.utilities import label_counts


@pytest.mark.parametrize("piece", [1, 7, 1 << 22])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64])
def test_counts(monkeypatch, piece, dtype):
    monkeypatch.setattr(label_counts, "_PIECE", piece)
    label_map = np.random.default_rng(0).integers(0, 9, (4, 5, 6)).astype(dtype)[:, ::2]
    expected = [int((label_map == value).sum()) for value in range(12)]
    assert label_counts.count_label_values(label_map, 12).tolist() == expected
    assert label_counts.count_label_values(label_map[:0], 3).tolist() == [0, 0, 0]
