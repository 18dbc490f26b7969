import numpy as np
import pytest

from nnunetv2_ext.images.reading import read_dicom_series
from nnunetv2_ext.images.rtstruct import find_rtstruct, read_rtstruct
from nnunetv2_ext.images.volumes import Volume, oriented_lps, resample_label
from nnunetv2_ext.utilities.errors import UserError

SPACING = np.array((1.5, 1.25, 3.0))
ORIGIN = np.array((-20.0, 10.0, 300.0))


def _millimetres(polygon, z):
    return np.column_stack([polygon, np.full(len(polygon), z)]) * SPACING + ORIGIN


def _inside(polygon, x, y):
    """Even-odd rule by counting the edges that a ray to the right crosses."""
    crossings = 0
    for (x1, y1), (x2, y2) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if (y1 > y) != (y2 > y) and x < (x2 - x1) * (y - y1) / (y2 - y1) + x1:
            crossings += 1
    return crossings % 2 == 1


@pytest.fixture
def series(miniature):
    miniature.dicom("patient/ct", miniature.image())
    return read_dicom_series(miniature.root / "patient")


def test_fills_polygons_with_holes(miniature, series):
    random = np.random.default_rng(3)
    angles = np.sort(random.uniform(0, 2 * np.pi, 9))
    star = np.column_stack([np.cos(angles), np.sin(angles)]) * random.uniform(3, 6.3, (9, 1)) + (7.3, 6.2)
    hole = np.array([[6.1, 5.2], [8.4, 5.1], [8.2, 7.3], [6.2, 7.4]])
    file = miniature.rtstruct("patient/rs/1.dcm", {"Heart ": [_millimetres(star, 4), _millimetres(hole, 4)]})
    assert find_rtstruct(miniature.root / "patient") == file
    label = read_rtstruct(file, series, {"heart": 3})
    truth = [[3 * (_inside(star, x, y) ^ _inside(hole, x, y)) for x in range(16)] for y in range(14)]
    np.testing.assert_array_equal(label.array[4], truth)
    assert np.count_nonzero(label.array) == np.count_nonzero(truth) > 20


def test_the_later_structure_wins(miniature, series):
    square = _millimetres(np.array([[2.5, 2.5], [6.5, 2.5], [6.5, 6.5], [2.5, 6.5]]), 1)
    file = miniature.rtstruct("patient/rs/1.dcm", {"a": [square], "b": [square + np.array((3, 0, 0))]})
    label = read_rtstruct(file, series, {"a": 1, "b": 2}).array[1]
    assert np.count_nonzero(label == 1) == 8
    assert np.count_nonzero(label == 2) == 16


def test_says_what_is_missing_or_foreign(miniature, series, tmp_path):
    square = _millimetres(np.array([[2.5, 2.5], [6.5, 2.5], [6.5, 6.5]]), 1)
    file = miniature.rtstruct("patient/rs/1.dcm", {"a": [square]})
    with pytest.raises(UserError, match="Expected the contours b"):
        read_rtstruct(file, series, {"a": 1, "b": 2})
    elsewhere = miniature.rtstruct("patient/other/1.dcm", {"a": [square + np.array((0, 0, 500))]})
    with pytest.raises(UserError, match="another series"):
        read_rtstruct(elsewhere, series, {"a": 1})
    with pytest.raises(UserError, match="one RTSTRUCT"):
        find_rtstruct(miniature.root / "patient")
    (tmp_path / "no.dcm").write_text("nothing")
    with pytest.raises(UserError, match="damaged"):
        read_rtstruct(tmp_path / "no.dcm", series, {"a": 1})
    assert find_rtstruct(tmp_path / "empty") is None


def test_a_placed_label_takes_the_axes_of_the_image(series):
    """What the converters of label maps without a position do: same voxels, other axis order."""
    grid = series.grid
    flipped = Volume(
        series.array[::-1, ::-1], type(grid)(grid.size, grid.spacing, (0, 0, 0), (1, 0, 0, 0, -1, 0, 0, 0, -1))
    )
    oriented = oriented_lps(flipped)
    placed = resample_label(Volume(oriented.array, oriented_lps(Volume(series.array, grid)).grid), grid)
    np.testing.assert_array_equal(placed.array, series.array)
