from __future__ import annotations

import pytest
import torch

pytest.importorskip("monai", reason="the extra 'monai' is not installed")
from monai.networks import nets
from monai.networks.nets.vista3d import ClassMappingClassify, PointMappingSAM

from nnunetv2_ext.checkpoints import read_checkpoint
from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.utilities.errors import UserError

NUMBERS = list(LabelOrder.read("vista3d").labels.values())


def vista3d(classes=160, **changes):
    """MONAI's ``vista3d132`` with fewer channels."""
    torch.manual_seed(0)
    arguments = {"in_channels": 1, "blocks_down": (1, 2, 1), "norm": "instance", "dsdepth": 1}
    encoder = nets.SegResNetDS2(out_channels=8, init_filters=8, **{**arguments, **changes})
    head = ClassMappingClassify(n_classes=classes, feature_size=8, use_mlp=True)
    return nets.VISTA3D(encoder, head, PointMappingSAM(feature_size=8, n_classes=classes, last_supported=132)).eval()


def automatic(network, image):
    """What MONAI's network gives for all classes: ``(1, classes, z, y, x)``."""
    classes = torch.tensor(NUMBERS)[:, None]
    with torch.no_grad():
        logits = network(image.permute(0, 1, 4, 3, 2), class_vector=classes)
    return logits.permute(1, 0, 4, 3, 2)


@pytest.mark.parametrize("names", ["bare", "under model", "before MONAI 1.4"])
def test_folds_into_a_network_of_127_classes(names, tmp_path):
    network = vista3d()
    state = network.state_dict()
    if names == "before MONAI 1.4":
        state = {f"module.{name.replace('class_head.image', 'image')}": tensor for name, tensor in state.items()}
    torch.save({"model": state} if names == "under model" else state, tmp_path / "model.pt")
    checkpoint = read_checkpoint(tmp_path / "model.pt")
    assert checkpoint.format == "vista3d"
    assert checkpoint.num_classes == len(NUMBERS) == 127
    image = torch.rand(1, 1, 16, 24, 32)
    with torch.no_grad():
        found = checkpoint.build_network()(image)
    torch.testing.assert_close(found, automatic(network, image), rtol=0, atol=1e-4)
    # The classes differ, and so do the voxels.
    assert found.std(1).mean() > 1e-3
    assert found.std((2, 3, 4)).mean() > 1e-3


def test_classes_are_painted_from_unions_to_what_lies_within(tmp_path):
    torch.save(vista3d().state_dict(), tmp_path / "model.pt")
    checkpoint = read_checkpoint(tmp_path / "model.pt")
    names = checkpoint.class_names
    assert names is not None
    assert names.index("kidney") < names.index("kidney_left") < names.index("kidney_cyst_left")
    assert names.index("lung") < names.index("lung_upper_lobe_left") < names.index("lung_tumor")
    assert checkpoint.dataset_json is not None
    assert checkpoint.dataset_json["regions_class_order"] == NUMBERS
    assert not {16, 18, 129, 130, 131} & set(NUMBERS)
    assert "no commercial use" in checkpoint.terms()[0]


def test_other_networks_end_in_a_sentence(tmp_path):
    torch.save(vista3d(classes=100).state_dict(), tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"embeddings of more than 132 classes .* found 100"):
        read_checkpoint(tmp_path / "model.pt")
    state = vista3d().state_dict()
    torch.save({n: t for n, t in state.items() if "class_embeddings" not in n}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="is incomplete"):
        read_checkpoint(tmp_path / "model.pt")
    torch.save(vista3d(dsdepth=2).state_dict(), tmp_path / "model.pt")
    with pytest.raises(UserError, match="a decoder with one output"):
        read_checkpoint(tmp_path / "model.pt")
