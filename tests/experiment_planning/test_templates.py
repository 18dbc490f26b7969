"""Every shipped template, and what the loader refuses."""

from __future__ import annotations

import json

import pytest

from nnunetv2_ext.experiment_planning.fit import total_stride
from nnunetv2_ext.experiment_planning.templates import (
    check_plans,
    is_template,
    list_templates,
    load_template,
    resolve_configuration,
)
from nnunetv2_ext.utilities.errors import UserError

DATASET_FIELDS = {
    "dataset_name",
    "plans_name",
    "original_median_spacing_after_transp",
    "original_median_shape_after_transp",
    "image_reader_writer",
}


@pytest.fixture(params=list_templates())
def template(request):
    return load_template(request.param)


def test_states_where_it_comes_from_and_nothing_of_a_dataset(template):
    assert template["description"].strip()
    assert template["source"].strip()
    assert is_template(template)
    assert not DATASET_FIELDS & set(template)
    for name in template["configurations"]:
        configuration = resolve_configuration(template, name)
        assert "data_identifier" not in configuration
        assert "median_image_size_in_voxels" not in configuration


def test_patch_is_a_multiple_of_the_total_stride(template):
    for name in template["configurations"]:
        configuration = resolve_configuration(template, name)
        strides = total_stride(configuration)
        assert [p % s for p, s in zip(configuration["patch_size"], strides, strict=True)] == [0] * len(strides)
        assert len(configuration["spacing"]) == len(configuration["patch_size"])


def test_normalization_and_resampling_exist_in_nnunet(template):
    from nnunetv2.preprocessing.normalization import default_normalization_schemes
    from nnunetv2.preprocessing.resampling.utils import recursive_find_resampling_fn_by_name

    for name in template["configurations"]:
        configuration = resolve_configuration(template, name)
        for scheme in configuration["normalization_schemes"]:
            assert hasattr(default_normalization_schemes, scheme)
        for key in ("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities"):
            assert callable(recursive_find_resampling_fn_by_name(configuration[key]))


def test_network_can_be_built(template):
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    for name in template["configurations"]:
        architecture = resolve_configuration(template, name)["architecture"]
        if architecture["network_class_name"].startswith("monai"):
            pytest.importorskip("monai", reason="the network comes with the extra 'monai'")
        # MONAI computes with the numbers of SwinUNETR while it is built.
        with torch.device("cpu" if architecture["network_class_name"].endswith("SwinUNETR") else "meta"):
            network = get_network_from_plans(
                architecture["network_class_name"],
                architecture["arch_kwargs"],
                architecture["_kw_requires_import"],
                1,
                3,
                allow_init=False,
                deep_supervision=True if "strides" in architecture["arch_kwargs"] else None,
            )
        assert sum(parameter.numel() for parameter in network.parameters()) > 1_000_000


# Figures from the publications, typed here a second time.
def test_stunet_is_the_published_setting():
    configuration = load_template("stunet_totalsegmentator")["configurations"]["3d_fullres"]
    assert configuration["patch_size"] == [128, 128, 128]
    assert configuration["spacing"] == [1.5, 1.5, 1.5]
    assert configuration["batch_size"] == 2
    assert configuration["normalization_schemes"] == ["ZScoreNormalization"]
    assert configuration["architecture"]["arch_kwargs"]["strides"] == [[1, 1, 1], *[[2, 2, 2]] * 4, [1, 1, 2]]


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("multitalent_unet", 63.43688, 175.48094),
        ("multitalent_stunet", 63.43688, 175.48094),
        ("multitalent_resenc", 63.51609, 175.31070),
    ],
)
def test_multitalent_is_the_published_setting(name, mean, std):
    template = load_template(name)
    configuration = template["configurations"]["3d_fullres"]
    assert configuration["patch_size"] == [96, 192, 192]
    assert configuration["spacing"] == [1.5, 1.0, 1.0]
    assert configuration["batch_size"] == 4
    statistics = template["foreground_intensity_properties_per_channel"]["0"]
    assert statistics == {"mean": mean, "std": std, "percentile_00_5": -927.0, "percentile_99_5": 275.0}
    if name != "multitalent_stunet":
        assert configuration["architecture"]["arch_kwargs"]["features_per_stage"] == [30, 60, 120, 240, 320, 320]


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match=r"stunet_ct.*stunet_totalsegmentator.*'stunet'"):
        load_template("stunet")


def test_reads_a_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(load_template("stunet_ct")))
    assert load_template(path) == load_template("stunet_ct")


@pytest.mark.parametrize("content", ["[]", "{}", '{"configurations": {}}', '{"configurations": {"2d": {}}}'])
def test_refuses_what_is_no_plans_file(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"other\.json"):
        load_template(path)


@pytest.mark.parametrize("key", ["network_class_name", "conv_op"])
def test_refuses_foreign_classes(key):
    template = load_template("multitalent_unet")
    architecture = template["configurations"]["3d_fullres"]["architecture"]
    (architecture if key in architecture else architecture["arch_kwargs"])[key] = "os.system"
    with pytest.raises(UserError, match=r"os\.system"):
        check_plans(template, "a file")


def test_inheritance_is_resolved_as_nnunet_does():
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = load_template("stunet_ct")
    plans["configurations"]["small_batch"] = {"inherits_from": "3d_fullres", "batch_size": 1}
    plans["configurations"]["coarse"] = {"inherits_from": "small_batch", "spacing": [3.0, 3.0, 3.0]}
    expected = PlansManager(plans).get_configuration("coarse").configuration
    assert resolve_configuration(plans, "coarse") == {k: v for k, v in expected.items() if k != "inherits_from"}


def test_circular_inheritance_is_refused():
    plans = {"configurations": {"a": {"inherits_from": "b"}, "b": {"inherits_from": "a"}}}
    with pytest.raises(UserError, match="inherit from each other"):
        resolve_configuration(plans, "a")
