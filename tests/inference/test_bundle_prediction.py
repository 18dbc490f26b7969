from __future__ import annotations

import json

import numpy as np
import pytest
import torch

pytest.importorskip("monai", reason="the extra 'monai' is not installed")

from nnunetv2_ext.checkpoints import read_checkpoint
from nnunetv2_ext.checkpoints.model_folder import write_model_folder
from nnunetv2_ext.experiment_planning.templates import load_template
from nnunetv2_ext.inference import Predictor
from nnunetv2_ext.inference.bundle_profile import read_profile
from nnunetv2_ext.utilities.errors import UserError

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


def bundle_network(kind):
    from monai.networks import nets

    torch.manual_seed(3)
    if kind != "unet":
        # With more classes than channels before them, these channels are added up instead of the logits.
        outputs = {"segresnet": 12, "segresnet of few classes": 5}[kind]
        network = nets.SegResNet(spatial_dims=3, dropout_prob=0.2, out_channels=outputs, **SEGRESNET)
    else:
        network = nets.UNet(spatial_dims=3, **UNET)
    return network.eval()


def bundle_inference(kind, network, path, pixdim, window):
    """The bundle's own transforms and inferer, in MONAI's order of axes, as its configs/inference.json lists them."""
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


def import_bundle(kind, network, tmp_path, window):
    torch.save({"model": network.state_dict()}, tmp_path / "model.pt")
    checkpoint = read_checkpoint(
        tmp_path / "model.pt",
        plans=load_template("spleen_ct_unet" if kind == "unet" else "wholebody_ct_segresnet_1p5mm"),
    )
    assert checkpoint.inference_allowed_mirroring_axes is None
    checkpoint.preprocessing_profile["window_size"] = list(window)
    return write_model_folder(checkpoint, tmp_path / "results", "Dataset901_Bundle", plans_name="bundle")


@pytest.mark.parametrize("kind", ["segresnet", "segresnet of few classes", "unet"])
def test_equals_the_bundles_own_pipeline(kind, tmp_path, ct_on_disk):
    network = bundle_network(kind)
    window = (16, 24, 48)  # x, y, z; several windows along the first, padding along the last
    folder = import_bundle(kind, network, tmp_path, window[::-1])
    import SimpleITK as sitk

    found = sitk.GetArrayFromImage(Predictor.from_model_folder(folder, device="cpu").predict(ct_on_disk))
    expected = bundle_inference(kind, network, ct_on_disk, (1.5, 1.5, 2.0 if kind == "unet" else 1.5), window)
    assert len(np.unique(expected)) > 1
    assert np.count_nonzero(found != expected) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["segresnet", "unet"])
def test_equals_the_bundles_own_pipeline_on_a_real_ct(kind, tmp_path, real_ct_folder):
    """Through the two commands, with the published windows of 96^3."""
    import SimpleITK as sitk

    from nnunetv2_ext.cli import import_weights, predict

    network = bundle_network(kind)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    results, template = str(tmp_path / "results"), "spleen_ct_unet"
    pixdim = (1.5, 1.5, 2.0)
    if kind == "segresnet":
        (tmp_path / "model.pt").rename(tmp_path / "model_lowres.pt")
        template, pixdim = "wholebody_ct_segresnet_3mm", (3.0, 3.0, 3.0)
    file = next(tmp_path.glob("model*.pt"))
    assert import_weights.main([str(file), "-d", "Dataset902_Bundle", "-results", results, "--plans", template]) == 0
    (folder,) = (tmp_path / "results" / "Dataset902_Bundle").iterdir()
    ct = real_ct_folder / "ct_thorax_abdomen_3mm" / "ct.nii.gz"
    assert predict.main(["-i", str(ct), "-o", str(tmp_path / "out"), "-m", str(folder), "-f", "0", "--quiet"]) == 0
    (written,) = (tmp_path / "out").glob("*.nii.gz")
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(written)))
    expected = bundle_inference(kind, network, ct, pixdim, (96, 96, 96))
    assert len(np.unique(expected)) > 1
    # Sums of windows are rounded in another order than MONAI's, which decides where two logits tie in float32.
    assert np.count_nonzero(found != expected) <= 10, f"of {found.size} voxels"


def test_a_damaged_profile_is_refused(tmp_path):
    network = bundle_network("unet")
    folder = import_bundle("unet", network, tmp_path, (32, 32, 32))
    file = folder / "preprocessing_profile.json"
    content = json.loads(file.read_text())
    for change, message in (
        ({"blend": "linear"}, "blend"),
        ({"overlap": 1.5}, "overlap"),
        ({"intensity": [{"name": "histogram"}]}, "rules"),
        ({"extra": 1}, "entries"),
    ):
        file.write_text(json.dumps(content | change))
        with pytest.raises(UserError, match=message):
            read_profile(folder)
