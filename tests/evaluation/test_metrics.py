"""Overlap metrics against nnU-Net's own, all metrics against brute force, and what empty masks mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nnunetv2_ext.evaluation.metrics import METRICS, ScoredClass, evaluate_label_map
from nnunetv2_ext.utilities.errors import UserError

CLASSES = (
    ScoredClass("one", "1", (1,), (1,)),
    ScoredClass("both", "(1, 2)", (1, 2), (1, 2)),
    ScoredClass("other", "3", (3,), (7,)),
    ScoredClass("absent", "4", (4,), (4,)),
)


def _beside(mask):
    """Voxels that have a face in common with one of a mask; a border of one voxel is added."""
    padded = np.pad(mask, 1)
    return np.any([np.roll(padded, step, axis) for axis in range(mask.ndim) for step in (-1, 1)], axis=0)


def from_masks(reference, prediction, spacing, ignored=None):
    """Metrics of two masks written as in a textbook, distances over all pairs of surface voxels."""
    from scipy import ndimage

    nan = float("nan")
    ignored = np.zeros(reference.shape, dtype=bool) if ignored is None else ignored
    reference, prediction = reference & ~ignored, prediction & ~ignored
    tp, n_ref, n_pred = (reference & prediction).sum(), reference.sum(), prediction.sum()
    expected = dict.fromkeys(METRICS, nan)
    expected |= {"TP": tp, "n_ref": n_ref, "n_pred": n_pred, "FP": n_pred - tp, "FN": n_ref - tp}
    expected["VolumeError"] = (float(n_pred) - float(n_ref)) * np.prod(spacing) / 1000
    if n_ref + n_pred:
        expected |= {"Dice": 2 * tp / (n_ref + n_pred), "IoU": tp / (reference | prediction).sum()}
        expected |= {name: 0.0 for name in METRICS if name.startswith("SurfaceDice")}
    if n_pred:
        expected["Precision"] = tp / n_pred
    if n_ref:
        expected |= {"Recall": tp / n_ref, "RelativeVolumeError": (float(n_pred) - float(n_ref)) / n_ref}
    if n_ref and n_pred:
        surfaces = []
        for mask in (reference, prediction):
            known = np.pad(mask, 1) & ~_beside(ignored)
            surfaces.append(known & np.pad(mask & ~ndimage.binary_erosion(mask), 1))
        distances = {name: nan for name in METRICS if name.startswith("SurfaceDice")}
        if all(surface.any() for surface in surfaces):
            far = [ndimage.distance_transform_edt(~surface, sampling=spacing) for surface in surfaces]
            one, two = far[1][surfaces[0]], far[0][surfaces[1]]
            distances["HD95"] = max(np.percentile(one, 95), np.percentile(two, 95))
            distances["MeanSurfaceDistance"] = np.concatenate([one, two]).mean()
            for name, mm in (("1mm", 1), ("2mm", 2), ("3mm", 3), ("", 2)):
                distances[f"SurfaceDice{name}"] = float(np.mean(np.concatenate([one, two]) <= mm))
        expected |= distances
    return expected


def _compare(metrics, expected, valid_voxels):
    assert list(metrics) == list(METRICS)
    expected["TN"] = valid_voxels - expected["TP"] - expected["FP"] - expected["FN"]
    for name in METRICS:
        assert metrics[name] == pytest.approx(expected[name], abs=1e-6, nan_ok=True), name


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(1, 7)] * 3).flatmap(
        lambda shape: st.tuples(
            hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, 4, 5])),
            hnp.arrays(np.int16, shape, elements=st.sampled_from([-1, 0, 1, 2, 7, 300])),
        )
    ),
    st.tuples(*[st.floats(0.3, 5).map(lambda value: value + 1e-3 / 7)] * 3),
    st.sampled_from([None, 5]),
)
def test_random_label_maps(maps, spacing, ignore_label):
    reference, prediction = maps
    ignored = np.zeros(reference.shape, dtype=bool) if ignore_label is None else reference == ignore_label
    results = evaluate_label_map(reference, prediction, spacing, CLASSES, ignore_label)
    for scored in CLASSES:
        masks = np.isin(reference, scored.reference), np.isin(prediction, scored.prediction)
        _compare(results[scored.key], from_masks(*masks, spacing, ignored), (~ignored).sum())


@pytest.mark.parametrize("axis", range(3))
def test_the_border_of_ignored_voxels_is_no_surface(axis):
    # Two parts, each predicted one voxel aside; nobody said what the second one is.
    reference, prediction = np.zeros((2, 24, 24, 24), dtype=np.uint8)
    for start, end in ((4, 8), (14, 20)):
        reference[4:20, 4:20, start:end], prediction[4:20, 4:20, start + 1 : end + 1] = 1, 1
    maps = np.moveaxis(reference, 2, axis), np.moveaxis(prediction, 2, axis)
    (known,) = evaluate_label_map(*maps, (1, 1, 1), CLASSES[:1], 9).values()
    reference[4:20, 4:20, 14:20] = 9
    (metrics,) = evaluate_label_map(*maps, (1, 1, 1), CLASSES[:1], 9).values()
    assert [metrics["HD95"], metrics["SurfaceDice1mm"]] == [known["HD95"], known["SurfaceDice1mm"]] == [1, 1]


def test_lesions_are_counted_by_components():
    reference, prediction = np.zeros((2, 6, 12, 12), dtype=np.uint8)
    reference[1:3, 1:3, 1:3], reference[1:3, 8:10, 1:3], reference[4, 4, 4], reference[5, 5, 5] = 1, 1, 1, 1
    # The first is met by two parts; one over a corner is one lesion; one is invented; one may go on where ignored.
    prediction[1, 1, 1], prediction[2, 2, 2], prediction[5, 5, 5], prediction[1:3, 8, 8], prediction[1, 10, 10] = [
        1
    ] * 5
    reference[1, 11, 11] = 9
    scored = ScoredClass("one", "1", (1,), (1,), lesions=True)
    (metrics,) = evaluate_label_map(reference, prediction, (1, 1, 1), [scored], 9).values()
    assert [metrics[f"Lesions{what}"] for what in ("Detected", "Missed", "Invented")] == [2, 1, 1]
    (metrics,) = evaluate_label_map(reference, prediction, (1, 1, 1), [scored]).values()
    assert [metrics[f"Lesions{what}"] for what in ("Detected", "Missed", "Invented")] == [2, 1, 2]


def test_a_class_has_a_tolerance_of_its_own():
    reference = np.zeros((8, 8, 8), dtype=np.uint8)
    reference[2] = 1
    classes = [ScoredClass("one", str(mm), (1,), (1,), tolerance=mm) for mm in (1.9, 2.1)]
    results = evaluate_label_map(reference, np.roll(reference, 2, axis=0), (1.05, 1, 1), classes)
    assert results["1.9"]["SurfaceDice"] == 0.0
    assert results["2.1"]["SurfaceDice"] == 1.0


def test_overlaps_equal_nnunets(tmp_path):
    import SimpleITK
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    rng = np.random.default_rng(0)
    maps = rng.integers(0, 6, (2, 9, 10, 11)).astype(np.uint8)
    for name, label_map in zip(("reference", "prediction"), maps, strict=True):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(label_map), str(tmp_path / f"{name}.nii.gz"))
    regions = [1, (2, 3), 4, 9]
    files = str(tmp_path / "reference.nii.gz"), str(tmp_path / "prediction.nii.gz")
    expected = compute_metrics(*files, SimpleITKIO(), regions, ignore_label=5)["metrics"]
    classes = []
    for region in regions:
        values = region if isinstance(region, tuple) else (region,)
        classes.append(ScoredClass(str(region), str(region), values, values))
    results = evaluate_label_map(maps[0], maps[1], (1, 1, 1), classes, ignore_label=5)
    for region in regions:
        for metric, value in expected[region].items():
            assert results[str(region)][metric] == pytest.approx(value, nan_ok=True), metric
    assert np.isnan(results["4"]["Dice"]) == np.isnan(expected[4]["Dice"])


def test_real_masks_with_anisotropic_spacing(real_ct):
    import SimpleITK

    file = real_ct / "totalsegmentator_v2_labels.nii.gz"
    reference = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file)))[::2]
    prediction = np.roll(reference, (1, -1), (0, 2))
    values = [int(value) for value in np.unique(reference) if value][:12]
    prediction[reference == values[3]] = 0
    classes = [ScoredClass(str(value), str(value), (value,), (value,)) for value in values]
    spacing = (6.1, 3.01, 2.97)
    results = evaluate_label_map(reference, prediction, spacing, classes)
    for value in values:
        expected = from_masks(reference == value, prediction == value, spacing)
        _compare(results[str(value)], expected, reference.size)


def test_perfect_missed_invented_and_absent():
    reference = np.zeros((4, 5, 6), dtype=np.uint8)
    prediction = reference.copy()
    reference[1:3, 1:3, 1:3], prediction[1:3, 1:3, 1:3] = 1, 1
    reference[0, 0, 0], prediction[3, 4, 5] = 2, 3
    classes = [ScoredClass(name, name, (int(name),), (int(name),)) for name in "1234"]
    perfect, missed, invented, absent = evaluate_label_map(reference, prediction, (2, 1, 1), classes).values()
    assert [perfect[m] for m in ("Dice", "Precision", "Recall", "SurfaceDice1mm", "HD95")] == [1, 1, 1, 1, 0]
    assert (missed["Dice"], missed["Recall"], missed["SurfaceDice3mm"]) == (0, 0, 0)
    assert np.isnan([missed["Precision"], missed["HD95"], missed["MeanSurfaceDistance"]]).all()
    assert missed["VolumeError"] == pytest.approx(-0.002)
    assert (invented["Dice"], invented["Precision"]) == (0, 0)
    assert np.isnan([invented["Recall"], invented["HD95"], invented["RelativeVolumeError"]]).all()
    assert np.isnan([absent[m] for m in ("Dice", "IoU", "HD95", "SurfaceDice1mm", "Precision", "Recall")]).all()
    assert absent["VolumeError"] == 0


def test_two_dimensions_and_unequal_shapes():
    reference = np.zeros((6, 7), dtype=np.uint8)
    reference[2:5, 2:5] = 1
    prediction = np.roll(reference, 1, axis=1)
    results = evaluate_label_map(reference, prediction, (1, 0.5), [ScoredClass("a", "1", (1,), (1,))])
    assert results["1"]["HD95"] == pytest.approx(0.5)
    with pytest.raises(UserError, match=r"shape \(6, 7\) of its reference, but found \(5, 7\)"):
        evaluate_label_map(reference, prediction[1:], (1, 1), [])
