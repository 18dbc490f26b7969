"""The predictor against stock nnU-Net in the same process."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pickle
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch

from nnunetv2_ext.images.reading import scan_of_image
from nnunetv2_ext.inference import Predictor, parts
from nnunetv2_ext.inference.model.folder import read_model
from nnunetv2_ext.inference.modes import MODES
from nnunetv2_ext.inference.parts import PredictorSettings
from nnunetv2_ext.inference.prediction_run import PredictionOptions, PredictionRun
from nnunetv2_ext.inference.segmentation import Segmenter
from nnunetv2_ext.inference.windows.ring import Ring
from nnunetv2_ext.utilities.errors import UserError

REGIONS = {
    "labels": {"background": 0, "A/liver": [1, 2], "A/tumour": [2, 2], "B/liver": [3, 3], "B/spleen": [4, 4]},
    "regions_class_order": [1, 2, 3, 4],
}


def stock_label_map(
    folder,
    files,
    folds,
    *,
    mirroring=True,
    step_size=0.5,
    previous=None,
    sums=torch.float16,
    probabilities=False,
    device="cpu",
):
    """nnU-Net's own prediction.

    Stock adds windows up and resamples in float16, which moves borders between classes by rounding; with ``sums`` in
    float32 its result is what the formulas say.
    """
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot

    model = read_model(folder, folds)
    predictor = nnUNetPredictor(0.5, True, True, device != "cpu", torch.device(device), allow_tqdm=False)
    predictor.manual_initialization(
        model.networks[0],
        model.plans,
        model.configuration,
        [network.state_dict() for network in model.networks],
        model.dataset_json,
        "nnUNetTrainer",
        model.mirror_axes,
    )
    preprocessor = model.configuration.preprocessor_class(verbose=False)
    data, segmentation, properties = preprocessor.run_case(
        [str(file) for file in files], previous, model.plans, model.configuration, model.dataset_json
    )
    if previous is not None:
        data = np.vstack(
            (data, convert_labelmap_to_one_hot(segmentation[0], model.labels.foreground_labels, data.dtype))
        )
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "half", sums)
        logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(np.asarray(data, np.float32))).cpu()
    return convert_predicted_logits_to_segmentation_with_correct_shape(
        logits,
        model.plans,
        model.configuration,
        model.labels,
        properties,
        return_probabilities=probabilities,
        num_threads_torch=1,
    )


def _agreement(first, second):
    return float((np.asarray(first) == np.asarray(second)).mean())


def _predict(folder, file, device="cpu", **options):
    return SimpleITK.GetArrayFromImage(Predictor.from_model_folder(folder, device=device, **options).predict(file))


CASES = {
    "softmax": {},
    "regions": {"dataset": REGIONS},
    "two folds": {"folds": (0, 1)},
    "regions, two folds": {"dataset": REGIONS, "folds": (0, 1)},
    "three folds, mirroring": {"folds": (0, 1, 2), "mirror_axes": (1,)},
    "mirroring": {"mirror_axes": (0, 1, 2)},
    "2d": {"configuration": "2d"},
    "2d, two folds": {"configuration": "2d", "folds": (0, 1)},
    "2d regions, mirroring": {"configuration": "2d", "dataset": REGIONS, "mirror_axes": (0, 1)},
    "transposed": {"plans": {"transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]}},
    "anisotropic": {"spacing": (9.0, 1.2, 1.2)},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_accurate_is_what_stock_predicts(tmp_path, make_model_folder, make_ct, options, device):
    folder = make_model_folder(tmp_path / "model", **options)
    file = tmp_path / "a_0000.nii.gz"
    # Larger than several windows along every axis.
    SimpleITK.WriteImage(make_ct(size=(32, 30, 17)), str(file))
    folds = options.get("folds", (0,))
    expected = stock_label_map(folder, [file], folds, device=device.type)
    assert len(np.unique(expected)) >= 3, "a map of one class would hide any mistake"
    found = _predict(folder, file, device)
    assert found.shape == expected.shape
    # Random weights make for many ties in float16; every sum is rounded as stock rounds it. On CUDA we interpolate on
    # the device and stock on the CPU, which round the last digit of a sum their own ways.
    assert _agreement(found, expected) >= (0.99999 if device.type == "cpu" else 0.999)
    if device.type == "cpu":  # on CUDA stock multiplies windows by their weights in float16, whatever the sums are
        exact = stock_label_map(folder, [file], folds, sums=torch.float32)
        assert _agreement(_predict(folder, file, sums="float32"), exact) >= 0.9999


@pytest.mark.parametrize("regions", [False, True], ids=["softmax", "regions"])
def test_accurate_is_what_stock_predicts_where_nothing_is_resampled(
    tmp_path, make_ct, softmax_model, region_model, regions
):
    folder = region_model if regions else softmax_model
    file = tmp_path / "a_0000.nii.gz"
    SimpleITK.WriteImage(make_ct(size=(44, 41, 24), spacing=(1.5, 1.5, 2.0)), str(file))
    expected = stock_label_map(folder, [file], (0,))
    assert len(np.unique(expected)) >= 3
    np.testing.assert_array_equal(_predict(folder, file), expected)


def windows_of(predictor: Predictor) -> Any:
    assert isinstance(predictor.segmenter, Segmenter)
    return predictor.segmenter.windows


def test_the_type_of_sums_follows_the_mode(softmax_model):
    predictors = {mode: Predictor.from_model_folder(softmax_model, device="cpu", mode=mode) for mode in MODES}
    assert {mode: predictor.mode.sums for mode, predictor in predictors.items()} == {
        "accurate": "float16",
        "fast": "float32",
        "fastest": "float32",
    }
    assert windows_of(predictors["accurate"]).dtype == torch.float16
    assert windows_of(predictors["fast"]).dtype == torch.float32
    chosen = Predictor.from_model_folder(softmax_model, device="cpu", mode="fast", sums="float16")
    assert windows_of(chosen).dtype == torch.float16


def test_folds_have_sums_of_their_own_only_in_float16(tmp_path, make_model_folder):
    folder = make_model_folder(tmp_path / "model", folds=(0, 1))
    count = {
        sums: len(windows_of(Predictor.from_model_folder(folder, device="cpu", sums=sums)).networks)
        for sums in ("float16", "float32")
    }
    assert count == {"float16": 2, "float32": 1}


def test_several_channels_and_images_smaller_than_the_patch(tmp_path, make_model_folder, make_ct):
    folder = make_model_folder(tmp_path / "model", channels=2, patch_size=(16, 32, 32))
    files = [tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz"]
    for seed, file in enumerate(files):
        SimpleITK.WriteImage(make_ct(size=(14, 13, 6), seed=seed), str(file))
    assert _agreement(_predict(folder, files[0]), stock_label_map(folder, files, (0,))) >= 0.9999


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_an_image_of_one_slice(tmp_path, make_model_folder, make_ct, configuration):
    folder = make_model_folder(tmp_path / "model", configuration=configuration)
    SimpleITK.WriteImage(make_ct(size=(20, 18, 1)), str(tmp_path / "a_0000.nii.gz"))
    expected = stock_label_map(folder, [tmp_path / "a_0000.nii.gz"], (0,))
    assert _agreement(_predict(folder, tmp_path / "a_0000.nii.gz"), expected) >= 0.9999


def test_an_image_with_an_empty_border_is_cropped_and_put_back(tmp_path, softmax_model, make_ct):
    array = SimpleITK.GetArrayFromImage(make_ct())
    array[:3], array[:, :, -5:] = 0, 0
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(tmp_path / "a_0000.nii.gz"))
    expected = stock_label_map(softmax_model, [tmp_path / "a_0000.nii.gz"], (0,))
    found = _predict(softmax_model, tmp_path / "a_0000.nii.gz")
    assert _agreement(found, expected) == 1
    assert not found[:3].any()


def test_an_image_of_nothing_but_zeros_is_predicted(softmax_model):
    labels = Predictor.from_model_folder(softmax_model, device="cpu").predict(np.zeros((9, 10, 11)), (2, 1.5, 1.5))
    assert isinstance(labels, np.ndarray)
    assert labels.shape == (9, 10, 11)


@pytest.mark.parametrize("mode", ["accurate", "fast", "fastest"])
@pytest.mark.parametrize(
    "direction",
    [
        np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]),
        np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]),
    ],
    ids=["oblique", "permuted"],
)
def test_direction_is_copied_and_does_not_change_the_voxels(softmax_model, make_ct, direction, mode):
    predictor = Predictor.from_model_folder(softmax_model, device="cpu", mode=mode)
    image, straight = make_ct(direction=direction), make_ct()
    found: Any = predictor.predict(image)
    expected = predictor.predict(straight)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(found), SimpleITK.GetArrayFromImage(expected))
    assert found.GetDirection() == image.GetDirection()
    assert found.GetOrigin() == image.GetOrigin()
    assert found.GetSpacing() == image.GetSpacing()


def test_paths_images_and_arrays_give_the_same_labels(softmax_model, ct_file):
    predictor = Predictor.from_model_folder(softmax_model, device="cpu")
    image = SimpleITK.ReadImage(str(ct_file))
    from_path, from_image = predictor.predict(ct_file), predictor.predict(image)
    from_array = predictor.predict(SimpleITK.GetArrayFromImage(image), image.GetSpacing()[::-1])
    assert isinstance(from_array, np.ndarray)
    assert from_array.dtype == np.uint8
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(from_path), from_array)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(from_image), from_array)


def test_a_model_that_reorients_gives_the_same_anatomy_for_any_axis_order(tmp_path, make_model_folder, make_ct):
    folder = make_model_folder(tmp_path / "model", plans={"image_reader_writer": "NibabelIOWithReorient"})
    predictor = Predictor.from_model_folder(folder, device="cpu")
    image = make_ct()
    turned = SimpleITK.DICOMOrient(image, "PIR")
    found = SimpleITK.DICOMOrient(predictor.predict(turned), "LPS")
    expected = SimpleITK.DICOMOrient(predictor.predict(image), "LPS")
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(found), SimpleITK.GetArrayFromImage(expected))


@pytest.mark.parametrize("record", [{}, {"image_orientation": "SAL"}], ids=["", "whatever its images lay like"])
def test_a_reorienting_model_is_what_stock_predicts(tmp_path, make_model_folder, make_ct, record):
    from nibabel import Nifti1Image

    plans = {"image_reader_writer": "NibabelIOWithReorient"}
    folder = make_model_folder(tmp_path / "model", plans=plans, dataset=record)
    SimpleITK.WriteImage(SimpleITK.DICOMOrient(make_ct(), "PIR"), str(tmp_path / "a_0000.nii.gz"))
    in_ras = stock_label_map(folder, [tmp_path / "a_0000.nii.gz"], (0,))
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient

    reader = NibabelIOWithReorient()
    _, properties = reader.read_images([str(tmp_path / "a_0000.nii.gz")])
    reader.write_seg(in_ras, str(tmp_path / "stock.nii.gz"), properties)
    expected = np.asarray(Nifti1Image.from_filename(tmp_path / "stock.nii.gz").dataobj).T
    assert _agreement(_predict(folder, tmp_path / "a_0000.nii.gz"), expected) >= 0.9999


def test_the_second_stage_of_a_cascade(tmp_path, make_model_folder, make_ct):
    folder = make_model_folder(tmp_path / "model", changes={"previous_stage": "3d_lowres"})
    image = make_ct()
    SimpleITK.WriteImage(image, str(tmp_path / "a_0000.nii.gz"))
    first = np.random.default_rng(0).integers(0, 4, image.GetSize()[::-1]).astype(np.uint8)
    previous = SimpleITK.GetImageFromArray(first)
    previous.CopyInformation(image)
    SimpleITK.WriteImage(previous, str(tmp_path / "previous.nii.gz"))
    expected = stock_label_map(folder, [tmp_path / "a_0000.nii.gz"], (0,), previous=str(tmp_path / "previous.nii.gz"))
    predictor = Predictor.from_model_folder(folder, device="cpu")
    found = predictor.predict(tmp_path / "a_0000.nii.gz", previous_stage=tmp_path / "previous.nii.gz")
    assert _agreement(SimpleITK.GetArrayFromImage(found), expected) >= 0.9999
    with pytest.raises(UserError, match="previous stage"):
        predictor.predict(image)
    with pytest.raises(UserError, match="previous stage"):
        predictor.predict(image, previous_stage=previous[:, :, :5])
    previous.SetOrigin([edge + 500 for edge in previous.GetOrigin()])
    with pytest.raises(UserError, match=r"previous stage on the grid of .* an origin at"):
        predictor.predict(image, previous_stage=previous)


def test_outputs_per_source_and_class_are_the_heads_own_decisions(region_model, ct_file):
    merged = _predict(region_model, ct_file)
    by_class = Predictor.from_model_folder(region_model, device="cpu", outputs="per_class").predict(ct_file)
    masks = {name: SimpleITK.GetArrayFromImage(image).astype(bool) for name, image in by_class.items()}
    repainted = np.zeros_like(merged)
    for value, mask in enumerate(masks.values(), 1):
        repainted[mask] = value
    np.testing.assert_array_equal(repainted, merged)
    by_source = Predictor.from_model_folder(region_model, device="cpu", outputs="per_source").predict(ct_file)
    for source, (first, second) in {"A": ("A/liver", "A/tumour"), "B": ("B/liver", "B/spleen")}.items():
        expected = np.where(masks[second], 2, np.where(masks[first], 1, 0))
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(by_source[source]), expected)
    assert (masks["A/liver"] & masks["B/liver"]).any(), "sources that never overlap would not need maps of their own"


def test_chosen_classes_of_a_region_model_are_computed_alone_and_equal(region_model, ct_file):
    every = Predictor.from_model_folder(region_model, device="cpu", outputs="per_class").predict(ct_file)
    chosen = ["A/tumour", "B/spleen"]
    some = Predictor.from_model_folder(region_model, device="cpu", outputs="per_class", classes=chosen)
    assert windows_of(some).networks[0].networks[0].decoder.seg_layers[-1].weight.shape[0] == 2
    found = some.predict(ct_file)
    assert list(found) == chosen
    for name in chosen:
        np.testing.assert_array_equal(
            SimpleITK.GetArrayFromImage(found[name]), SimpleITK.GetArrayFromImage(every[name])
        )


def test_one_model_serves_several_predictors(region_model, ct_file):
    model = read_model(region_model)

    def one(**options):
        return Predictor(model, PredictorSettings(device="cpu", outputs="per_class", **options))

    first = one(classes=frozenset(["A/liver"])).predict(ct_file)
    second = one(classes=frozenset(["B/spleen"])).predict(ct_file)
    every = one().predict(ct_file)
    for name, image in {**first, **second}.items():
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), SimpleITK.GetArrayFromImage(every[name]))


def test_chosen_classes_of_a_softmax_model_are_those_of_the_full_map(softmax_model, ct_file):
    every, some = _predict(softmax_model, ct_file), _predict(softmax_model, ct_file, classes=["spleen"])
    assert (every == 2).any()
    np.testing.assert_array_equal(some, np.where(every == 2, 2, 0))


def test_wrong_options_are_refused(softmax_model, tmp_path):
    model = read_model(softmax_model)
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"mode": "turbo"}, "accurate, fast, fastest"),
        ({"step_size": 1.5}, "step size"),
        ({"sums": "float64"}, "float16, float32 as the type of sums"),
        ({"device": "xla"}, "cuda, cpu, mps"),
        ({"device": "cuda:x"}, "cuda, cpu, mps"),
        ({"device": "cuda:99"}, "for -device cuda:99, but torch finds"),
        ({"backend": "onnx"}, "torch, openvino, auto"),
        ({"precision": "float64"}, "auto, float16, float32, bfloat16 as the precision"),
        ({"backend": "openvino", "precision": "bfloat16"}, "--precision float32 with --backend openvino"),
        ({"keep_largest": ["heart"]}, r"\(aorta, liver, spleen\) for --keep_largest, but got heart"),
        ({"classes": ["heart"]}, "but got heart"),
        ({"outputs": "per_source"}, "partial_labels"),
    )
    for options, text in wrong:
        with pytest.raises(UserError, match=text):
            Predictor(model, PredictorSettings(**{"device": "cpu", **options}))


def test_images_that_do_not_fit_are_refused(softmax_model, make_ct):
    predictor = Predictor.from_model_folder(softmax_model, device="cpu")
    with pytest.raises(UserError, match="1 channel"):
        predictor.predict(np.zeros((2, 9, 9, 9)), (1, 1, 1))
    with pytest.raises(UserError, match="spacing"):
        predictor.predict(np.zeros((9, 9, 9)))
    with pytest.raises(UserError, match="3D image"):
        predictor.predict(make_ct()[:, :, 1])


def test_another_predictor_leaves_the_network_where_it_is(softmax_model, ct_file, monkeypatch):
    # The only other device of every machine, one without memory.
    monkeypatch.setattr(parts, "DEVICES", ("cpu", "meta"))
    model = read_model(softmax_model)
    predictor = Predictor(model, PredictorSettings(device="cpu"))
    expected = SimpleITK.GetArrayFromImage(predictor.predict(ct_file))
    elsewhere = Predictor(model, PredictorSettings(device="meta"))
    with pytest.raises((NotImplementedError, RuntimeError)):  # where there are no numbers, nothing can be decided
        elsewhere.predict(ct_file)
    (network,) = windows_of(elsewhere).networks
    assert {tensor.device.type for tensor in network.parameters()} == {"meta"}
    assert {tensor.device.type for network in model.networks for tensor in network.parameters()} == {"cpu"}
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(predictor.predict(ct_file)), expected)


def test_sums_in_float32_begin_with_the_first_pass(tmp_path, make_model_folder):
    """On CUDA networks answer in float16, whose sums over flips and folds would be rounded before any other."""
    folder = make_model_folder(tmp_path / "model", folds=(0, 1), mirror_axes=(0, 1, 2))
    predictor = Predictor.from_model_folder(folder, device="cpu", sums="float32")
    for network in predictor.model.networks:
        network.register_forward_hook(lambda module, inputs, output: output.half())
    window = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    found = windows_of(predictor).logits(window)
    passes = []
    with torch.no_grad():
        for network in predictor.model.networks:
            for axes in [axes for number in range(4) for axes in itertools.combinations((2, 3, 4), number)]:
                passes.append(network(window[None].flip(axes)).flip(axes)[0].double())
    torch.testing.assert_close(found.double(), torch.stack(passes).mean(0), atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("regions", [False, True], ids=["softmax", "regions"])
def test_the_largest_component_of_chosen_classes_stays(softmax_model, region_model, ct_file, regions):
    from nnunetv2.postprocessing.remove_connected_components import (
        remove_all_but_largest_component_from_segmentation as remove,
    )

    folder, name, value = (region_model, "A/tumour", 2) if regions else (softmax_model, "spleen", 2)
    every = _predict(folder, ct_file)
    found = _predict(folder, ct_file, keep_largest=[name])
    assert (found != every).any()
    np.testing.assert_array_equal(found, remove(every, value))
    masks = Predictor.from_model_folder(folder, device="cpu", outputs="per_class", keep_largest=[name]).predict(ct_file)
    both = Predictor.from_model_folder(folder, device="cpu", outputs="per_class").predict(ct_file)
    for other, mask in both.items():
        array = SimpleITK.GetArrayFromImage(mask)
        expected = remove(array, 1) if other == name else array
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(masks[other]), expected)


def test_nnunets_own_postprocessing(softmax_model, ct_file, tmp_path):
    from nnunetv2.postprocessing.remove_connected_components import (
        apply_postprocessing,
        remove_all_but_largest_component_from_segmentation,
    )

    functions = [remove_all_but_largest_component_from_segmentation] * 3
    options = [{"labels_or_regions": labels} for labels in ([1, 2, 3], 3, [(1, 2)])]
    file = tmp_path / "postprocessing.pkl"
    file.write_bytes(pickle.dumps((functions, options)))
    every, found = _predict(softmax_model, ct_file), _predict(softmax_model, ct_file, keep_largest=file)
    assert (found != every).any()
    np.testing.assert_array_equal(found, apply_postprocessing(every, functions, options))
    for content, text in (
        (pickle.dumps(([print], [{}])), "holds something else .builtins.print"),
        (pickle.dumps((functions[:1], [{"labels_or_regions": "all"}])), "Expected an integer"),
        (b"", "holds something else"),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match=text):
            _predict(softmax_model, ct_file, keep_largest=file)
    file.unlink()
    with pytest.raises(UserError, match="does not exist"):
        _predict(softmax_model, ct_file, keep_largest=file)


def test_scans_remember_nothing_of_the_prediction(softmax_model, make_ct):
    predictor = Predictor.from_model_folder(softmax_model, device="cpu")
    scan = scan_of_image(make_ct())
    before = scan.channels.copy()
    predictor.prepare(scan)
    np.testing.assert_array_equal(scan.channels, before)


RESAMPLING = {
    "linear": {},
    "torch": {
        "resampling_fn_probabilities": "resample_torch_fornnunet",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "force_separate_z": False},
    },
    "cubic": {
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    },
}


@pytest.mark.parametrize("regions", [False, True], ids=["softmax", "regions"])
@pytest.mark.parametrize("changes", RESAMPLING.values(), ids=RESAMPLING)
def test_whatever_function_the_plans_resample_logits_with(tmp_path, make_model_folder, ct_file, changes, regions):
    folder = make_model_folder(tmp_path / "model", changes=changes, dataset=REGIONS if regions else None)
    expected = stock_label_map(folder, [ct_file], (0,))
    assert _agreement(_predict(folder, ct_file), expected) >= 0.9999


@pytest.mark.parametrize("regions", [False, True], ids=["softmax", "regions"])
@pytest.mark.parametrize("changes", RESAMPLING.values(), ids=RESAMPLING)
def test_logits_that_are_not_finite_are_refused(tmp_path, make_model_folder, ct_file, changes, regions):
    folder = make_model_folder(tmp_path / "model", changes=changes, dataset=REGIONS if regions else None)
    file = folder / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["network_weights"]["decoder.seg_layers.0.bias"][-1] = float("nan")
    torch.save(checkpoint, file)
    with pytest.raises(UserError, match="NaN or infinity"):
        _predict(folder, ct_file)


class TestProbabilities:
    """The files that nnU-Net's ensembling reads."""

    @pytest.mark.parametrize("regions", [False, True], ids=["softmax", "regions"])
    @pytest.mark.parametrize("changes", [RESAMPLING["linear"], RESAMPLING["cubic"]], ids=["linear", "cubic"])
    def test_they_are_stocks(self, tmp_path, make_model_folder, make_ct, changes, regions):
        options = {"plans": {"transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]}, "changes": changes}
        folder = make_model_folder(tmp_path / "model", dataset=REGIONS if regions else None, **options)
        array = SimpleITK.GetArrayFromImage(make_ct())
        array[:3] = 0
        file = tmp_path / "a_0000.nii.gz"
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(file))
        for sums in ("float16", "float32"):
            _, expected = stock_label_map(folder, [file], (0,), sums=getattr(torch, sums), probabilities=True)
            self._run(folder, file, tmp_path / sums, sums=sums)
            with np.load(tmp_path / sums / "a.npz") as content:
                probabilities = content["probabilities"]
                assert len(content["classes"]) == len(expected)
            assert probabilities.dtype == np.float32
            difference = np.abs(probabilities - expected)
            if sums == "float32":
                assert difference.max() <= 2e-5
            else:
                # A logit that is interpolated in float32 may be rounded to the next number of float16.
                assert (difference > 1e-6).mean() < 2e-2
                assert difference.max() < 2e-3
            assert [path.name for path in (tmp_path / sums).iterdir() if path.name.startswith(".")] == []

    def test_chosen_classes_of_a_region_model_are_those_of_all(self, tmp_path, region_model, ct_file):
        self._run(region_model, ct_file, tmp_path / "all")
        self._run(region_model, ct_file, tmp_path / "some", classes=["B/spleen", "A/tumour"])
        with np.load(tmp_path / "all" / "case.npz") as every, np.load(tmp_path / "some" / "case.npz") as some:
            assert list(some["classes"]) == ["A/tumour", "B/spleen"]
            np.testing.assert_allclose(some["probabilities"], every["probabilities"][[1, 3]], atol=1e-6)

    def test_they_are_stocks_where_the_reader_turns_images(self, tmp_path, make_model_folder, make_ct):
        from nnunetv2.ensembling.ensemble import merge_files
        from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient

        folder = make_model_folder(tmp_path / "model", plans={"image_reader_writer": "NibabelIOWithReorient"})
        SimpleITK.WriteImage(SimpleITK.DICOMOrient(make_ct(), "PIR"), str(tmp_path / "a_0000.nii.gz"))
        _, expected = stock_label_map(folder, [tmp_path / "a_0000.nii.gz"], (0,), probabilities=True)
        self._run(folder, tmp_path / "a_0000.nii.gz", tmp_path / "out")
        with np.load(tmp_path / "out" / "a.npz") as content:
            assert np.abs(content["probabilities"] - expected).max() < 2e-3
        merge_files(
            [str(tmp_path / "out" / "a.npz")],
            str(tmp_path / "merged"),
            ".nii.gz",
            NibabelIOWithReorient(),
            read_model(folder).labels,
        )
        merged, own = (SimpleITK.ReadImage(str(tmp_path / name)) for name in ("merged.nii.gz", "out/a.nii.gz"))
        assert merged.GetDirection() == pytest.approx(own.GetDirection())
        assert merged.GetOrigin() == pytest.approx(own.GetOrigin())
        assert _agreement(SimpleITK.GetArrayFromImage(merged), SimpleITK.GetArrayFromImage(own)) >= 0.999

    def test_nnunets_ensembling_takes_them(self, tmp_path, make_model_folder, ct_file, monkeypatch):
        from nnunetv2.ensembling.ensemble import average_probabilities, merge_files
        from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

        folder = make_model_folder(tmp_path / "model", folds=(0, 1))
        for fold in (0, 1):
            self._run(folder, ct_file, tmp_path / str(fold), folds=(fold,))
        files = [str(tmp_path / str(fold) / "case.npz") for fold in (0, 1)]
        model = read_model(folder)
        merge_files(files, str(tmp_path / "merged"), ".nii.gz", SimpleITKIO(), model.labels)
        merged = SimpleITK.ReadImage(str(tmp_path / "merged.nii.gz"))
        assert merged.GetOrigin() == pytest.approx(SimpleITK.ReadImage(str(ct_file)).GetOrigin())
        expected = average_probabilities(files).argmax(0)
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(merged), expected)

    def _run(self, folder, file, target, *, folds=None, **options):
        predictor = Predictor.from_model_folder(folder, device="cpu", folds=folds, **options)
        settings = PredictionOptions(save_probabilities=True, progress_bar=False)
        assert PredictionRun(predictor, file, target, settings).run().failures == []


def _air_with_a_body(size=(40, 40, 40)):
    """Air of -1000 HU with a small body in one corner, as CT (z, y, x)."""
    array = np.random.default_rng(0).normal(-1000, 15, size).astype(np.float32)
    array[4:14, 4:18, 4:18] = np.random.default_rng(1).normal(60, 200, (10, 14, 14))
    return array


@pytest.mark.parametrize("regions", [False, True], ids=["softmax", "regions"])
def test_fast_skips_windows_of_air_and_nothing_else(softmax_model, region_model, regions):
    folder = region_model if regions else softmax_model
    array, spacing = _air_with_a_body(), (2.0, 1.5, 1.5)
    windows = []
    found: dict[bool, Any] = {}
    for mode in (MODES["fast"], dataclasses.replace(MODES["fast"], skip_air=False)):
        predictor = Predictor.from_model_folder(folder, device="cpu", mode=mode)
        network = windows_of(predictor).networks[0]
        count = []
        network.register_forward_hook(lambda *_, count=count: count.append(1))
        found[mode.skip_air] = predictor.predict(array, spacing)
        windows.append(len(count))
    assert windows[0] < windows[1] / 2
    # Every window that touches the body was predicted, so the body's voxels are decided by the same windows.
    body = np.s_[4:14, 4:18, 4:18]
    np.testing.assert_array_equal(found[True][body], found[False][body])
    assert not found[True][24:].any(), "where no window was predicted there is background"


def test_fast_resamples_linearly_and_accurate_by_splines(softmax_model, make_ct):
    plans = json.loads((softmax_model / "plans.json").read_text())
    intensity = plans["foreground_intensity_properties_per_channel"]["0"]
    from scipy.ndimage import zoom

    scan = scan_of_image(make_ct(spacing=(3.0, 3.0, 4.0)))
    fast = Predictor.from_model_folder(softmax_model, device="cpu", mode="fast").prepare(scan)
    accurate = Predictor.from_model_folder(softmax_model, device="cpu").prepare(scan)
    assert fast.data.shape == accurate.data.shape == (1, 24, 40, 44)
    clipped = np.clip(scan.channels[0], intensity["percentile_00_5"], intensity["percentile_99_5"])
    normalised = ((clipped - intensity["mean"]) / intensity["std"]).astype(np.float64)
    for prepared, order in ((fast, 1), (accurate, 3)):
        expected = zoom(normalised, 2, order=order, mode="nearest", grid_mode=True)
        # nnU-Net's splines do not overshoot: skimage clips to the range of the image.
        expected = np.clip(expected, normalised.min(), normalised.max())
        np.testing.assert_allclose(prepared.data[0].numpy(), expected, atol=1e-4)


def test_fastest_decides_at_the_networks_spacing(softmax_model, make_ct):
    # Two voxels of the network are one of the image: an enlarged label map is constant over no block, a reduced one
    # takes every second voxel.
    image = make_ct(spacing=(3.0, 3.0, 4.0))
    predictor = Predictor.from_model_folder(softmax_model, device="cpu", mode="fastest")
    assert predictor.mode.step_size == 0.8
    prepared = predictor.prepare(scan_of_image(image))
    logits = windows_of(predictor).logits(prepared.data, prepared.content)
    expected = logits.argmax(0).numpy()[1::2, 1::2, 1::2]
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(predictor.predict(image)), expected)


@pytest.mark.parametrize("sums", ["float16", "float32"])
def test_what_no_window_covers_is_background_also_where_memory_ran_out(region_model, monkeypatch, sums):
    predictor = Predictor.from_model_folder(region_model, device="cpu", mode="fast", sums=sums)
    array, spacing = _air_with_a_body(), (2.0, 1.5, 1.5)
    expected: Any = predictor.predict(array, spacing)
    assert not expected[24:].any()
    made, make = [], Ring.__init__

    def on_the_device(self, plan, folds, weights, fill):
        made.append(fill.device.type)
        if len(made) == 1:
            raise torch.OutOfMemoryError
        make(self, plan, folds, weights, fill)

    monkeypatch.setattr(Ring, "__init__", on_the_device)
    # A device that this machine does not have, of which only the type is looked at.
    windows_of(predictor).accumulate_on = torch.device("meta")
    np.testing.assert_array_equal(predictor.predict(array, spacing), expected)
    assert made == ["meta", "cpu"]


def test_memory_that_runs_out_on_the_device_is_taken_from_the_cpu(softmax_model, ct_file, monkeypatch):
    predictor = Predictor.from_model_folder(softmax_model, device="cpu")
    expected = SimpleITK.GetArrayFromImage(predictor.predict(ct_file))
    windows = windows_of(predictor)
    slabs, asked = type(windows).slabs, []

    def out_of_memory(self, *arguments):
        asked.append(self.accumulate_on.type)
        if len(asked) == 1:
            raise torch.OutOfMemoryError
        return slabs(self, *arguments)

    monkeypatch.setattr(type(windows), "slabs", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        predictor.predict(ct_file)
    asked.clear()
    # A device that this machine does not have, of which only the type is looked at.
    windows.accumulate_on = torch.device("meta")
    for _ in range(2):
        asked.clear()
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(predictor.predict(ct_file)), expected)
        assert asked == ["meta", "cpu"], "the next case may fit again"


@pytest.mark.gpu
@pytest.mark.parametrize("sums", ["float16", "float32"])
def test_memory_that_runs_out_on_a_gpu_is_taken_from_the_cpu(
    tmp_path, make_model_folder, make_ct, cuda, sums, monkeypatch
):
    labels = {"background": 0, **{f"class_{value}": value for value in range(1, 400)}}
    folder = make_model_folder(tmp_path / "model", dataset={"labels": labels})
    image = make_ct(size=(96, 96, 24), spacing=(1.5, 1.5, 2.0))
    on_cpu = Predictor.from_model_folder(folder, device=cuda, sums=sums, on_device=False)
    expected = SimpleITK.GetArrayFromImage(on_cpu.predict(image))
    predictor = Predictor.from_model_folder(folder, device=cuda, sums=sums)
    torch.cuda.empty_cache()
    # Enough for a window of 400 classes (3 MB) and its network, but not for the ring of sums (59 MB).
    allowed = torch.cuda.memory_reserved() + 40 * 2**20
    torch.cuda.set_per_process_memory_fraction(allowed / torch.cuda.get_device_properties(cuda).total_memory)
    made, make = [], Ring.__init__

    def counted(self, plan, folds, weights, fill):
        made.append(fill.device.type)
        make(self, plan, folds, weights, fill)

    monkeypatch.setattr(Ring, "__init__", counted)
    try:
        found = SimpleITK.GetArrayFromImage(predictor.predict(image))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert made == ["cuda", "cpu"]
    # Not to the last voxel: with other memory, cuDNN takes other algorithms.
    assert _agreement(found, expected) > 0.999


_SMALL = "totalsegmentator_v2_layout/s0001"
_SOFTMAX, _REGIONS = {"folds": (0, 1)}, {"dataset": REGIONS}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "options", "configuration"),
    [
        (_SMALL, _SOFTMAX, "3d_fullres"),
        (_SMALL, _SOFTMAX, "2d"),
        (_SMALL, _REGIONS, "3d_fullres"),
        (_SMALL, _REGIONS, "2d"),
        ("ct_aorta_1p5mm", _REGIONS, "3d_fullres"),
        ("ct_thorax_abdomen_3mm", _REGIONS, "3d_fullres"),
    ],
)
def test_real_cts_are_predicted_as_stock_predicts_them(
    tmp_path, make_model_folder, real_ct_folder, case, options, configuration
):
    # Coarse, so that it is quick; random weights are the hardest case for ties.
    patch = (32, 32) if configuration == "2d" else (16, 32, 32)
    folder = make_model_folder(
        tmp_path / "model", configuration=configuration, spacing=(6.0, 6.0, 6.0), patch_size=patch, **options
    )
    file = real_ct_folder / case / "ct.nii.gz"
    folds = options.get("folds", (0,))
    for sums in ("float16", "float32"):
        found = _predict(folder, file, sums=sums)
        assert len(np.unique(found)) >= 3
        assert _agreement(found, stock_label_map(folder, [file], folds, sums=getattr(torch, sums))) >= 0.9999
