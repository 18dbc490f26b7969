"""What the loss is for: every class is learned for every image, from images that annotate only some of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnunetv2_ext.architectures.stunet import STUNet
from nnunetv2_ext.training.loss.deep_supervision import PartialLabelDeepSupervision, halving_weights
from nnunetv2_ext.training.loss.partial_label_loss import PartialLabelLoss
from nnunetv2_ext.training.outputs.sigmoid import annotated_classes

SIZE = 24
ORGANS = (1, 2, 3, 4)
# Output channels: source A annotates organs 1 and 2, source B organs 2 to 4. Both draw organ 2, each in its own way.
CHANNELS = (("A", 1), ("A", 2), ("B", 2), ("B", 3), ("B", 4))
# A label map of A holds 1 and 2, one of B holds 3, 4 and 5: the integers of a collection are disjoint.
REGIONS = torch.eye(5, 6, dtype=torch.bool).roll(1, 1)


def phantom(rng, source):
    """Image and complete map of the organs 1 to 4: ellipsoids in their quarters of the body, each with its density.

    The tissue around them is a little brighter in images of B, as scanners and contrast phases differ between sources.
    """
    grid = np.stack(np.meshgrid(*[np.arange(SIZE)] * 3, indexing="ij"), -1)
    organs = np.zeros((SIZE,) * 3, np.int16)
    for organ, corner in zip(ORGANS, ((7, 7), (7, 16), (16, 7), (16, 16)), strict=True):
        center = np.array([12, *corner]) + rng.uniform(-2, 2, 3)
        radii = rng.uniform(3, 5, 3)
        organs[(((grid - center) / radii) ** 2).sum(-1) < 1] = organ
    density = np.array([0.3 if source == "B" else 0.0, 3.0, 6.0, -3.0, -6.0])
    image = density[organs] + rng.normal(0, 0.3, organs.shape)
    return torch.from_numpy(image).float()[None], torch.from_numpy(organs)[None]


def annotate(organs, source):
    """The label map that a source publishes of a case."""
    label_map = torch.zeros_like(organs)
    for channel, (owner, organ) in enumerate(CHANNELS):
        if owner == source:
            label_map[organs == organ] = channel + 1
    return label_map


def train(unannotated_is_background):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    cases = [(source, *phantom(rng, source)) for source in "AB" for _ in range(12)]
    network = STUNet(
        1, 5, features_per_stage=[6, 8, 12], n_blocks_per_stage=1, strides=[[1] * 3, [2] * 3, [2] * 3],
        deep_supervision=True,
    )  # fmt: skip
    network.apply(network.initialize)
    loss = PartialLabelDeepSupervision(PartialLabelLoss(REGIONS), halving_weights(2))
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    for _ in range(160):
        batch = [cases[index] for index in rng.integers(len(cases), size=4)]
        images = torch.stack([image for _, image, _ in batch])
        label_maps = torch.stack([annotate(organs, source) for source, _, organs in batch])
        annotated = torch.tensor([[owner == source for owner, _ in CHANNELS] for source, _, _ in batch])
        if unannotated_is_background:
            annotated[:] = True
        classes = annotated_classes(annotated)
        outputs = network(images, channels=classes)
        optimizer.zero_grad()
        loss(outputs, [label_maps, label_maps[..., ::2, ::2, ::2]], annotated, classes).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()
    return network.eval()


def mean_dice(network):
    """Mean Dice of all five outputs against complete reference maps of new cases of both sources."""
    network.decoder.deep_supervision = False
    rng = np.random.default_rng(1)
    dice = []
    for image, organs in (phantom(rng, source) for source in "AABB"):
        with torch.no_grad():
            predicted = network(image[None])[0] > 0
        for mask, (_, organ) in zip(predicted, CHANNELS, strict=True):
            reference = organs[0] == organ
            dice.append(2 * (mask & reference).sum().item() / (mask.sum() + reference.sum()).item())
    return float(np.mean(dice))


@pytest.mark.slow
def test_all_organs_are_learned_only_when_unannotated_is_not_background(record_property, capsys):
    with_mask = mean_dice(train(unannotated_is_background=False))
    as_background = mean_dice(train(unannotated_is_background=True))
    record_property("mean_dice", with_mask)
    record_property("mean_dice_unannotated_as_background", as_background)
    numbers = f"mean Dice: {with_mask:.3f}; with unannotated classes as background: {as_background:.3f}"
    with capsys.disabled():
        print(f"\n{numbers}")  # noqa: T201  both numbers are to be seen
    assert with_mask >= 0.8, numbers
    assert as_background < 0.8, numbers
