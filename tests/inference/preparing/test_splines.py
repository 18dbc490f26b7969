"""Plane-by-plane spline resampling against nnU-Net's own function."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from nnunetv2_ext.inference.preparing import splines as spline_resampling
from nnunetv2_ext.inference.preparing.splines import LeanConfiguration, resample_spline

axis_sizes = st.integers(1, 24)
shapes = st.tuples(axis_sizes, axis_sizes, axis_sizes)


def configuration_of(**changes):
    options = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    return {
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": options,
        "spacing": [1.0, 1.0, 1.0],
        "architecture": {"network_class_name": "", "arch_kwargs": {}, "_kw_requires_import": []},
    } | changes


@settings(deadline=None, max_examples=60)
@given(shapes, shapes, st.integers(1, 5), st.booleans(), st.integers(0, 99))
def test_values_are_those_of_nnunet(shape, new_shape, order, steps, seed):
    volume = np.random.default_rng(seed).normal(0, 1, shape)
    if steps:  # edges overshoot, and are clipped to the range of the image
        volume = np.where(volume > 0, 1000.0, -1000.0)
    expected = resample_data_or_seg_to_shape(
        volume[None], new_shape, (1, 1, 1), (1, 1, 1), order=order, force_separate_z=False
    )[0]
    np.testing.assert_allclose(resample_spline(volume, new_shape, order), expected, atol=1e-12 * np.abs(volume).max())


def test_float32_volumes_larger_than_what_is_resampled_at_once(monkeypatch):
    monkeypatch.setattr(spline_resampling, "_COLUMNS_AT_ONCE", 100)
    volume = np.random.default_rng(0).normal(0, 300, (40, 50, 61)).astype(np.float32)
    expected = resample_data_or_seg_to_shape(volume[None], (27, 70, 44), (1, 1, 1), (1, 1, 1), order=3)[0]
    result = resample_spline(volume, (27, 70, 44))
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    ("changes", "lean"),
    [
        ({}, True),
        ({"resampling_fn_data": "resample_torch_fornnunet", "resampling_fn_data_kwargs": {"is_seg": False}}, False),
        ({"resampling_fn_data_kwargs": {"is_seg": False, "order": 1}}, False),
        ({"resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "force_separate_z": True}}, False),
        ({"resampling_fn_data_kwargs": {"is_seg": False, "separate_z_anisotropy_threshold": 4}}, False),
    ],
)
def test_the_configuration_replaces_spline_resampling_and_nothing_else(monkeypatch, changes, lean):
    calls = []

    def count(volume, new_shape, order):
        calls.append(order)
        return resample_spline(volume, new_shape, order)

    monkeypatch.setattr(spline_resampling, "resample_spline", count)
    configuration = configuration_of(**changes)
    data = np.random.default_rng(0).normal(0, 1, (2, 12, 20, 21)).astype(np.float32)
    arguments = (data, (12, 30, 17), (2.0, 1.0, 1.0), (2.0, 1.5, 0.8))
    result = LeanConfiguration(configuration).resampling_fn_data(*arguments)
    np.testing.assert_array_equal(result, ConfigurationManager(configuration).resampling_fn_data(*arguments))
    assert bool(calls) == lean


def test_anisotropic_images_are_left_to_nnunet():
    data = np.random.default_rng(0).normal(0, 1, (1, 6, 20, 21)).astype(np.float32)
    arguments = (data, (9, 30, 17), (5.0, 1.0, 1.0), (3.5, 0.7, 1.2))
    configuration = configuration_of()
    result = LeanConfiguration(configuration).resampling_fn_data(*arguments)
    np.testing.assert_array_equal(result, ConfigurationManager(configuration).resampling_fn_data(*arguments))


def test_an_image_of_the_right_shape_is_handed_on():
    data = np.ones((1, 3, 4, 5), np.float32)
    assert LeanConfiguration(configuration_of()).resampling_fn_data(data, (3, 4, 5), (1, 1, 1), (1, 1, 1)) is data
