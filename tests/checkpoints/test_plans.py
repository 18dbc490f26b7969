"""What plans may name, and how they inherit."""

from __future__ import annotations

import pytest

from nnunetv2_ext.checkpoints.plans import check_plans, trained_configuration
from nnunetv2_ext.resources import list_resources, resource_folder
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json


@pytest.mark.parametrize("name", list_resources("plans"))
def test_the_shipped_plans_pass(name):
    check_plans(read_json(resource_folder("plans") / f"{name}.json"), name)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("label_manager", "LabelManager"),
        ("image_reader_writer", "NibabelIOWithReorient"),
        ("experiment_planner_used", "nnUNetPlannerResEncL"),
        ("preprocessor_name", "DefaultPreprocessor"),
        ("normalization_schemes", ["RGBTo01Normalization", "ZScoreNormalization"]),
        ("resampling_fn_seg", "resample_torch_fornnunet"),
        ("resampling_fn_probabilities", "no_resampling_hack"),
    ],
)
def test_what_nnunet_brings_may_be_named(key, name):
    check_plans({"configurations": {"2d": {key: name}}}, "plans.json")


@pytest.mark.parametrize("key", ["label_manager", "preprocessor_name", "normalization_schemes", "resampling_fn_data"])
def test_what_is_not_installed_is_refused_only_where_it_is_needed(key):
    named = ["OfAnotherFork"] if key == "normalization_schemes" else "OfAnotherFork"
    plans = {"configurations": {"2d": {key: named}}}
    with pytest.raises(UserError, match=f"{key} in plans.json, but found 'OfAnotherFork'"):
        check_plans(plans, "plans.json")
    check_plans(plans, "plans.json", to_run=False)


@pytest.mark.parametrize("key", ["image_reader_writer", "experiment_planner_used"])
def test_readers_and_planners_of_others_are_not_needed(key):
    check_plans({"configurations": {"2d": {key: "OfAnotherFork"}}}, "plans.json")


@pytest.mark.parametrize("name", ["ImageNormalization", "number", "CTNormalization.__init__", "", None, 5, ["x"], {}])
@pytest.mark.parametrize("to_run", [True, False])
def test_what_is_of_another_kind_is_refused_everywhere(name, to_run):
    with pytest.raises(UserError, match=r"normalization_schemes(\[0\])? in plans\.json"):
        check_plans({"configurations": {"2d": {"normalization_schemes": [name]}}}, "plans.json", to_run=to_run)


def test_what_is_inherited_is_looked_at():
    plans = {"configurations": {"b": {"inherits_from": "a"}, "a": {"preprocessor_name": "multiprocessing"}}}
    with pytest.raises(UserError, match="preprocessor_name"):
        check_plans(plans, "plans.json")


def test_a_patch_that_the_strides_do_not_divide_is_refused():
    plans = read_json(resource_folder("plans") / "stunet_ct.json")
    dataset_json = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}}
    ranges = {"percentile_00_5": -900, "percentile_99_5": 300}
    trained = {
        **plans,
        **{"plans_name": "mine", "dataset_name": "Dataset001_Tiny", "image_reader_writer": "SimpleITKIO"},
        "foreground_intensity_properties_per_channel": {"0": {"mean": 0, "std": 1, **ranges}},
    }
    trained_configuration(trained, "3d_fullres", dataset_json, "plans")
    plans["configurations"]["3d_fullres"]["patch_size"] = [64, 64, 50]
    with pytest.raises(UserError, match=r"Expected a patch size that the strides divide .*64x64x50"):
        trained_configuration(trained, "3d_fullres", dataset_json, "plans")
