"""Patch, strides and median shape."""

from __future__ import annotations

import logging
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2_ext.experiment_planning.fit import derive_2d, fit_patch, total_stride
from nnunetv2_ext.experiment_planning.templates import load_template
from nnunetv2_ext.utilities.errors import UserError


def make_configuration(patch, strides):
    return {"patch_size": list(patch), "architecture": {"arch_kwargs": {"strides": [list(s) for s in strides]}}}


edges = st.integers(1, 300)
strides_3d = st.lists(st.tuples(*[st.integers(1, 2)] * 3), min_size=1, max_size=6)


@given(st.tuples(edges, edges, edges), strides_3d, st.tuples(edges, edges, edges), st.booleans(), st.booleans())
def test_result_always_fits_and_only_changes_with_a_reason(patch, strides, median, shrink, fixed):
    configuration = make_configuration(patch, strides)
    before = total_stride(configuration)
    fit_patch(configuration, "3d_fullres", median, shrink=shrink, network_is_fixed=fixed)
    after = total_stride(configuration)
    result = configuration["patch_size"]
    assert all(edge % step == 0 for edge, step in zip(result, after, strict=True))
    if max(before) > 1:
        assert math.prod(edge // step for edge, step in zip(result, after, strict=True)) > 1
    if fixed:
        assert after == before
    fits_already = all(edge % step == 0 for edge, step in zip(patch, before, strict=True))
    too_large = any(edge >= size + step for edge, size, step in zip(patch, median, before, strict=True))
    one_voxel = list(patch) == before
    if fits_already and not one_voxel and not (shrink and too_large):
        assert result == list(patch)
    if shrink and not fixed:
        assert all(e < m + s for e, m, s in zip(result, median, before, strict=True))


def test_says_what_it_changed_and_why(caplog):
    configuration = make_configuration([100, 128, 128], [[1, 1, 1], *[[2, 2, 2]] * 4])
    with caplog.at_level(logging.INFO, "nnunetv2_ext"):
        fit_patch(configuration, "3d_fullres", [40, 200, 200], shrink=True, network_is_fixed=False)
    assert configuration["patch_size"] == [48, 128, 128]
    text = caplog.text
    assert "[100, 128, 128] -> [112, 128, 128]" in text
    assert "multiples of its total stride [16, 16, 16]" in text
    assert "[112, 128, 128] -> [48, 128, 128]" in text


def test_pretrained_patch_is_kept():
    configuration = make_configuration([128, 128, 128], [[1, 1, 1], *[[2, 2, 2]] * 4])
    fit_patch(configuration, "3d_fullres", [40, 200, 200], shrink=False, network_is_fixed=True)
    assert configuration["patch_size"] == [128, 128, 128]


def test_explicit_divisor_counts_for_networks_without_strides():
    configuration = {
        "patch_size": [90, 90, 90],
        "patch_size_divisible_by": [8, 8, 8],
        "architecture": {"arch_kwargs": {"blocks_down": [1, 2, 2, 4]}},
    }
    fit_patch(configuration, "3d_fullres", [200, 200, 200], shrink=True, network_is_fixed=False)
    assert configuration["patch_size"] == [96, 96, 96]


def test_number_strides_count_for_every_axis():
    configuration = {"patch_size": [96] * 3, "architecture": {"arch_kwargs": {"strides": [2, 2, 2, 2]}}}
    assert total_stride(configuration) == [16, 16, 16]


def test_axes_must_agree():
    with pytest.raises(UserError, match="one number per axis"):
        fit_patch(make_configuration([64, 64], [[1, 1]]), "2d", [50, 50, 50], shrink=True, network_is_fixed=False)


@pytest.mark.parametrize("name", ["stunet_ct", "multitalent_unet", "multitalent_resenc"])
def test_2d_network_runs(name):
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    configuration = load_template(name)["configurations"]["3d_fullres"]
    arguments = configuration["architecture"]["arch_kwargs"]
    arguments["features_per_stage"] = [4] * 6
    flat = derive_2d(configuration, [0.5, 0.7], [70, 2000])
    assert flat["spacing"] == [0.5, 0.7]
    assert flat["patch_size"][0] in (80, 96)
    assert flat["patch_size"][1] == 512
    architecture = flat["architecture"]
    network = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        1,
        2,
        deep_supervision=False,
    )
    assert network(torch.zeros(1, 1, 96, 64)).shape == (1, 2, 96, 64)
    assert configuration["patch_size"] != flat["patch_size"]


def test_networks_without_strides_per_axis_stay_3d():
    configuration = {
        "patch_size": [96] * 3,
        "architecture": {"network_class_name": "monai.networks.nets.SegResNet", "arch_kwargs": {"spatial_dims": 3}},
    }
    with pytest.raises(UserError, match="SegResNet"):
        derive_2d(configuration, [1, 1], [100, 100])
