"""The picture of a case."""

from __future__ import annotations

from io import BytesIO

import matplotlib.image
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2_ext.images import preview
from nnunetv2_ext.images.colours import display_colours
from nnunetv2_ext.images.geometry import Grid
from nnunetv2_ext.images.preview import _richest_slices, draw_label_maps, draw_thumbnail, write_preview

NAMES = {1: "head side", 2: "left"}


def _upright(direction="LPS", spacing=(2.0, 2.0, 4.0)):
    """Labelled tissue in air; label 1 towards the head, label 2 towards the patient's left; axes as asked."""
    labels = np.zeros((20, 30, 40), np.uint8)
    labels[15:, 5:25, 5:35] = 1
    labels[:8, 5:25, 30:] = 2
    image = SimpleITK.GetImageFromArray(labels)
    image.SetSpacing(spacing)
    turned = SimpleITK.DICOMOrient(image, direction)
    array = SimpleITK.GetArrayFromImage(turned)
    return array, np.where(array > 0, 40, -1000).astype(np.int16), Grid.of(turned)


def _place(picture, name):
    """Mean row and column of the pixels with the overlay colour of a class, and how many there are."""
    value = next(value for value, known in NAMES.items() if known == name)
    colour = np.array(display_colours(NAMES)[value]) / 255
    # Half of the colour over the grey of 40 HU in the middle of the window.
    expected = 0.5 * colour + 0.5 * (40 + 160) / 400
    rows, columns = np.nonzero(np.abs(picture[..., :3] - expected).max(-1) < 0.02)
    return rows.mean(), columns.mean(), len(rows)


@pytest.mark.parametrize("direction", ["LPS", "RAI", "PIR", "SLA"])
def test_head_is_up_and_the_patients_left_is_right_whatever_the_axis_order(tmp_path, direction):
    labels, image, grid = _upright(direction)
    write_preview(labels, image, NAMES, grid, tmp_path / "case.png", title="case")
    picture = matplotlib.image.imread(tmp_path / "case.png")
    width = picture.shape[1]
    # The coronal view is the second of the three; the legend is right of them.
    coronal = picture[:, int(width * 0.3) : int(width * 0.55)]
    head, left = _place(coronal, "head side"), _place(coronal, "left")
    assert head[2] > 500
    assert left[2] > 200
    assert head[0] < left[0], "label 1 lies above label 2"
    assert left[1] > head[1], "label 2 lies right of the middle"


def test_an_empty_map_a_single_slice_and_a_2d_image_are_drawn(tmp_path):
    labels, image, grid = _upright()
    write_preview(np.zeros_like(labels), image, NAMES, grid, tmp_path / "empty.png")
    one = Grid((40, 30, 1), grid.spacing, grid.origin, grid.direction)
    write_preview(labels[:1], image[:1], NAMES, one, tmp_path / "slice.png")
    flat = Grid((40, 30), (2.0, 2.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    write_preview(labels[:1], image[:1], NAMES, flat, tmp_path / "flat.png")
    for name in ("empty", "slice", "flat"):
        assert matplotlib.image.imread(tmp_path / f"{name}.png").std() > 0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), shape=st.tuples(*[st.integers(1, 6)] * 3), filled=st.floats(0, 1))
def test_the_slice_with_the_most_classes_is_drawn_and_among_equals_the_fullest(seed, shape, filled):
    random = np.random.default_rng(seed)
    labels = (random.choice([1, 2, 9], shape) * (random.random(shape) < filled)).astype(np.uint8)
    for axis, found in enumerate(_richest_slices(labels, np.flatnonzero(np.bincount(labels.ravel())[1:]) + 1)):
        planes = np.moveaxis(labels, axis, 0)
        scores = [(len(np.unique(plane[plane > 0])), np.count_nonzero(plane)) for plane in planes]
        assert scores[found] == max(scores)
        assert labels.any() or found == shape[axis] // 2


def test_classes_are_not_sought_plane_by_plane(tmp_path, monkeypatch):
    labels, image, grid = _upright()
    calls, unique = [], np.unique
    monkeypatch.setattr(np, "unique", lambda *args, **kwargs: calls.append(1) or unique(*args, **kwargs))
    write_preview(labels, image, NAMES, grid, tmp_path / "case.png")
    assert len(calls) < min(labels.shape)


def test_two_maps_are_drawn_where_they_differ(tmp_path):
    labels, image, grid = _upright()
    other = labels.copy()
    other[:, 20:, 5:10] = 0
    (tmp_path / "both.png").write_bytes(draw_label_maps({"one": labels, "two": other}, None, NAMES, grid, "case"))
    picture = matplotlib.image.imread(tmp_path / "both.png")
    rows = np.array_split(picture, 2)
    shares = [(np.abs(row[..., :3] - row[..., :3].mean(-1, keepdims=True)).max(-1) > 0.05).sum() for row in rows]
    assert shares[0] > shares[1] * 1.05 > 0
    assert draw_label_maps({"one": labels, "two": labels}, image, NAMES, grid)


@pytest.mark.parametrize("direction", ["LPS", "RAI", "PIR", "SLA"])
def test_a_thumbnail_shows_the_patient_upright_whatever_the_axis_order(direction):
    labels, image, grid = _upright(direction)
    picture = matplotlib.image.imread(BytesIO(draw_thumbnail(labels, image, NAMES, grid)), format="jpeg") / 255
    assert picture.shape == (160, 488, 3)
    # The slices differ in the richest plane, so each is looked at by itself; JPEG changes colours a little.
    for left_edge in (164, 328):
        head, left = (_place_roughly(picture[:, left_edge : left_edge + 160], name) for name in NAMES.values())
        assert head[0] < left[0], "label 1 lies above label 2"
    coronal = [_place_roughly(picture[:, 164:324], name) for name in NAMES.values()]
    assert coronal[1][1] > coronal[0][1], "label 2 lies right of the middle"


def _place_roughly(picture, name):
    value = next(value for value, known in NAMES.items() if known == name)
    expected = 0.5 * np.array(display_colours(NAMES)[value]) / 255 + 0.5 * (40 + 160) / 400
    rows, columns = np.nonzero(np.abs(picture - expected).max(-1) < 0.1)
    assert len(rows) > 100
    return rows.mean(), columns.mean()


def test_a_thumbnail_keeps_lengths():
    # A cube of 60 mm in voxels of 1 x 2 x 5 mm, in a volume of 120 mm along each axis.
    labels = np.zeros((24, 60, 120), np.uint8)
    labels[6:18, 15:45, 30:90] = 1
    grid = Grid((120, 60, 24), (1.0, 2.0, 5.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    image = np.where(labels > 0, 40, -1000).astype(np.int16)
    picture = matplotlib.image.imread(BytesIO(draw_thumbnail(labels, image, {1: "cube"}, grid)), format="jpeg")
    for number in range(3):
        inside = picture[:, number * 164 : number * 164 + 160].max(-1) > 60
        assert inside.any(1).sum() == pytest.approx(80, abs=2)
        assert inside.any(0).sum() == pytest.approx(80, abs=2)


def test_a_thumbnail_without_labels_and_of_two_dimensions():
    _, image, grid = _upright()
    picture = matplotlib.image.imread(BytesIO(draw_thumbnail(None, image, {}, grid)), format="jpeg")
    assert (np.ptp(picture.astype(int), axis=-1) < 20).all(), "grey"
    flat = Grid((40, 30), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    picture = matplotlib.image.imread(BytesIO(draw_thumbnail(None, image[:1], {}, flat)), format="jpeg")
    assert picture.shape == (160, 160, 3)


def test_a_label_that_a_sample_misses_is_shown(monkeypatch):
    monkeypatch.setattr(preview, "_VOXELS_OF_CHOICE", 8)
    labels = np.zeros((9, 11, 13), np.uint8)
    labels[5, 7, 3] = 1
    assert preview._slices_of_sample(labels) == [5, 7, 3]
    assert preview._slices_of_sample(np.zeros_like(labels)) == [4, 5, 6]
