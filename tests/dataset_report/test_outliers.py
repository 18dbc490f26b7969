"""Whether the odd case is found, and nothing else."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2_ext.dataset_report.cases import read_raw_dataset
from nnunetv2_ext.dataset_report.outliers import FEWEST_CASES, deviations, find_outliers
from nnunetv2_ext.dataset_report.report import report_dataset

ODD = "case_5"


def _spread(folder):
    """A spacing of three times the usual one along z, as when every third slice is kept."""
    for file in (folder / "imagesTr" / f"{ODD}_0000.nii.gz", folder / "labelsTr" / f"{ODD}.nii.gz"):
        image = SimpleITK.ReadImage(str(file))
        image.SetSpacing((1, 1.5, 9))
        SimpleITK.WriteImage(image, str(file))


def _relabelled(change):
    def plant(folder):
        file = folder / "labelsTr" / f"{ODD}.nii.gz"
        label = SimpleITK.ReadImage(str(file))
        new = SimpleITK.GetImageFromArray(change(SimpleITK.GetArrayFromImage(label)))
        new.CopyInformation(label)
        SimpleITK.WriteImage(new, str(file))

    return plant


def _darkened(folder):
    file = folder / "imagesTr" / f"{ODD}_0000.nii.gz"
    image = SimpleITK.ReadImage(str(file))
    array = SimpleITK.GetArrayFromImage(image)
    inside = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / "labelsTr" / f"{ODD}.nii.gz"))) == 1
    array[inside] -= 80
    new = SimpleITK.GetImageFromArray(array)
    new.CopyInformation(image)
    SimpleITK.WriteImage(new, str(file))


def _shrunk(label):
    label[4:][label[4:] == 1] = 0
    return label


PLANTED = {
    "spacing along z: 9 mm": _spread,
    "volume of liver": _relabelled(_shrunk),
    "mean intensity of liver": _darkened,
    "left structures on the patient's left": _relabelled(lambda label: np.array([0, 1, 3, 2], np.uint8)[label]),
    "at least one class": _relabelled(np.zeros_like),
}


@pytest.mark.parametrize("reason", PLANTED)
def test_a_planted_outlier_is_the_first_and_nothing_else_is_odd(raw_dataset, tmp_path, reason):
    folder = raw_dataset()
    PLANTED[reason](folder)
    report = report_dataset(read_raw_dataset(str(folder)), tmp_path, progress=False)
    assert report.odd == (ODD,)
    page = report.page.read_text(encoding="utf-8").replace("&#39;", "'")
    assert reason in page
    assert page.index(f"<strong>{ODD}</strong>") < page.index("<strong>case_0</strong>")


def test_a_class_that_all_but_one_have_is_missed(make_raw_dataset, usual_case, tmp_path):
    cases = {f"case_{number}": usual_case(number) for number in range(25)}
    cases[ODD][1][cases[ODD][1] == 2] = 0
    labels = {"background": 0, "liver": 1, "left": 2, "right": 3}
    folder = make_raw_dataset("Dataset006_Many", labels, cases)
    report = report_dataset(read_raw_dataset(str(folder)), tmp_path, progress=False)
    assert report.odd == (ODD,)
    assert "no left, which 24 of 25 cases have" in report.page.read_text(encoding="utf-8")


def test_cases_that_are_alike_are_not_odd_and_few_are_not_compared(raw_dataset, tmp_path):
    folder = raw_dataset()
    dataset = read_raw_dataset(str(folder))
    measures = report_dataset(dataset, tmp_path, progress=False).measures
    assert find_outliers(measures) == {}
    PLANTED["spacing along z: 9 mm"](folder)
    measures = report_dataset(dataset, tmp_path, overwrite=True, progress=False).measures
    assert set(find_outliers(measures)) == {ODD}
    assert find_outliers(measures[5 : 4 + FEWEST_CASES]) == {}


@given(st.lists(st.floats(-1000, 1000), min_size=1, max_size=30), st.floats(0.01, 10))
def test_deviations_are_distances_from_the_median_in_median_distances(values, least):
    median = statistics.median(values)
    unit = max(statistics.median(abs(value - median) for value in values), least)
    expected = [abs(value - median) / unit for value in values]
    assert deviations(values, least) == pytest.approx(expected)


def test_whatever_differs_from_equal_values_is_infinitely_far_where_no_least_deviation_is_given():
    assert deviations([0, 0, 0, 1], 0).tolist() == [0, 0, 0, math.inf]
