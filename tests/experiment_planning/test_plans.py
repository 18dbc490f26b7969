"""Plans for a dataset from a template or from a pretrained model's plans."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2_ext.experiment_planning.plans import plans_for_dataset
from nnunetv2_ext.experiment_planning.templates import list_templates, load_template
from nnunetv2_ext.utilities.errors import UserError


def plan(template, dataset_json, fingerprint, **overrides):
    return plans_for_dataset(
        template, dataset_json, fingerprint, name="mine", dataset_name="Dataset001_Some", **overrides
    )


@pytest.mark.parametrize("name", list_templates())
def test_stock_plans_manager_reads_every_template(name, dataset_json, make_fingerprint):
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    template = load_template(name)
    plans = plan(template, dataset_json, make_fingerprint())
    manager = PlansManager(plans)
    assert manager.dataset_name == "Dataset001_Some"
    assert manager.plans_name == "mine"
    assert manager.image_reader_writer_class.__name__ == "SimpleITKIO"
    for configuration_name in template["configurations"]:
        configuration = manager.get_configuration(configuration_name)
        assert configuration.data_identifier == f"mine_{configuration_name}"
        assert configuration.preprocessor_class.__name__ == configuration.preprocessor_name
        assert callable(configuration.resampling_fn_data)
        assert callable(configuration.resampling_fn_seg)
        assert callable(configuration.resampling_fn_probabilities)
        assert isinstance(configuration.batch_dice, bool)
    assert set(plans["foreground_intensity_properties_per_channel"]) == {"0"}


shapes = st.lists(st.tuples(*[st.integers(10, 400)] * 3), min_size=1, max_size=5)
spacing = st.tuples(*[st.floats(0.3, 6.0)] * 3)


@given(shapes, spacing)
def test_median_shape_is_nnunets(shapes, spacing):
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

    fingerprint = {
        "shapes_after_crop": [list(s) for s in shapes],
        "spacings": [list(spacing)] * len(shapes),
        "foreground_intensity_properties_per_channel": {"0": {"mean": 1.0, "std": 1.0}},
        "median_relative_size_after_cropping": 1.0,
    }
    dataset_json = {"channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}
    plans = plan(load_template("stunet_ct"), dataset_json, fingerprint, image_reader_writer="SimpleITKIO")
    expected = np.median([compute_new_shape(s, spacing, [1.5, 1.5, 1.5]) for s in shapes], axis=0)
    np.testing.assert_array_equal(plans["configurations"]["3d_fullres"]["median_image_size_in_voxels"], expected)


def test_overrides_are_taken_and_reported(dataset_json, make_fingerprint, caplog):
    with caplog.at_level(logging.INFO, "nnunetv2_ext"):
        plans = plan(
            load_template("stunet_ct"),
            dataset_json,
            make_fingerprint(),
            spacing=[3, 1, 1.0],
            patch_size=[64, 160, 100],
            batch_size=3,
        )
    configuration = plans["configurations"]["3d_fullres"]
    assert configuration["spacing"] == [3.0, 1.0, 1.0]
    assert configuration["patch_size"] == [64, 160, 128]
    assert configuration["batch_size"] == 3
    assert configuration["median_image_size_in_voxels"] == [200.0, 300.0, 300.0]
    for part in ("spacing [1.5, 1.5, 1.5] -> [3, 1, 1.0]", "batch_size 2 -> 3", "[64, 160, 100] -> [64, 160, 128]"):
        assert part in caplog.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"spacing": [1.0, 1.0]}, "3 positive numbers as spacing"),
        ({"spacing": [1.0, 0.0, 1.0]}, "3 positive numbers as spacing"),
        ({"patch_size": [64, -64, 64]}, "3 positive numbers as patch_size"),
        ({"batch_size": 0}, "batch size of at least 1"),
        ({"configurations": ["3d_lowres"]}, "3d_fullres, 2d, but got '3d_lowres'"),
    ],
)
def test_senseless_overrides(dataset_json, make_fingerprint, overrides, message):
    with pytest.raises(UserError, match=message):
        plan(load_template("stunet_ct"), dataset_json, make_fingerprint(), **overrides)


def test_pretrained_plans_keep_what_the_weights_were_trained_with(dataset_json, make_fingerprint):
    pretrained = plan(load_template("multitalent_unet"), dataset_json, make_fingerprint())
    pretrained["transpose_forward"] = [1, 0, 2]
    pretrained["transpose_backward"] = [1, 0, 2]
    pretrained["foreground_intensity_properties_per_channel"]["0"]["mean"] = 12.5
    small_images = make_fingerprint(shapes=((20, 60, 70),), spacings=((1.0, 2.0, 3.0),))
    plans = plan(pretrained, dataset_json, small_images)
    before, after = (p["configurations"]["3d_fullres"] for p in (pretrained, plans))
    for key in ("patch_size", "spacing", "normalization_schemes", "architecture", "batch_size"):
        assert after[key] == before[key]
    assert plans["foreground_intensity_properties_per_channel"]["0"]["mean"] == 12.5
    assert plans["transpose_forward"] == [1, 0, 2]
    assert plans["original_median_spacing_after_transp"] == [2.0, 1.0, 3.0]
    assert plans["original_median_shape_after_transp"] == [60, 20, 70]
    # (60, 20, 70) voxels of (2, 1, 3) mm at (1.5, 1, 1) mm
    assert after["median_image_size_in_voxels"] == [80.0, 20.0, 210.0]


def test_overrides_are_given_in_image_order(dataset_json, make_fingerprint):
    pretrained = plan(load_template("stunet_ct"), dataset_json, make_fingerprint())
    pretrained |= {"transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]}
    plans = plan(pretrained, dataset_json, make_fingerprint(), spacing=[1.0, 2.0, 3.0])
    assert plans["configurations"]["3d_fullres"]["spacing"] == [3.0, 1.0, 2.0]
    assert plans["transpose_backward"] == [1, 2, 0]


def test_cascade_of_stock_plans_still_inherits(dataset_json, make_fingerprint):
    stock = plan(load_template("stunet_ct"), dataset_json, make_fingerprint())
    stock["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_fullres"}
    plans = plan(stock, dataset_json, make_fingerprint())
    assert plans["configurations"]["3d_cascade_fullres"] == stock["configurations"]["3d_cascade_fullres"]
    alone = plan(stock, dataset_json, make_fingerprint(), configurations=["3d_cascade_fullres"])
    # The stage that it goes on from comes with it.
    assert alone["configurations"]["3d_cascade_fullres"]["previous_stage"] == "3d_fullres"
    assert alone["configurations"]["3d_fullres"]["patch_size"] == [128, 128, 128]


def test_two_dimensional_images(dataset_json, make_fingerprint):
    flat = make_fingerprint(shapes=((1, 300, 500),) * 3, spacings=((999.0, 1.0, 1.0),) * 3, channels=3)
    dataset_json |= {"channel_names": {"0": "R", "1": "G", "2": "B"}, "file_ending": ".png"}
    plans = plan(load_template("stunet_totalsegmentator"), dataset_json, flat)
    assert list(plans["configurations"]) == ["2d"]
    configuration = plans["configurations"]["2d"]
    assert configuration["spacing"] == [1.0, 1.0]
    assert configuration["patch_size"] == [304, 512]
    assert configuration["median_image_size_in_voxels"] == [300.0, 500.0]
    assert configuration["architecture"]["arch_kwargs"]["strides"] == [[1, 1], *[[2, 2]] * 4, [1, 2]]
    assert configuration["normalization_schemes"] == ["ZScoreNormalization"] * 3
    assert plans["image_reader_writer"] == "NaturalImage2DIO"
    with pytest.raises(UserError, match="-c 2d"):
        plan(load_template("stunet_ct"), dataset_json, flat, configurations=["3d_fullres"])


def test_2d_of_three_dimensional_images(dataset_json, make_fingerprint):
    plans = plan(load_template("multitalent_unet"), dataset_json, make_fingerprint(), configurations=["2d"])
    configuration = plans["configurations"]["2d"]
    assert configuration["spacing"] == [1.0, 1.0]
    assert configuration["patch_size"] == [320, 320]
    assert configuration["architecture"]["arch_kwargs"]["conv_op"] == "torch.nn.modules.conv.Conv2d"


def test_unknown_file_ending(dataset_json, make_fingerprint):
    dataset_json["file_ending"] = ".xyz"
    with pytest.raises(UserError, match=r"\.xyz"):
        plan(load_template("stunet_ct"), dataset_json, make_fingerprint())
