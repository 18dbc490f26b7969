"""Normalisation schemes and intensity statistics per channel."""

from __future__ import annotations

import pytest

from nnunetv2_ext.experiment_planning.normalization import (
    SCHEME_OF_CHANNEL_NAME,
    fit_normalization,
    intensity_statistics,
)
from nnunetv2_ext.utilities.errors import UserError


def test_schemes_are_those_of_nnunet():
    from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import (
        channel_name_to_normalization_mapping,
        get_normalization_scheme,
    )

    assert {key: value.__name__ for key, value in channel_name_to_normalization_mapping.items()} == (
        SCHEME_OF_CHANNEL_NAME
    )
    assert get_normalization_scheme("T1").__name__ == "ZScoreNormalization"


def fit(schemes, names, fingerprint):
    configuration = {"normalization_schemes": schemes, "use_mask_for_norm": [False] * len(schemes)}
    fit_normalization(configuration, "3d_fullres", {"channel_names": dict(enumerate(names))}, fingerprint)
    return configuration["normalization_schemes"], configuration["use_mask_for_norm"]


@pytest.mark.parametrize(
    ("schemes", "names", "relative_size", "expected"),
    [
        (["CTNormalization"], ["CT"], 1.0, (["CTNormalization"], [False])),
        (["CTNormalization"], ["ct", "PET"], 1.0, (["CTNormalization", "ZScoreNormalization"], [False, False])),
        (["CTNormalization"], ["T1"], 0.5, (["ZScoreNormalization"], [True])),
        (["CTNormalization"], ["noNorm"], 0.5, (["NoNormalization"], [False])),
        (["ZScoreNormalization"], ["T1", "T2"], 0.5, (["ZScoreNormalization"] * 2, [False] * 2)),
        (
            ["NoNormalization", "CTNormalization"],
            ["x", "CT"],
            1.0,
            (["NoNormalization", "CTNormalization"], [False] * 2),
        ),
    ],
)
def test_schemes_follow_channels(make_fingerprint, schemes, names, relative_size, expected):
    assert fit(schemes, names, make_fingerprint(channels=len(names), relative_size=relative_size)) == expected


def test_different_schemes_for_another_number_of_channels(make_fingerprint):
    with pytest.raises(UserError, match=r"2 channels.*dataset has 3"):
        fit(["CTNormalization", "NoNormalization"], ["CT", "CT", "CT"], make_fingerprint(channels=3))


def test_statistics_of_ct_channels_come_from_the_plans(make_fingerprint):
    fingerprint = make_fingerprint(channels=3)
    own = fingerprint["foreground_intensity_properties_per_channel"]
    brought = {"mean": 63.0, "std": 175.0, "percentile_00_5": -927.0, "percentile_99_5": 275.0}
    plans = {"foreground_intensity_properties_per_channel": {"0": brought}}
    schemes = ["CTNormalization", "ZScoreNormalization", "CTNormalization"]
    assert intensity_statistics(plans, schemes, fingerprint) == {"0": brought, "1": own["1"], "2": brought}
    assert intensity_statistics({}, schemes, fingerprint) == own


def test_fingerprint_of_fewer_channels(make_fingerprint):
    with pytest.raises(UserError, match=r"2 channels"):
        intensity_statistics({}, ["NoNormalization"] * 2, make_fingerprint(channels=1))
