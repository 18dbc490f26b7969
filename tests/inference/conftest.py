"""MONAI bundles with few channels, their own pipeline, and model folders that are made of them."""

from __future__ import annotations

import pytest

# The published networks with fewer channels.
SEGRESNET = {"in_channels": 1, "init_filters": 8, "blocks_down": (1, 1), "blocks_up": (1,)}
UNET = {"in_channels": 1, "out_channels": 2, "channels": (4, 8), "strides": (2,), "num_res_units": 2, "norm": "batch"}


@pytest.fixture
def ct_on_disk(tmp_path, make_ct):
    """A CT whose axes are permuted and flipped against RAS."""
    import SimpleITK as sitk

    image = make_ct((34, 40, 26), (1.6, 1.3, 2.2), direction=(0, 1, 0, -1, 0, 0, 0, 0, 1))
    path = tmp_path / "images" / "case_0000.nii.gz"
    path.parent.mkdir()
    sitk.WriteImage(image, str(path))
    return path


def _bundle_network(kind):
    import torch
    from monai.networks import nets

    torch.manual_seed(3)
    if kind != "unet":
        # With more classes than channels before them, these channels are added up instead of the logits.
        outputs = {"segresnet": 12, "segresnet of few classes": 5}[kind]
        network = nets.SegResNet(spatial_dims=3, dropout_prob=0.2, out_channels=outputs, **SEGRESNET)
    else:
        network = nets.UNet(spatial_dims=3, **UNET)
    return network.eval()


def _bundle_inference(kind, network, path, pixdim, window):
    """The bundle's own transforms and inferer, in MONAI's order of axes, as its configs/inference.json lists them."""
    import torch
    from monai.inferers import SlidingWindowInferer
    from monai.transforms import (
        Activationsd,
        AsDiscreted,
        Compose,
        EnsureChannelFirstd,
        EnsureTyped,
        Invertd,
        LoadImaged,
        NormalizeIntensityd,
        Orientationd,
        ScaleIntensityd,
        ScaleIntensityRanged,
        Spacingd,
    )

    is_segresnet = kind != "unet"
    intensity = {
        True: [NormalizeIntensityd("image", nonzero=True), ScaleIntensityd("image", minv=-1.0, maxv=1.0)],
        False: [ScaleIntensityRanged("image", -57, 164, 0, 1, clip=True)],
    }[is_segresnet]
    before = Compose(
        [
            LoadImaged("image"),
            EnsureTyped("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS"),
            Spacingd("image", pixdim=pixdim, mode="bilinear"),
            *intensity,
        ]
    )
    options = {"overlap": 0.25, "mode": "gaussian", "padding_mode": "replicate"} if is_segresnet else {"overlap": 0.5}
    inferer = SlidingWindowInferer(window, sw_batch_size=1, **options)
    to_image = Invertd("pred", before, "image", nearest_interp=is_segresnet, to_tensor=True)
    decide = AsDiscreted("pred", argmax=True)
    after = Compose([Activationsd("pred", softmax=True), *([decide, to_image] if is_segresnet else [to_image, decide])])
    data = before({"image": str(path)})
    with torch.no_grad():
        data["pred"] = inferer(data["image"][None], network)[0]
    return after(data)["pred"][0].numpy().transpose(2, 1, 0).astype(int)


def _import_bundle(kind, network, tmp_path, window):
    import torch

    from nnunetv2_ext.checkpoints import read_checkpoint
    from nnunetv2_ext.checkpoints.model_folder import write_model_folder
    from nnunetv2_ext.experiment_planning.templates import load_template

    torch.save({"model": network.state_dict()}, tmp_path / "model.pt")
    checkpoint = read_checkpoint(
        tmp_path / "model.pt",
        plans=load_template("spleen_ct_unet" if kind == "unet" else "wholebody_ct_segresnet_1p5mm"),
    )
    assert checkpoint.inference_allowed_mirroring_axes is None
    checkpoint.preprocessing_profile["window_size"] = list(window)
    return write_model_folder(checkpoint, tmp_path / "results", "Dataset901_Bundle", plans_name="bundle")


@pytest.fixture(scope="session")
def bundle_network():
    """``bundle_network(kind)``: a network of MONAI with seeded weights, in evaluation mode."""
    return _bundle_network


@pytest.fixture(scope="session")
def bundle_inference():
    """``bundle_inference(kind, network, path, pixdim, window)``: the label map (z, y, x) of the bundle's pipeline."""
    return _bundle_inference


@pytest.fixture(scope="session")
def import_bundle():
    """``import_bundle(kind, network, tmp_path, window)``: the model folder of an imported bundle."""
    return _import_bundle


#: 0 background, 1 body, 2 bones (below body), 3 rib and 4 hip (below bones), 5 body_other (below body).
TREE = {
    "labels": {"background": 0, "body": 1, "bones": 2, "rib": 3, "hip": 4, "body_other": 5},
    "label_tree": {"background": {}, "body": {"bones": {"rib": {}, "hip": {}}, "body_other": {}}},
}


@pytest.fixture(scope="session")
def tree_model(tmp_path_factory, make_model_folder):
    """A model folder as `LabelTreeTrainer_unet` writes it."""
    import torch

    folder = make_model_folder(
        tmp_path_factory.mktemp("tree") / "LabelTreeTrainer_unet__nnUNetPlans__3d_fullres",
        dataset=TREE,
        spacing=(1.5, 1.5, 1.5),
        patch_size=(16, 16, 16),
    )
    file = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(file, weights_only=True)
    content["trainer_name"] = "LabelTreeTrainer_unet"
    weights = content["network_weights"]
    weights["label_tree.seg_layers.parents"] = torch.tensor([-1, -1, 1, 2, 2, 1])
    for name in weights:
        if "seg_layers" in name and name.endswith("weight"):
            weights[name] = 3 * (weights[name] - weights[name].mean(1, keepdim=True))  # every leaf wins somewhere
    torch.save(content, file)
    return folder


@pytest.fixture(scope="session")
def leaf_log_probabilities(tree_model):
    """``leaf_log_probabilities(window)``: of background, rib, hip, body_other, by the definition of the tree."""
    import torch

    from nnunetv2_ext.inference.model import read_model

    network = read_model(tree_model).networks[0]

    def of(window):
        network.train()  # then the network gives its node logits as they are; instance norm knows no other difference
        with torch.no_grad():
            logits = network(window)
        network.eval()
        log = torch.empty_like(logits)
        for siblings in ([0, 1], [2, 5], [3, 4]):
            log[:, siblings] = logits[:, siblings].log_softmax(1)
        bones = log[:, 1] + log[:, 2]
        return torch.stack([log[:, 0], bones + log[:, 3], bones + log[:, 4], log[:, 1] + log[:, 5]], 1)

    return of
