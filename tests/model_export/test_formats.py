from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from nnunetv2_ext.model_export.formats import FILE_FORMATS, check_agreement, export_network
from nnunetv2_ext.utilities.errors import UserError


@pytest.fixture(scope="module")
def model(tmp_path_factory, make_model_folder):
    return make_model_folder(
        tmp_path_factory.mktemp("export") / "model", spacing=(1.5, 1.5, 1.5), patch_size=(16, 16, 16)
    )


def run_exported(file, file_format, image):
    """Runs the file with nothing but the library that it is made for."""
    if file_format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
    program = torch.export.load(file).module() if file_format == "torch_export" else torch.jit.load(str(file))
    return program(image)


@pytest.mark.parametrize("file_format", FILE_FORMATS)
def test_exported_files_agree_with_the_network(file_format, model, tmp_path):
    if file_format == "onnx":
        pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
    from nnunetv2_ext.inference.model.folder import read_model

    file = export_network(model, tmp_path / f"network{FILE_FORMATS[file_format]}", file_format)
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        expected = read_model(model).networks[0](image)
        found = run_exported(file, file_format, image)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    metadata = json.loads((tmp_path / f"{file.name}.metadata.json").read_text())
    assert metadata["labels"]["liver"] == 1
    assert metadata["spacing_mm"] == [1.5, 1.5, 1.5]
    assert metadata["input"]["shape"] == [1, 1, 16, 16, 16]
    assert {"version", "license", "citations", "normalization_schemes", "checkpoint_sha256"} <= set(metadata)


def test_a_network_that_differs_is_refused(tmp_path):
    network = torch.nn.Conv3d(1, 2, 1)
    window = torch.randn(1, 1, 4, 4, 4)
    assert check_agreement(network, network, window, tmp_path) == 0
    with pytest.raises(UserError, match="differs"):
        check_agreement(lambda image: network(image) + 1e-3, network, window, tmp_path)
    with pytest.raises(UserError, match="differs"):
        check_agreement(lambda image: network(image) * torch.nan, network, window, tmp_path)


@pytest.mark.parametrize("file_format", FILE_FORMATS)
def test_large_logits_are_compared_by_their_size(tmp_path, make_model_folder, file_format, capsys):
    if file_format == "onnx":
        pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
    from nnunetv2_ext.cli.export import main

    folder = make_model_folder(tmp_path / "model", spacing=(1.5, 1.5, 1.5), patch_size=(16, 16, 16))
    checkpoint = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=True)
    for name, tensor in checkpoint["network_weights"].items():
        if "seg_layers" in name:
            tensor *= 3000
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    target = tmp_path / f"network{FILE_FORMATS[file_format]}"
    assert main(["-m", str(folder), "-o", str(target), "--format", file_format]) == 0, capsys.readouterr().err


def test_existing_files_and_unknown_formats_are_refused(model, tmp_path):
    (tmp_path / "network.ts").write_text("mine")
    with pytest.raises(UserError, match="overwrite"):
        export_network(model, tmp_path / "network.ts", "torchscript")
    assert (tmp_path / "network.ts").read_text() == "mine"
    with pytest.raises(UserError, match="torch_export"):
        export_network(model, tmp_path / "network.x", "x")


def in_monai(model, path):
    """CT normalisation by its formula, MONAI's windows, argmax; the image has the network's spacing already."""
    import SimpleITK as sitk
    from monai.inferers import sliding_window_inference

    statistics = model.plans.foreground_intensity_properties_per_channel["0"]
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.float32)
    clipped = np.clip(image, statistics["percentile_00_5"], statistics["percentile_99_5"])
    normalised = torch.from_numpy((clipped - statistics["mean"]) / statistics["std"])[None, None]
    with torch.no_grad():
        logits = sliding_window_inference(
            normalised.float(), (16, 16, 16), 1, model.networks[0], overlap=0.5, mode="gaussian"
        )
    return logits[0].argmax(0).numpy()


@pytest.mark.parametrize(("file_format", "library"), [("onnx", "onnxscript"), ("monai_bundle", "monai")])
def test_without_its_extra_a_format_says_what_to_install(file_format, library, model, tmp_path, monkeypatch, capsys):
    from nnunetv2_ext.cli import export

    monkeypatch.setitem(sys.modules, library, None)
    assert export.main(["-m", str(model), "-o", str(tmp_path / "out"), "--format", file_format]) == 2
    error = capsys.readouterr().err
    assert f"The format {file_format} needs {library}, which is not installed; run: pip install 'nnunetv2-ext[" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_exported_bundle_runs(model, tmp_path, make_ct):
    """With MONAI's own command, as MONAI's transforms and inferer run with the network itself."""
    pytest.importorskip("monai", reason="the extra 'monai' is not installed")
    pytest.importorskip("fire", reason="MONAI's command line needs the library fire")
    import SimpleITK as sitk

    from nnunetv2_ext.cli import export
    from nnunetv2_ext.inference.model.folder import read_model

    bundle, images, out = tmp_path / "bundle", tmp_path / "images", tmp_path / "out"
    assert export.main(["-m", str(model), "-o", str(bundle), "--format", "monai_bundle"]) == 0
    images.mkdir()
    image = make_ct((34, 30, 26), (1.5, 1.5, 1.5))
    sitk.WriteImage(image, str(images / "case.nii.gz"))
    command = [
        sys.executable, "-m", "monai.bundle", "run", "--config_file", f"{bundle}/configs/inference.json",
        "--meta_file", f"{bundle}/configs/metadata.json", "--bundle_root", str(bundle),
        "--dataset_dir", str(images), "--output_dir", str(out),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    (written,) = out.glob("*.nii.gz")
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(written)))
    expected = in_monai(read_model(model), images / "case.nii.gz")
    assert found.shape == expected.shape
    assert len(np.unique(expected)) > 1
    assert (found == expected).mean() >= 0.999
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"]["1"] == "liver"


@pytest.mark.parametrize("file_format", FILE_FORMATS)
def test_a_label_tree_is_exported_as_log_probabilities_of_its_leaves(
    file_format, tree_model, leaf_log_probabilities, tmp_path
):
    if file_format == "onnx":
        pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
    file = export_network(tree_model, tmp_path / f"network{FILE_FORMATS[file_format]}", file_format)
    image = torch.randn(1, 1, 16, 16, 16)
    found = run_exported(file, file_format, image)
    metadata = json.loads((tmp_path / f"{file.name}.metadata.json").read_text())
    channels = metadata["output"]["channels"]
    assert channels == ["background", "body", "bones", "rib", "hip", "body_other"]
    assert metadata["output"]["leaves"] == ["background", "rib", "hip", "body_other"]
    leaves = [channels.index(name) for name in metadata["output"]["leaves"]]
    expected = leaf_log_probabilities(image).clamp_min(metadata["output"]["least_value_of_leaves"])
    torch.testing.assert_close(found[:, leaves], expected, rtol=0, atol=1e-4)
    assert metadata["output"]["activation"] == "softmax"
    torch.testing.assert_close(found.softmax(1)[:, leaves], expected.exp(), rtol=0, atol=1e-4)
    assert bool((found[:, [1, 2]] == metadata["output"]["value_of_inner_nodes"]).all())
    assert metadata["label_tree"]["body"]["bones"] == {"rib": {}, "hip": {}}


@pytest.mark.parametrize("file_format", ["torch_export", "torchscript"])
@pytest.mark.parametrize("kind", ["segresnet", "unet"])
def test_an_imported_bundle_is_described_by_its_own_preprocessing(
    kind, file_format, tmp_path, bundle_network, import_bundle
):
    """Not by that of the plans, which comes close at best."""
    pytest.importorskip("monai", reason="the extra 'monai' is not installed")
    network = bundle_network(kind)
    folder = import_bundle(kind, network, tmp_path, (48, 24, 16))
    file = export_network(folder, tmp_path / f"network{FILE_FORMATS[file_format]}", file_format)
    image = torch.randn(1, 1, 48, 24, 16)
    found = run_exported(file, file_format, image)
    with torch.no_grad():
        expected = network(image.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    metadata = json.loads((tmp_path / f"{file.name}.metadata.json").read_text())
    profile = metadata["preprocessing_profile"]
    assert profile["orientation"] == "RAS"
    if kind == "unet":
        assert metadata["spacing_mm"] == profile["spacing"] == [2.0, 1.5, 1.5]
        assert profile["intensity"] == [{"name": "clip_and_scale", "from": [-57.0, 164.0], "to": [0.0, 1.0]}]
    else:
        assert metadata["spacing_mm"] == profile["spacing"] == [1.5, 1.5, 1.5]
        assert [rule["name"] for rule in profile["intensity"]] == ["normalize_nonzero", "scale"]
    assert metadata["input"]["shape"] == [1, 1, 48, 24, 16]
    claims = {"normalization_schemes", "foreground_intensity_properties_per_channel", "use_mask_for_norm"}
    assert not claims & set(metadata)


def test_the_second_stage_of_a_cascade_says_what_it_reads(tmp_path, make_model_folder):
    folder = make_model_folder(tmp_path / "model", patch_size=(16, 16, 16), changes={"previous_stage": "3d_lowres"})
    export_network(folder, tmp_path / "network.ts", "torchscript")
    metadata = json.loads((tmp_path / "network.ts.metadata.json").read_text())
    assert metadata["input"]["shape"] == [1, 4, 16, 16, 16]  # the image, and a mask of each of three classes
    assert metadata["input"]["previous_stage"] == "3d_lowres"
