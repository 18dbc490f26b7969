from __future__ import annotations

import json

import numpy as np
import pytest
import torch

pytest.importorskip("monai", reason="the extra 'monai' is not installed")

from nnunetv2_ext.inference import Predictor
from nnunetv2_ext.inference.bundles.profile import read_profile
from nnunetv2_ext.inference.bundles.segmenter import BundleSegmenter
from nnunetv2_ext.utilities.errors import UserError


@pytest.mark.parametrize("kind", ["segresnet", "segresnet of few classes", "unet"])
def test_equals_the_bundles_own_pipeline(kind, tmp_path, ct_on_disk, bundle_network, bundle_inference, import_bundle):
    network = bundle_network(kind)
    window = (16, 24, 48)  # x, y, z; several windows along the first, padding along the last
    folder = import_bundle(kind, network, tmp_path, window[::-1])
    import SimpleITK as sitk

    found = sitk.GetArrayFromImage(Predictor.from_model_folder(folder, device="cpu").predict(ct_on_disk))
    expected = bundle_inference(kind, network, ct_on_disk, (1.5, 1.5, 2.0 if kind == "unet" else 1.5), window)
    assert len(np.unique(expected)) > 1
    assert np.count_nonzero(found != expected) == 0


def test_bundles_add_up_in_float32(tmp_path, bundle_network, import_bundle):
    folder = import_bundle("unet", bundle_network("unet"), tmp_path, (16, 16, 16))
    predictor = Predictor.from_model_folder(folder, device="cpu")
    assert predictor.mode.sums == "float32"
    assert isinstance(predictor.segmenter, BundleSegmenter)
    assert predictor.segmenter.windows.dtype == torch.float32


def test_what_the_modes_say_is_refused_for_bundles(tmp_path, bundle_network, import_bundle):
    folder = import_bundle("unet", bundle_network("unet"), tmp_path, (16, 16, 16))
    for options, text in (
        ({"sums": "float16"}, "--sums float32 for a MONAI bundle"),
        ({"mode": "fast"}, "no --mode for a MONAI bundle"),
        ({"step_size": 0.7}, "no -step_size for a MONAI bundle"),
        ({"orientation": "file"}, "no --orientation for a MONAI bundle"),
    ):
        with pytest.raises(UserError, match=text):
            Predictor.from_model_folder(folder, device="cpu", **options)


def test_openvino_runs_windows_of_the_bundles_size(tmp_path, ct_on_disk, bundle_network, import_bundle):
    import SimpleITK as sitk

    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    folder = import_bundle("unet", bundle_network("unet"), tmp_path, (16, 16, 16))
    plans = json.loads((folder / "plans.json").read_text(encoding="utf-8"))
    (configuration,) = plans["configurations"].values()
    configuration["patch_size"] = [32, 32, 16]
    (folder / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
    maps = [
        sitk.GetArrayFromImage(Predictor.from_model_folder(folder, device="cpu", backend=backend).predict(ct_on_disk))
        for backend in ("torch", "openvino")
    ]
    assert len(np.unique(maps[0])) > 1
    assert (maps[0] == maps[1]).mean() > 0.999


def published_labels(network, path, orientation, spacing, hu, inferer, decide):
    """By MONAI's own transforms, which see the axes in the order of ``orientation``; label map (z, y, x)."""
    from monai.transforms import (
        Compose,
        EnsureChannelFirstd,
        Invertd,
        LoadImaged,
        Orientationd,
        ScaleIntensityRanged,
        Spacingd,
    )

    resample = [Spacingd("image", pixdim=spacing, mode="bilinear")] if spacing else []
    scale = ScaleIntensityRanged("image", hu[0], hu[1], 0, 1, clip=True)
    before = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), Orientationd("image", axcodes=orientation),
                      *resample, scale])  # fmt: skip
    data = before({"image": str(path)})
    with torch.no_grad():
        data["pred"] = decide(inferer(data["image"][None], network)[0])[None].float()
    back = Invertd("pred", before, "image", nearest_interp=True, to_tensor=True)
    return back(data)["pred"][0].numpy().transpose(2, 1, 0).astype(int)


def last_above_zero(logits):
    """Every class paints its number, later ones over earlier ones."""
    labels = torch.zeros_like(logits[0])  # which keeps what MONAI remembers of the image
    for channel, values in enumerate(logits):
        labels[values > 0] = channel + 1
    return labels


@pytest.mark.parametrize("name", ["suprem", "ctfm"])
def test_equals_the_published_pipelines_of_other_weights(name, tmp_path, ct_on_disk):
    """SuPreM: sigmoids; CT-FM: another order of axes, and images at their own spacing."""
    import SimpleITK as sitk
    from monai.inferers import SlidingWindowInferer
    from monai.networks import nets

    from nnunetv2_ext.checkpoints import read_checkpoint
    from nnunetv2_ext.checkpoints.model_folder import write_model_folder

    network: torch.nn.Module
    torch.manual_seed(0)
    if name == "suprem":
        network = nets.SegResNet(in_channels=1, out_channels=25, init_filters=8, blocks_down=(1, 1), blocks_up=(1,))
        torch.save({"net": network.state_dict()}, tmp_path / "model.pth")
        axes, spacing, hu, decide, overlap = "RAS", (1.5, 1.5, 1.5), (-175, 250), last_above_zero, 0.75
        window = (16, 24, 24)
    else:
        network = nets.SegResNetDS(out_channels=118, init_filters=8, blocks_down=(1, 1), norm="instance")
        torch.save({"state_dict": network.state_dict()}, tmp_path / "model.pth")
        axes, spacing, hu, decide, overlap = "SPL", None, (-1024, 2048), lambda logits: logits.argmax(0), 0.625
        window = (16, 24, 32)
    network.eval()
    checkpoint = read_checkpoint(tmp_path / "model.pth")
    windows_of_theirs = window[::-1] if name == "suprem" else window
    assert checkpoint.preprocessing_profile is not None
    checkpoint.preprocessing_profile["window_size"] = list(window)
    folder = write_model_folder(checkpoint, tmp_path / "results", "Dataset905_Published")
    found = sitk.GetArrayFromImage(Predictor.from_model_folder(folder, device="cpu").predict(ct_on_disk))
    inferer = SlidingWindowInferer(windows_of_theirs, sw_batch_size=1, overlap=overlap, mode="gaussian")
    expected = published_labels(network, ct_on_disk, axes, spacing, hu, inferer, decide)
    assert len(np.unique(expected)) > 2
    assert np.mean(found != expected) < 1e-4
    record = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))["folds"]["0"]["publication"]
    assert record == vars(checkpoint.publication)
    assert record["licence"].startswith("CC BY-NC-ND 4.0" if name == "suprem" else "Apache-2.0")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["segresnet", "unet"])
def test_equals_the_bundles_own_pipeline_on_a_real_ct(kind, tmp_path, real_ct, bundle_network, bundle_inference):
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
    ct = real_ct / "ct.nii.gz"
    assert predict.main(["-i", str(ct), "-o", str(tmp_path / "out"), "-m", str(folder), "-f", "0", "--quiet"]) == 0
    (written,) = (tmp_path / "out").glob("*.nii.gz")
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(written)))
    expected = bundle_inference(kind, network, ct, pixdim, (96, 96, 96))
    assert len(np.unique(expected)) > 1
    # Sums of windows are rounded in another order than MONAI's, which decides where two logits tie in float32.
    assert np.count_nonzero(found != expected) <= 10, f"of {found.size} voxels"


def test_a_damaged_profile_is_refused(tmp_path, bundle_network, import_bundle):
    network = bundle_network("unet")
    folder = import_bundle("unet", network, tmp_path, (32, 32, 32))
    file = folder / "preprocessing_profile.json"
    content = json.loads(file.read_text())
    for change, message in (
        ({"blend": "linear"}, "blend"),
        ({"overlap": 1.5}, "overlap"),
        ({"intensity": [{"name": "histogram"}]}, r"intensity\[0\].name"),
        ({"extra": 1}, "entries"),
    ):
        file.write_text(json.dumps(content | change))
        with pytest.raises(UserError, match=message):
            read_profile(folder)


@pytest.mark.parametrize("kind", ["segresnet", "segresnet of few classes", "unet"])
def test_logits_that_are_not_finite_are_refused(kind, tmp_path, ct_on_disk, bundle_network, import_bundle):
    network = bundle_network(kind)
    with torch.no_grad():
        list(network.parameters())[-1].fill_(float("nan"))
    folder = import_bundle(kind, network, tmp_path, (48, 24, 16))
    with pytest.raises(UserError, match="NaN or infinity"):
        Predictor.from_model_folder(folder, device="cpu").predict(ct_on_disk)
