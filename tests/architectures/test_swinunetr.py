import pytest
import torch

nets = pytest.importorskip("monai.networks.nets", reason="MONAI is not installed")


def test_equals_monais_network_with_the_head_renamed():
    from nnunetv2_ext.architectures.swinunetr import SwinUNETR

    torch.manual_seed(0)
    theirs = nets.SwinUNETR(in_channels=1, out_channels=5, feature_size=12).eval()
    ours = SwinUNETR(1, 5, feature_size=12).eval()
    head = "out.conv.conv"
    state = {name.replace(head, "decoder.seg_layers.0"): value for name, value in theirs.state_dict().items()}
    ours.load_state_dict(state)
    image = torch.randn(1, 1, 64, 32, 32)
    with torch.no_grad():
        expected = theirs(image)
        torch.testing.assert_close(ours(image), expected)
        torch.testing.assert_close(ours(image, channels=torch.tensor([3, 1])), expected[:, [3, 1]])


def test_activation_checkpointing_leaves_gradients_as_they_are():
    from nnunetv2_ext.architectures.swinunetr import SwinUNETR

    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        network = SwinUNETR(1, 2, feature_size=12, dimensions=2, activation_checkpointing=recompute)
        network(torch.randn(2, 1, 64, 32)).square().mean().backward()
        gradients.append(network.swinViT.patch_embed.proj.weight.grad)
    assert gradients[0].any()
    torch.testing.assert_close(*gradients)
