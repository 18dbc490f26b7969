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


@pytest.mark.parametrize(("reader", "turned"), [("SimpleITKIO", []), ("NibabelIOWithReorient", ["RAS"])])
def test_images_are_turned_where_nnunet_turns_them(reader, turned, tmp_path, make_model_folder):
    folder = make_model_folder(tmp_path / "model", plans={"image_reader_writer": reader})
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


def test_what_a_bundle_cannot_say_is_refused(tmp_path, region_model):
    with pytest.raises(UserError, match="regions"):
        export_monai_bundle(region_model, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


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
