import numpy as np
import pydicom
import pytest
from fixtures.dicom_folders import oblique_grid
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nnunetv2_ext.images.colours import display_colours
from nnunetv2_ext.images.dicom_annotations import plain_name
from nnunetv2_ext.images.dicom_source import Algorithm, only_series, read_source
from nnunetv2_ext.images.label_maps import write_dicom
from nnunetv2_ext.images.reading import read_dicom_series, read_slices
from nnunetv2_ext.images.rtstruct import StructureSet, find_rtstruct, outlines
from nnunetv2_ext.images.segments import segments_of
from nnunetv2_ext.images.volumes import Volume, oriented, resample_label
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
    structures = StructureSet(file)
    assert set(structures.names) == {"heart"}
    mask = structures.mask(["heart"], series.grid)
    truth = [[_inside(star, x, y) ^ _inside(hole, x, y) for x in range(16)] for y in range(14)]
    np.testing.assert_array_equal(mask[4], truth)
    assert np.count_nonzero(mask) == np.count_nonzero(truth) > 20


def test_structures_may_overlap(miniature, series):
    square = _millimetres(np.array([[2.5, 2.5], [6.5, 2.5], [6.5, 6.5], [2.5, 6.5]]), 1)
    file = miniature.rtstruct("patient/rs/1.dcm", {"a": [square], "b": [square + np.array((3, 0, 0))]})
    a, b, both = (StructureSet(file).mask(names, series.grid)[1] for names in ("a", "b", "ab"))
    assert [np.count_nonzero(mask) for mask in (a, b, a & b, both)] == [16, 16, 8, 24]
    np.testing.assert_array_equal(both, a | b)


def test_only_areas_count_and_only_what_was_drawn(miniature, series):
    square = _millimetres(np.array([[2.5, 2.5], [6.5, 2.5], [6.5, 6.5], [2.5, 6.5]]), 1)
    file = miniature.rtstruct("patient/rs/1.dcm", {"a": [square, square + np.array((0, 0, 3))], "template": []})
    content = pydicom.dcmread(file)
    contours = content.ROIContourSequence[0].ContourSequence
    contours[0].ContourGeometricType, contours[1].ContourGeometricType = "OPEN_PLANAR", "CLOSEDPLANAR_XOR"
    content.save_as(file)
    structures = StructureSet(file)
    assert set(structures.names) == {"a"}
    assert np.flatnonzero(structures.mask(["a"], series.grid).any(axis=(1, 2))).tolist() == [2]


def test_contours_of_bodies_fill_their_volumes(dicom_folder):
    """A ball, and a ring around the normal of oblique slices, whose middle is a hole."""
    grid = oblique_grid((60, 56, 80), (0.8, 0.9, 0.5))
    centre = (grid.matrix @ [30.2, 27.7, 39.2, 1])[:3]
    across, down, normal = np.reshape(grid.direction, (3, 3)).T
    slices = dicom_folder.series("ct", np.random.default_rng(0).integers(0, 99, grid.size[::-1]), grid)
    radius, large, small = 15.3, 14.2, 6.4
    circle = np.linspace(0, 2 * np.pi, 300, endpoint=False)[:, None]
    contours = {"Ball": [], "Ring": []}
    for z in range(80):
        height = (z - 39.2) * 0.5
        ball = [np.sqrt(radius**2 - height**2)] if abs(height) < radius else []
        ring = [large + sign * np.sqrt(small**2 - height**2) for sign in (1, -1)] if abs(height) < small else []
        for name, radii in (("Ball", ball), ("Ring", ring)):
            middle = centre + height * normal
            contours[name] += [middle + r * (np.cos(circle) * across + np.sin(circle) * down) for r in radii]
    structures = StructureSet(dicom_folder.rtstruct("rt", slices, contours))
    index = np.indices(grid.size[::-1])[::-1].reshape(3, -1)
    axes = np.stack([across, down, normal])
    x, y, z = axes @ (grid.matrix[:3, :3] @ index + grid.matrix[:3, 3:] - centre[:, None])
    truth = {
        "ball": x**2 + y**2 + z**2 < radius**2,
        "ring": (np.hypot(x, y) - large) ** 2 + z**2 < small**2,
    }
    volumes = {"ball": 4 / 3 * np.pi * radius**3, "ring": 2 * np.pi**2 * large * small**2}
    for name, inside in truth.items():
        mask = structures.mask([name], grid).ravel()
        assert mask.sum() * np.prod(grid.spacing) == pytest.approx(volumes[name], rel=0.01)
        assert 2 * (mask & inside).sum() / (mask.sum() + inside.sum()) > 0.99


def test_says_what_is_missing_or_foreign(miniature, series, tmp_path):
    square = _millimetres(np.array([[2.5, 2.5], [6.5, 2.5], [6.5, 6.5]]), 1)
    file = miniature.rtstruct("patient/rs/1.dcm", {"a": [square]})
    assert not StructureSet(file).mask(["b"], series.grid).any()
    elsewhere = miniature.rtstruct("patient/other/1.dcm", {"a": [square + np.array((0, 0, 500))]})
    with pytest.raises(UserError, match="another series"):
        StructureSet(elsewhere).mask(["a"], series.grid)
    with pytest.raises(UserError, match="one RTSTRUCT"):
        find_rtstruct(miniature.root / "patient")
    (tmp_path / "no.dcm").write_text("nothing")
    with pytest.raises(UserError, match="damaged"):
        StructureSet(tmp_path / "no.dcm")
    assert find_rtstruct(tmp_path / "empty") is None


def test_a_placed_label_takes_the_axes_of_the_image(series):
    """What the converters of label maps without a position do: same voxels, other axis order."""
    grid = series.grid
    flipped = Volume(
        series.array[::-1, ::-1], type(grid)(grid.size, grid.spacing, (0, 0, 0), (1, 0, 0, 0, -1, 0, 0, 0, -1))
    )
    in_lps = oriented(flipped, "LPS")
    placed = resample_label(Volume(in_lps.array, oriented(Volume(series.array, grid), "LPS").grid), grid)
    np.testing.assert_array_equal(placed.array, series.array)


# Writing -------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.booleans()))
def test_outlines_hold_the_pixels_of_a_mask_and_no_other(mask):
    polygons = list(outlines(mask))
    inside = np.zeros(mask.shape, bool)
    for polygon in polygons:
        # No contour lies within another: each is filled for itself.
        filled = np.array([[_inside(polygon, r, c) for c in range(mask.shape[1])] for r in range(mask.shape[0])])
        assert not (inside & filled).any()
        inside |= filled
    np.testing.assert_array_equal(inside, mask)


def test_a_hole_is_cut_out_by_a_line_through_the_mask():
    mask = np.ones((7, 9), bool)
    mask[2:5, 2:4] = mask[3, 5:8] = False
    mask[3, 6] = True
    (polygon,) = outlines(mask)
    steps = np.abs(np.diff(np.concatenate([polygon, polygon[:1]]), axis=0))
    lines = steps.max(axis=1) > 1
    # There and back, for each of the three holes; two of them meet their left neighbour.
    assert lines.sum() + (steps.max(axis=1) == 1).sum() >= 6
    assert (steps[lines].min(axis=1) == 0).all()


@pytest.mark.parametrize("oblique", [False, True])
def test_what_is_written_is_read_voxel_by_voxel(dicom_folder, tmp_path, oblique):
    names = {2: "liver", 5: "kidney_left", 300: "skin", 7: "absent"}
    grid = oblique_grid((40, 36, 9), (1.5, 1.25, 3.0))
    if not oblique:
        grid = type(grid)(grid.size, grid.spacing, grid.origin, (1, 0, 0, 0, 1, 0, 0, 0, 1))
    slices = dicom_folder.series("ct", np.zeros(grid.size[::-1]), grid)
    labels = np.random.default_rng(0).choice([0, 0, 2, 5], grid.size[::-1]).astype(np.uint16)
    labels[:, 5:15, 5:25] = 300
    labels[2:6, 8:12, 10:20] = 0
    labels[4, 9, 12] = 300
    labels[[0, 7]] = 0
    files = only_series(dicom_folder.root)
    source = read_source(files, read_slices(files).grid)
    file = tmp_path / "rt.dcm"
    write_dicom(labels, segments_of(labels, names), source, file, "rtstruct", Algorithm("a model", "1"))
    read = StructureSet(file)
    assert set(read.names) == {"liver", "kidney_left", "skin"}
    for value, name in names.items():
        np.testing.assert_array_equal(read.mask([plain_name(name)], source.grid), labels == value, err_msg=name)
    content = pydicom.dcmread(file)
    assert (content.Modality, content.ApprovalStatus) == ("RTSTRUCT", "UNAPPROVED")
    colours = [tuple(drawn.ROIDisplayColor) for drawn in content.ROIContourSequence]
    assert colours == [display_colours(names)[value] for value in (2, 5, 300)]
    for contour in (contour for drawn in content.ROIContourSequence for contour in drawn.ContourSequence):
        points = np.reshape(np.array(contour.ContourData, float), (-1, 3))
        assert len(points) == contour.NumberOfContourPoints
        (reference,) = contour.ContourImageSequence
        (image,) = (image for image in slices if image.SOPInstanceUID == reference.ReferencedSOPInstanceUID)
        normal = np.cross(image.ImageOrientationPatient[:3], image.ImageOrientationPatient[3:])
        assert np.abs((points - np.array(image.ImagePositionPatient)) @ normal).max() < 1e-3


def test_where_nothing_was_found_structures_have_no_contours(dicom_folder, tmp_path):
    grid = oblique_grid((9, 8, 3), (1.5, 1.25, 3.0))
    dicom_folder.series("ct", np.zeros(grid.size[::-1]), grid)
    files = only_series(dicom_folder.root)
    source = read_source(files, read_slices(files).grid)
    file = tmp_path / "rt.dcm"
    labels = np.zeros(grid.shape, np.uint8)
    write_dicom(labels, segments_of(labels, {1: "liver"}), source, file, "rtstruct", Algorithm("a model", "1"))
    assert [str(item.ROIName) for item in pydicom.dcmread(file).StructureSetROISequence] == ["liver"]
    assert not StructureSet(file).names
