"""Networks with several heads and stems."""

from __future__ import annotations

import pytest
import torch

from nnunetv2_ext.checkpoints import read_checkpoint
from nnunetv2_ext.utilities.errors import UserError


@pytest.fixture
def network(published_model, tmp_path):
    return read_checkpoint(published_model.write(tmp_path / "model")).build_network(deep_supervision=True)


def test_images_of_a_batch_get_the_logits_of_their_own_heads(network, published_model):
    heads = list(published_model.heads)
    images = [published_model.image(head) for head in heads]
    channels = max(image.shape[1] for image in images)
    # Images with fewer channels than the batch: what lies in the others is of no matter.
    batch = torch.cat([torch.cat([image, image.new_full((1, channels - image.shape[1], 16, 16, 16), 7.0)], 1)
                       for image in images])  # fmt: skip
    with torch.no_grad():
        outputs = network(batch, torch.tensor([0, 1]))
        alone = [published_model.stock(head)(image) for head, image in zip(heads, images, strict=True)]
    for level, output in enumerate(outputs):
        torch.testing.assert_close(output, torch.cat([each[level] for each in alone], 1), rtol=1e-5, atol=1e-5)


def test_heads_that_no_image_needs_have_a_gradient_of_zero(network, published_model):
    network.train()
    (first, second), image = published_model.heads, published_model.image("003")
    if network.stems is not None:
        image = torch.cat([image] * 2, 1)
    sum(output.sum() for output in network(image, torch.tensor([0]))).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    heads = network.decoder.seg_layers
    assert all(bool(parameter.grad.any()) for parameter in heads[first].parameters())
    assert not any(bool(parameter.grad.any()) for parameter in heads[second].parameters())


def test_a_network_of_one_head_shares_its_weights_and_has_nnunets_names(network, published_model):
    head = list(published_model.heads)[1]
    single, image = network.single(head), published_model.image(head)
    stock = published_model.stock(head)
    assert list(single.state_dict()) == list(stock.state_dict())
    with torch.no_grad():
        assert all(torch.equal(*pair) for pair in zip(single(image), stock(image), strict=True))
        single.decoder.seg_layers[0].bias.fill_(3)
    assert bool((network.decoder.seg_layers[head][0].bias == 3).all())
    network.decoder.deep_supervision = True
    single.decoder.deep_supervision = False
    assert network.decoder.deep_supervision


def test_stock_prediction_is_told_that_there_are_several_heads(network, published_model):
    with pytest.raises(UserError, match="predict with nnUNetv2_ext_predict"):
        network(published_model.image("003"))


def test_heads_side_by_side_are_bit_equal_to_each_alone(network, published_model):
    heads, image = list(published_model.heads), published_model.image("003")
    if network.stems is not None:
        with pytest.raises(ValueError, match="that share a stem"):
            network.single(*heads)
        return
    with torch.no_grad():
        together, alone = network.single(*heads)(image), [network.single(head)(image) for head in heads]
    for level, output in enumerate(together):
        assert torch.equal(output, torch.cat([each[level] for each in alone], 1))
