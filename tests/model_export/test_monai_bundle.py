"""Bundles made of models: run from their configs alone by MONAI, against truth that does not read them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

pytest.importorskip("monai", reason="the extra 'monai' is not installed")

from nnunetv2_ext.model_export.monai_bundle import export_monai_bundle
from nnunetv2_ext.utilities.errors import UserError


def run_bundle(bundle, image, out):
    """What ``python -m monai.bundle run`` does, in this process."""
    import SimpleITK as sitk
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser.update(
        {"bundle_root": str(bundle), "dataset_dir": str(image.parent), "output_dir": str(out), "device": "cpu"}
    )
    parser.get_parsed_content("run")
    (written,) = out.glob("*.nii.gz")
    return sitk.GetArrayFromImage(sitk.ReadImage(str(written)))


@pytest.mark.parametrize("kind", ["segresnet", "unet"])
def test_an_imported_bundle_becomes_one_that_predicts_as_the_first(
    kind, tmp_path, ct_on_disk, bundle_network, bundle_inference, import_bundle
):
    """RAS, spacing, intensities, windows and the way back to the image, for both ways back."""
    network = bundle_network(kind)
    window = (16, 24, 48)  # x, y, z
    folder = import_bundle(kind, network, tmp_path, window[::-1])
    bundle = export_monai_bundle(folder, tmp_path / "bundle")
    found = run_bundle(bundle, ct_on_disk, tmp_path / "out")
    expected = bundle_inference(kind, network, ct_on_disk, (1.5, 1.5, 2.0 if kind == "unet" else 1.5), window)
    assert len(np.unique(expected)) > 1
    assert np.count_nonzero(found != expected) == 0
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == list(window)
    assert metadata["nnunetv2_ext"]["preprocessing_profile"]["orientation"] == "RAS"
    assert "normalization_schemes" not in metadata["nnunetv2_ext"]


def test_a_label_tree_becomes_a_bundle_of_leaves(tree_model, leaf_log_probabilities, tmp_path, make_ct):
    import SimpleITK as sitk

    bundle = export_monai_bundle(tree_model, tmp_path / "bundle")
    window = torch.randn(1, 1, 16, 16, 16)  # x, y, z
    with torch.no_grad():
        logits = torch.jit.load(str(bundle / "models" / "model.ts"))(window)
    leaves = [0, 3, 4, 5]
    expected = leaf_log_probabilities(window.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)
    torch.testing.assert_close(logits[:, leaves], expected.clamp_min(-64), rtol=0, atol=1e-4)
    (tmp_path / "images").mkdir()
    sitk.WriteImage(make_ct((20, 18, 17), (1.5, 1.5, 1.5)), str(tmp_path / "images" / "case.nii.gz"))
    found = run_bundle(bundle, tmp_path / "images" / "case.nii.gz", tmp_path / "out")
    assert len(np.unique(found)) > 1
    assert set(np.unique(found)) <= set(leaves)
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"]["2"] == "bones"
    assert metadata["nnunetv2_ext"]["output"]["leaves"] == ["background", "rib", "hip", "body_other"]


@pytest.mark.parametrize(
    ("reader", "record", "turned"),
    [("SimpleITKIO", None, []), ("SimpleITKIO", "PIR", ["PIR"]), ("NibabelIOWithReorient", "PIR", ["RAS"])],
)
def test_images_are_turned_as_for_predictions(reader, record, turned, tmp_path, make_model_folder):
    dataset = {"image_orientation": record} if record else {}
    folder = make_model_folder(tmp_path / "model", plans={"image_reader_writer": reader}, dataset=dataset)
    bundle = export_monai_bundle(folder, tmp_path / "bundle")
    configs = json.loads((bundle / "configs" / "inference.json").read_text())
    transforms = configs["preprocessing"]["transforms"]
    assert [each["axcodes"] for each in transforms if each["_target_"] == "Orientationd"] == turned
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())["nnunetv2_ext"]
    assert metadata["orientation"] == (turned[0] if turned else None)


@pytest.mark.parametrize("nonzero", [False, True])
def test_z_scores_of_the_voxels_that_the_plans_mean(nonzero, tmp_path, make_model_folder):
    folder = make_model_folder(
        tmp_path / "model",
        changes={"normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [nonzero]},
    )
    configs = json.loads((export_monai_bundle(folder, tmp_path / "bundle") / "configs/inference.json").read_text())
    assert configs["preprocessing"]["transforms"][-1] == {
        "_target_": "NormalizeIntensityd", "keys": "image", "nonzero": nonzero,
    }  # fmt: skip


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("overlapping", [False, True])
def test_overlapping_classes_and_several_channels(tmp_path, make_model_folder, make_ct, channels, overlapping):
    """The windows of MONAI on images normalised by formulas, and nnU-Net's way from sigmoid channels to integers."""
    import SimpleITK as sitk
    from monai.inferers import sliding_window_inference

    from nnunetv2_ext.inference.model.folder import read_model

    regions = {
        "labels": {"background": 0, "A/a": [1, 2], "A/b": [2, 2], "B/c": [3, 3]},
        "regions_class_order": [1, 3, 2],
    }
    folder = make_model_folder(
        tmp_path / "model",
        dataset=regions if overlapping else {},
        channels=channels,
        spacing=(1.5, 1.5, 1.5),
        patch_size=(16, 16, 16),
        changes={
            "normalization_schemes": ["CTNormalization", "ZScoreNormalization"][:channels],
            "use_mask_for_norm": [False, False][:channels],
        },
    )
    model = read_model(folder)
    normalised = []
    (tmp_path / "images").mkdir()
    for channel in range(channels):
        image = make_ct((26, 20, 18), (1.5, 1.5, 1.5), seed=channel)
        name = f"case_{channel:04d}.nii.gz" if channels > 1 else "case.nii.gz"
        sitk.WriteImage(image, str(tmp_path / "images" / name))
        array = sitk.GetArrayFromImage(image).astype(np.float64)
        if channel == 0:
            ct = model.plans.foreground_intensity_properties_per_channel["0"]
            normalised.append((array.clip(ct["percentile_00_5"], ct["percentile_99_5"]) - ct["mean"]) / ct["std"])
        else:
            normalised.append((array - array.mean()) / array.std())
    with torch.no_grad():
        window = torch.from_numpy(np.stack(normalised)[None]).float()
        logits = sliding_window_inference(window, (16, 16, 16), 1, model.networks[0], overlap=0.5, mode="gaussian")[0]
    expected = logits.argmax(0).numpy()
    if overlapping:
        expected = np.zeros(logits.shape[1:], int)
        for channel, value in enumerate([1, 3, 2]):
            expected[logits[channel].numpy() > 0] = value
    bundle = export_monai_bundle(folder, tmp_path / "bundle")
    found = run_bundle(bundle, tmp_path / "images" / "case.nii.gz", tmp_path / "out")
    assert len(np.unique(expected)) == 4
    assert (found == expected).mean() >= 0.999


def test_what_a_bundle_cannot_say_is_refused(tmp_path, make_model_folder):
    folder = make_model_folder(tmp_path / "model", configuration="2d")
    with pytest.raises(UserError, match="2D network"):
        export_monai_bundle(folder, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("other", ["eval/case_seg.nii.gz", "configs/mine.json", "notes.txt"])
def test_only_a_bundle_is_replaced(softmax_model, tmp_path, capsys, other):
    from nnunetv2_ext.cli.export import main

    command = ["-m", str(softmax_model), "-o", str(tmp_path / "bundle"), "--format", "monai_bundle", "--overwrite"]
    assert main(command) == main(command) == 0
    file = tmp_path / "bundle" / other
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    assert main(command) == 2
    assert f"also holds {other}" in capsys.readouterr().err
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("preprocessing_profile.json", {"orientation": "payload"}),
        ("preprocessing_profile.json", {"intensity": [{"name": "scale", "minimum": "payload", "maximum": 1.0}]}),
        ("preprocessing_profile.json", {"spacing": ["payload", 1.0, 1.0]}),
        ("dataset.json", {"licence": "payload"}),
        ("dataset.json", {"reference": "%/etc/hostname"}),
        ("provenance.json", {"source": "payload"}),
        ("provenance.json", {"_target_": "os.abort"}),
    ],
    ids=str,
)
def test_no_text_of_a_model_becomes_an_expression(file, change, tmp_path, ct_on_disk, bundle_network, import_bundle):
    """MONAI evaluates texts of a bundle that begin with a dollar."""
    folder = import_bundle("segresnet", bundle_network("segresnet"), tmp_path, (48, 24, 16))
    payload = f"$__import__('pathlib').Path({str(tmp_path / 'executed')!r}).touch()"
    content = json.loads((folder / file).read_text()) | change
    (folder / file).write_text(json.dumps(content).replace('"payload"', json.dumps(payload)))
    with pytest.raises(UserError, match="Expected"):
        run_bundle(export_monai_bundle(folder, tmp_path / "bundle"), ct_on_disk, tmp_path / "out")
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "bundle").exists()
