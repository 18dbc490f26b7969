"""Folders of predictions in every layout, against nnU-Net's own summary and against masks."""

from __future__ import annotations

import json
import re
from multiprocessing.pool import ThreadPool
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nnunetv2_ext.cli.evaluate import main
from nnunetv2_ext.evaluation.evaluate import evaluate_folder, write_evaluation
from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.utilities.errors import UserError

SHAPE = (6, 8, 7)


def _dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def _scores(evaluation, metric="Dice"):
    """(case, class name) -> value."""
    names = evaluation.summary["class_names"]
    return {(case.case, names[key]): m[metric] for case in evaluation.cases for key, m in case.metrics.items()}


@pytest.fixture
def maps(tmp_path, write_map, write_dataset_json):
    """Two cases of a plain dataset with ignore label; (folder, references, predictions)."""
    rng = np.random.default_rng(0)
    write_dataset_json(tmp_path, {"background": 0, "liver": 1, "spleen": 2, "ignore": 3})
    references, predictions = {}, {}
    for case in ("a", "b"):
        references[case] = rng.integers(0, 4, SHAPE).astype(np.uint8)
        predictions[case] = rng.integers(0, 3, SHAPE).astype(np.uint8)
        write_map(references[case], tmp_path / "labelsTr" / f"{case}.nii.gz")
        write_map(predictions[case], tmp_path / "pred" / f"{case}.nii.gz")
    return tmp_path, references, predictions


def test_the_summary_extends_nnunets(maps, monkeypatch):
    from nnunetv2.evaluation import evaluate_predictions
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    folder, _, _ = maps
    threads = SimpleNamespace(get_context=lambda _: SimpleNamespace(Pool=ThreadPool))
    monkeypatch.setattr(evaluate_predictions, "multiprocessing", threads)
    stock_file = folder / "stock.json"
    evaluate_predictions.compute_metrics_on_folder(
        str(folder / "labelsTr"), str(folder / "pred"), str(stock_file), SimpleITKIO(), ".nii.gz", [1, 2], 3, 1
    )
    evaluation = evaluate_folder(folder / "labelsTr", folder / "pred", progress=False)
    write_evaluation(evaluation, folder / "out", "Evaluation")
    stock = evaluate_predictions.load_summary_json(str(stock_file))
    ours = evaluate_predictions.load_summary_json(str(folder / "out" / "summary.json"))
    for metric, value in stock["foreground_mean"].items():
        assert ours["foreground_mean"][metric] == pytest.approx(value)
        for label in (1, 2):
            assert ours["mean"][label][metric] == pytest.approx(stock["mean"][label][metric])
            for mine, theirs in zip(ours["metric_per_case"], stock["metric_per_case"], strict=True):
                assert mine["prediction_file"] == theirs["prediction_file"]
                assert mine["metrics"][label][metric] == pytest.approx(theirs["metrics"][label][metric])
    assert ours["class_names"] == {"1": "liver", "2": "spleen"}


def test_a_class_is_scored_only_where_it_is_annotated(tmp_path, write_map, write_dataset_json):
    rng = np.random.default_rng(1)
    labels = {"background": 0, "A/liver": [1, 2], "A/tumour": [2, 2], "B/liver": [3, 3]}
    partial_labels = {
        "A": {"classes": ["A/liver", "A/tumour"], "cases": ["A_1", "A_2"], "exceptions": {"A_2": ["A/tumour"]}},
        "B": {"classes": ["B/liver"], "cases": ["B_1"]},
    }
    write_dataset_json(tmp_path, labels, regions_class_order=[1, 2, 3], partial_labels=partial_labels)
    maps = {}
    for case in ("A_1", "A_2", "B_1", "C_1"):
        maps[case] = rng.integers(0, 4, (2, *SHAPE)).astype(np.uint8)
        write_map(maps[case][0], tmp_path / "labelsTr" / f"{case}.nii.gz")
        write_map(maps[case][1], tmp_path / "pred" / f"{case}.nii.gz")
    evaluation = evaluate_folder(tmp_path / "labelsTr", tmp_path / "pred", progress=False)
    expected = {
        ("A_1", "A/liver"): [1, 2],
        ("A_1", "A/tumour"): [2],
        ("A_2", "A/liver"): [1, 2],
        ("B_1", "B/liver"): [3],
    }
    scores = _scores(evaluation)
    assert set(scores) == set(expected)
    for (case, name), values in expected.items():
        assert scores[case, name] == pytest.approx(_dice(*np.isin(maps[case], values)))
    assert len(evaluation.problems) == 1
    assert "'C_1' belongs to no source" in evaluation.problems[0]
    per_source = evaluation.summary["per_source"]
    assert list(per_source) == ["A", "B"]
    assert set(per_source["A"]["mean"]) == {"(1, 2)", "(2, 2)"}
    assert per_source["A"]["counts"]["(1, 2)"]["cases"] == 2
    assert per_source["B"]["foreground_mean"]["Dice"] == pytest.approx(scores["B_1", "B/liver"])
    assert evaluation.summary["mean"]["(1, 2)"]["Dice"] == pytest.approx(
        (scores["A_1", "A/liver"] + scores["A_2", "A/liver"]) / 2
    )


@pytest.fixture
def overlapping(tmp_path, write_map, write_dataset_json):
    """One case of source A whose tumour lies in its liver, and overlapping predicted masks."""
    rng = np.random.default_rng(2)
    labels = {"background": 0, "A/liver": [1, 2], "A/tumour": [2, 2], "B/liver": [3, 3]}
    partial_labels = {
        "A": {"classes": ["A/liver", "A/tumour"], "cases": ["A_1"]},
        "B": {"classes": ["B/liver"], "cases": ["B_1"]},
    }
    write_dataset_json(tmp_path, labels, regions_class_order=[1, 2, 3], partial_labels=partial_labels)
    reference = rng.integers(0, 3, SHAPE).astype(np.uint8)
    liver = rng.random(SHAPE) > 0.4
    tumour = liver & (rng.random(SHAPE) > 0.5)
    write_map(reference, tmp_path / "labelsTr" / "A_1.nii.gz")
    expected = {
        ("A_1", "A/liver"): _dice(reference > 0, liver),
        ("A_1", "A/tumour"): _dice(reference == 2, tumour),
    }
    return tmp_path, liver, tumour, expected


def test_one_map_per_source(overlapping, write_map):
    folder, liver, tumour, expected = overlapping
    # As nnUNetv2_ext_predict --outputs per_source writes it: integers of its own, the tumour drawn over the liver.
    write_map(np.where(tumour, 7, np.where(liver, 4, 0)).astype(np.uint8), folder / "pred" / "A" / "A_1.nii.gz")
    names = {"labels": {"background": 0, "A/liver": 4, "A/tumour": 7}, "colors": {}}
    (folder / "pred" / "A" / "labels.json").write_text(json.dumps(names))
    assert _scores(evaluate_folder(folder / "labelsTr", folder / "pred", progress=False)) == pytest.approx(expected)


def test_one_mask_per_class(overlapping, write_map):
    folder, liver, tumour, expected = overlapping
    stray = np.ones(SHAPE, dtype=bool)
    for name, mask in (("A/liver", liver), ("A/tumour", tumour), ("B/liver", stray)):
        write_map(mask.astype(np.uint8), folder / "pred" / "A_1" / f"{name}.nii.gz")
    assert _scores(evaluate_folder(folder / "labelsTr", folder / "pred", progress=False)) == pytest.approx(expected)


@pytest.mark.parametrize("wanted", [(), ("--classes", "tumour", "A/liver")])
def test_a_mask_that_is_missing_is_named(tmp_path, write_map, write_dataset_json, capsys, wanted):
    labels = {"background": 0, "A/liver": [1, 2], "A/tumour": [2, 2], "A/spleen": [3, 3]}
    sources = {"A": {"classes": list(labels)[1:], "cases": ["a", "b"]}}
    write_dataset_json(tmp_path, labels, regions_class_order=[1, 2, 3], partial_labels=sources)
    for case in "ab":
        write_map(np.ones(SHAPE, dtype=np.uint8), tmp_path / "labelsTr" / f"{case}.nii.gz")
        for name in ("A/liver", "A/tumour")[: 2 if case == "a" else 1]:
            write_map(np.ones(SHAPE, dtype=np.uint8), tmp_path / "pred" / case / f"{name}.nii.gz")
    code = main(["-gt", str(tmp_path / "labelsTr"), "-pred", str(tmp_path / "pred"), "-np", "1", *wanted])
    said = capsys.readouterr().err
    assert code == 1
    assert f"Expected a mask of A/tumour for case 'b', as for others, but {tmp_path / 'pred' / 'b'} has none" in said
    counts = json.loads((tmp_path / "pred" / "summary.json").read_text(encoding="utf-8"))["counts"]
    assert {key: values["cases"] for key, values in counts.items()} == {"(1, 2)": 2, "(2, 2)": 1}


def _nibabel_file(array, file, shear):
    import nibabel

    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[0, 1] = shear
    nibabel.save(nibabel.Nifti1Image(array.T, affine), file)


def _itk_file(array, file):
    import SimpleITK

    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(file))


def _stack(array, file):
    import tifffile

    tifffile.imwrite(file, array)
    file.with_suffix(".json").write_text('{"spacing": [2.0, 1.0, 1.0]}')


#: Ending -> how the label map is written.
FORMATS = {
    ".nii.gz": lambda array, file: _nibabel_file(array, file, 0.2),
    ".nii": lambda array, file: _nibabel_file(array, file, 0),
    ".nrrd": _itk_file,
    ".mha": _itk_file,
    ".seg.nrrd": _itk_file,
    ".png": lambda array, file: _itk_file(array[0], file),
    ".bmp": lambda array, file: _itk_file(array[0], file),
    ".tif": _stack,
    ".tiff": _stack,
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["merged", "per_class"])
@pytest.mark.parametrize("ending", FORMATS)
def test_label_maps_of_all_formats_are_read(tmp_path, write_dataset_json, ending, layout):
    array = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
    write_dataset_json(tmp_path, {"background": 0, "liver": 1, "spleen": 2}, file_ending=ending)
    files = {"labelsTr/a": array, "pred/a": array}
    if layout == "per_class":
        files = {"labelsTr/a": array, "pred/a/liver": array == 1, "pred/a/spleen": array == 2}
    for name, voxels in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        FORMATS[ending](voxels.astype(np.uint8), tmp_path / f"{name}{ending}")
    (tmp_path / "pred" / "plans.json").write_text("{}")
    arguments = ["-gt", tmp_path / "labelsTr", "-pred", tmp_path / "pred", "-o", tmp_path / "out", "-np", "1"]
    assert main([str(argument) for argument in arguments]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert {key: mean["Dice"] for key, mean in summary["mean"].items()} == {"1": 1, "2": 1}


def test_what_is_asked_for_is_scored(maps, capsys):
    folder, _, _ = maps
    arguments = ["-gt", folder / "labelsTr", "-pred", folder / "pred", "-o", folder / "out", "-np", 1, "--overwrite"]
    options = ["--classes", "spleen", "--tolerances", "spleen=0.5", "--lesions", "spleen"]
    assert main([*map(str, arguments), *options]) == 0
    summary = json.loads((folder / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["class_names"] == {"2": "spleen"}
    assert list(summary["mean"]) == ["2"]
    assert summary["mean"]["2"]["SurfaceDice"] < summary["mean"]["2"]["SurfaceDice1mm"]
    assert summary["tolerances_mm"] == {"2": 0.5}
    assert "<h2>Lesions</h2>" in (folder / "out" / "evaluation.html").read_text(encoding="utf-8")
    lesions = summary["counts"]["2"]["lesions"]
    found = [case["metrics"]["2"]["LesionsDetected"] for case in summary["metric_per_case"]]
    assert lesions["detected"] == sum(found) > 0
    assert lesions["sensitivity"] == pytest.approx(lesions["detected"] / (lesions["detected"] + lesions["missed"]))
    for wrong in (["--classes", "lung"], ["--tolerances", "lung=2"], ["--lesions", "lung"], ["--tolerances", "spleen"]):
        assert main([*map(str, arguments), *wrong]) == 2
        assert "Expected" in capsys.readouterr().err
    assert main([*map(str, arguments), "--tolerances", "spleen=-1"]) == 2


def test_names_decide_over_integers(maps, write_map, write_dataset_json):
    folder, _, predictions = maps
    plain = evaluate_folder(folder / "labelsTr", folder / "pred", progress=False)
    for case, prediction in predictions.items():
        other = np.choose(prediction, [0, 5, 2]).astype(np.uint8)
        write_map(other, folder / "other" / f"{case}.nii.gz")
    write_dataset_json(folder / "other", {"background": 0, "kidney": 1, "Spleen": 2, "liver": 5})
    other = evaluate_folder(folder / "labelsTr", folder / "other", progress=False)
    assert _scores(other) == _scores(plain)
    (folder / "other" / "dataset.json").unlink()
    with pytest.raises(UserError, match=r"None of the 2 cases .* has 5; name their classes"):
        evaluate_folder(folder / "labelsTr", folder / "other", progress=False)


def test_direct_inference_from_any_totalsegmentator_order(tmp_path, write_map, caplog):
    rng = np.random.default_rng(3)
    reference = rng.integers(0, 4, SHAPE).astype(np.uint8)
    write_map(reference, tmp_path / "labelsTr" / "case.nii.gz")
    # KiTS21: kidney, tumour and cyst together are what TotalSegmentator calls the two kidneys.
    left = rng.random(SHAPE) > 0.5
    for order_name, folder in (("totalsegmentator_v1", "v1"), ("stunet_totalsegmentator", "stunet")):
        order = LabelOrder.read(order_name)
        kidneys = np.where(left, order.value("kidney_left"), order.value("kidney_right"))
        prediction = np.where(reference > 0, kidneys, order.value("spleen")).astype(np.uint8)
        write_map(prediction, tmp_path / folder / "case.nii.gz")
    default = evaluate_folder(tmp_path / "labelsTr", tmp_path / "v1", mapping="kits21", progress=False)
    assert _scores(default) == {("case", "kidneys"): 1.0}
    assert list(default.summary["mean"]) == ["(1, 2, 3)"]
    options: dict[str, Any] = {"mapping": "kits21", "progress": False}
    named = evaluate_folder(tmp_path / "labelsTr", tmp_path / "stunet", prediction_order=order_name, **options)
    assert _scores(named) == {("case", "kidneys"): 1.0}
    caplog.clear()
    mistaken = evaluate_folder(tmp_path / "labelsTr", tmp_path / "stunet", **options)
    assert _scores(mistaken)["case", "kidneys"] < 0.5
    assert "they are read in the order totalsegmentator_v1 (see --pred_order)" in caplog.text


def test_direct_inference_follows_the_names_of_a_converted_dataset(tmp_path, write_map, write_dataset_json):
    # A dataset whose own integers differ from the published ones: its dataset.json says so.
    reference = np.random.default_rng(4).integers(0, 3, SHAPE).astype(np.uint8)
    write_map(reference, tmp_path / "labelsTr" / "case.nii.gz")
    write_dataset_json(tmp_path, {"background": 0, "bladder_wall": 1, "spleen": 2})
    order = LabelOrder.read("totalsegmentator_v1")
    write_map(np.where(reference == 2, order.value("spleen"), 0).astype(np.uint8), tmp_path / "pred" / "case.nii.gz")
    evaluation = evaluate_folder(tmp_path / "labelsTr", tmp_path / "pred", mapping="msd_spleen", progress=False)
    assert _scores(evaluation) == {("case", "spleen"): 1.0}


def test_a_label_order_with_the_unions_that_the_field_evaluates(tmp_path, write_map):
    rng = np.random.default_rng(5)
    reference, prediction = rng.integers(0, 3, (2, *SHAPE)).astype(np.uint8)
    write_map(reference, tmp_path / "gt" / "case.nii.gz")
    write_map(prediction, tmp_path / "pred" / "case.nii.gz")
    evaluation = evaluate_folder(tmp_path / "gt", tmp_path / "pred", order="msd_liver", progress=False)
    assert _scores(evaluation) == pytest.approx(
        {
            ("case", "liver"): _dice(reference > 0, prediction > 0),
            ("case", "liver_tumor"): _dice(reference == 2, prediction == 2),
        }
    )


def test_bad_cases_are_named_and_the_rest_is_scored(maps, write_map):
    folder, references, _ = maps
    for case in ("missing", "shifted", "spacing", "cut", "shape", "fractions"):
        write_map(references["a"], folder / "labelsTr" / f"{case}.nii.gz")
    write_map(references["a"], folder / "pred" / "shifted.nii.gz", origin=(0, 0, 2.0))
    write_map(references["a"], folder / "pred" / "spacing.nii.gz", spacing=(2.0, 1.0, 1.0))
    write_map(references["a"][1:], folder / "pred" / "shape.nii.gz")
    write_map(references["a"] * 0.5, folder / "pred" / "fractions.nii.gz")
    (folder / "labelsTr" / ".half.nii.gz").write_bytes(b"being written")
    write_map(references["a"], folder / "pred" / "cut.nii.gz")
    (folder / "pred" / "cut.nii.gz").write_bytes((folder / "pred" / "cut.nii.gz").read_bytes()[:100])
    evaluation = evaluate_folder(folder / "labelsTr", folder / "pred", processes=2, progress=False)
    assert {case.case for case in evaluation.cases} == {"a", "b"}
    problems = "\n".join(evaluation.problems)
    assert len(evaluation.problems) == 6
    for text in (
        "Expected a prediction missing.nii.gz",
        "shifted.nii.gz on the grid of its reference .* they have an origin at",
        "spacing.nii.gz on the grid of its reference .* they have a spacing of",
        "shape.nii.gz on the grid of its reference .* voxels and",
        "cut.nii.gz, but it cannot be read",
        "fractions.nii.gz: Expected whole numbers in the label map",
    ):
        assert re.search(text, problems)
    relaxed = evaluate_folder(folder / "labelsTr", folder / "pred", chill=True, progress=False)
    assert len(relaxed.problems) == 5


@pytest.mark.parametrize("where", ["labelsTr", "pred"])
def test_values_without_a_meaning_are_not_scored_as_background(maps, write_map, where, capsys):
    folder, references, predictions = maps
    wrong = (references if where == "labelsTr" else predictions)["b"].astype(np.uint16)
    wrong[wrong == 2] = 700
    write_map(wrong, folder / where / "b.nii.gz")
    code = main(["-gt", str(folder / "labelsTr"), "-pred", str(folder / "pred"), "-o", str(folder / "out"), "-np", "1"])
    error = capsys.readouterr().err
    assert f"{folder / where / 'b.nii.gz'} has 700;" in error
    assert "Case 'b'" in error
    assert "Traceback" not in error
    if where == "labelsTr":
        assert code == 2
        assert not (folder / "out" / "summary.json").exists()
    else:
        assert code == 1
        assert set(json.loads((folder / "out" / "summary.json").read_text())["mean"]["1"]) >= {"Dice"}
        assert len(json.loads((folder / "out" / "summary.json").read_text())["metric_per_case"]) == 1


def test_what_cannot_be_scored_is_refused(maps, write_dataset_json, tmp_path):
    folder, _, _ = maps
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="Expected label maps"):
        evaluate_folder(folder / "empty", folder / "pred", progress=False)
    with pytest.raises(UserError, match=r"could be scored; the first problem: Expected a prediction a\.nii\.gz"):
        evaluate_folder(folder / "labelsTr", folder / "empty", progress=False)
    with pytest.raises(UserError, match="Expected a folder of label maps, but nowhere is none"):
        evaluate_folder("nowhere", folder / "pred", progress=False)
    with pytest.raises(UserError, match="Expected a folder of predictions"):
        evaluate_folder(folder / "labelsTr", folder / "nowhere", progress=False)
    write_dataset_json(folder / "pred", {"background": 0, "lung": 1})
    with pytest.raises(UserError, match=r"classes such as liver, spleen, but .* has lung; name their order"):
        evaluate_folder(folder / "labelsTr", folder / "pred", progress=False)
    write_dataset_json(folder, {"background": 0, "liver": [1, 2], "hepar": [1, 2], "spleen": 2})
    with pytest.raises(UserError, match="liver, hepar have the same label values"):
        evaluate_folder(folder / "labelsTr", folder / "pred", progress=False)
    (folder / "dataset.json").unlink()
    with pytest.raises(UserError, match="-djfile, --order or --mapping"):
        evaluate_folder(folder / "labelsTr", folder / "pred", progress=False)


def test_missed_and_invented_objects_are_counted(tmp_path, write_map, write_dataset_json):
    write_dataset_json(tmp_path, {"background": 0, "liver": 1})
    full, empty = np.ones(SHAPE, dtype=np.uint8), np.zeros(SHAPE, dtype=np.uint8)
    for case, reference, prediction in (("a", full, empty), ("b", empty, full), ("c", empty, empty), ("d", full, full)):
        write_map(reference, tmp_path / "labelsTr" / f"{case}.nii.gz")
        write_map(prediction, tmp_path / "pred" / f"{case}.nii.gz")
    summary = evaluate_folder(tmp_path / "labelsTr", tmp_path / "pred", progress=False).summary
    assert summary["counts"]["1"] == {"cases": 4, "missed": 1, "invented": 1, "absent": 1}
    assert summary["mean"]["1"]["Dice"] == pytest.approx(1 / 3)
    assert summary["median"]["1"]["Dice"] == 0
    assert summary["std"]["1"]["Dice"] == pytest.approx(np.std([0, 0, 1]))
    assert summary["mean"]["1"]["HD95"] == 0
