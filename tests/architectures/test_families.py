"""The registry of networks: what it says of each agrees with the trainers and with itself."""

from __future__ import annotations

import pytest

from nnunetv2_ext.architectures.families import FAMILIES, family_of, recognise
from nnunetv2_ext.architectures.planned import FromPlans, network_of_trainer
from nnunetv2_ext.training.trainer_listing import list_trainers
from nnunetv2_ext.utilities.errors import UserError


@pytest.mark.parametrize("name", list_trainers())
def test_every_trainer_builds_the_network_that_predictions_build(name):
    from nnunetv2_ext.training import trainers

    assert getattr(trainers, name).architecture == network_of_trainer(name)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.key)
def test_the_trainers_of_a_family_exist_and_train_its_kinds_of_datasets(family):
    from nnunetv2_ext.training import trainers

    assert family_of(family.class_path, family.size) is family
    for kind, name in family.trainers.items():
        if name != "nnUNetTrainer":
            expected = kind if kind in ("collection", "tree") else "plain"
            assert getattr(trainers, name).kind == expected


def test_names_of_weights_tell_one_family():
    for family in FAMILIES:
        if family.signature and family.size in (None, "S"):
            assert recognise(family.signature) is family
    assert recognise({"some.weight"}) is None


def test_networks_that_nobody_knows_are_those_of_the_plans():
    assert family_of("package.Network").trainers == family_of("another.Network").trainers
    assert network_of_trainer("TrainerOfSomebody") is None
    assert network_of_trainer("nnUNetTrainer_ep4k") is None
    assert network_of_trainer("nnUNetTrainer") == FromPlans()


def test_stunet_needs_the_strides_of_its_stages():
    entry = {"network_class_name": "nnunetv2_ext.architectures.monai_networks.SegResNet", "arch_kwargs": {}}
    configuration = {"architecture": entry, "patch_size": [32, 32, 32]}
    network = network_of_trainer("STUNetTrainer_small")
    assert network is not None
    with pytest.raises(UserError, match=r"strides .* but these are for .*SegResNet, which has none"):
        network.build(configuration, 1, 2, True)
