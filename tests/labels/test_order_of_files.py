"""Where the names of a label map's integers are looked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnunetv2_ext.images.geometry import Grid
from nnunetv2_ext.images.label_maps import write_label_map
from nnunetv2_ext.labels.order_of_files import order_of
from nnunetv2_ext.utilities.errors import UserError

GRID = Grid((2, 2, 2), (1, 1, 1), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))


def test_the_first_that_says_anything_is_believed(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    nameless, named = tmp_path / "below" / "a.nrrd", tmp_path / "below" / "b.nii.gz"
    write_label_map(np.ones((2, 2, 2), np.uint8), {}, GRID, nameless)
    write_label_map(np.ones((2, 2, 2), np.uint8), {1: "spleen"}, GRID, named)
    assert order_of([nameless]) is None
    for files, class_name in (([nameless, named], "spleen"), ([named], "spleen")):
        order = order_of(files)
        assert order is not None
        assert order.labels == {class_name: 1}
    (tmp_path / "labels.json").write_text(json.dumps({"name": "mine", "labels": {"liver": 1}}))
    order = order_of([nameless, named])
    assert order is not None
    assert order.labels == {"liver": 1}


def test_an_order_that_was_asked_for_has_to_be_one(tmp_path: Path) -> None:
    asked = order_of([tmp_path / "a.nrrd"], "msd_spleen")
    assert asked is not None
    assert asked.name == "msd_spleen"
    with pytest.raises(UserError, match="'nonsense' is none"):
        order_of([tmp_path / "a.nrrd"], "nonsense")
