"""``nnUNetv2_ext_predict`` as a user runs it."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from fixtures.dicom_folders import oblique_grid

from nnunetv2_ext.cli.predict import main


def _run(*arguments):
    return main([str(argument) for argument in ("--quiet", "-device", "cpu", *arguments)])


def test_help_knows_nnunets_flags():
    shown = subprocess.run(
        [sys.executable, "-c", "from nnunetv2_ext.cli.predict import main; main(['--help'])"],
        capture_output=True,
        encoding="utf-8",
        check=True,
    ).stdout
    flags = {word.strip("[],") for word in shown.split() if word.startswith(("-", "[-"))}
    one_letter = {"-i", "-o", "-d", "-p", "-c", "-f", "-m"}
    others = {
        "-tr",
        "-chk",
        "-step_size",
        "-npp",
        "-nps",
        "-prev_stage_predictions",
        "-num_parts",
        "-part_id",
        "-device",
        "-num_gpus",
    }
    assert one_letter | others | {"--disable_tta", "--sums", "--continue_prediction", "--disable_progress_bar"} <= flags


def test_nothing_heavy_is_imported_for_help_or_a_wrong_argument():
    code = (
        "import sys; from nnunetv2_ext.cli.predict import main\n"
        "code = main(['-i', 'x', '-o', 'y'])\n"
        "print(code, *(name for name in ('torch', 'nnunetv2', 'numpy', 'SimpleITK') if name in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert run.stdout.strip() == "2"
    assert "give -d and -c" in run.stderr


@pytest.mark.parametrize(
    ("images", "model", "text"),
    [
        (".", "no_such_model", "Expected a model folder at no_such_model"),
        ("no_such_ct.nii.gz", ".", "no_such_ct.nii.gz"),
    ],
)
def test_a_mistyped_path_is_told_before_torch_is_imported(tmp_path, images, model, text):
    code = (
        "import sys\n"
        "from nnunetv2_ext.cli.predict import main\n"
        "code = main(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules\n"
        "sys.exit(code)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code, "-i", images, "-o", "out", "-m", model],
        capture_output=True,
        encoding="utf-8",
        cwd=tmp_path,
    )
    assert finished.returncode == 2
    assert text in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_is_predicted_with_names_beside_the_maps(softmax_model, ct_file, tmp_path):
    assert _run("-i", ct_file.parent, "-o", tmp_path / "out", "-m", softmax_model, "-f", 0) == 0
    found = SimpleITK.ReadImage(str(tmp_path / "out" / "case.nii.gz"))
    image = SimpleITK.ReadImage(str(ct_file))
    assert found.GetSize() == image.GetSize()
    assert found.GetDirection() == image.GetDirection()
    labels = json.loads((tmp_path / "out" / "labels.json").read_text())["labels"]
    assert labels == {"background": 0, "liver": 1, "spleen": 2, "aorta": 3}
    # nnU-Net's ensembling and postprocessing look for these.
    assert (tmp_path / "out" / "dataset.json").is_file()
    assert (tmp_path / "out" / "plans.json").is_file()


def test_a_model_is_found_by_dataset_trainer_plans_and_configuration(
    make_model_folder, ct_file, nnunet_folders, tmp_path, capsys
):
    name = "nnUNetTrainer__nnUNetPlans__3d_fullres"
    make_model_folder(nnunet_folders / "nnUNet_results" / "Dataset007_Tiny" / name, folds=(0, 2))
    flags = ("-i", ct_file, "-o", tmp_path / "out", "-d", 7, "-c", "3d_fullres")
    assert _run(*flags) == 2
    assert "fold 1, 3, 4" in capsys.readouterr().err
    assert _run(*flags, "-f", 0, 2) == 0
    assert (tmp_path / "out" / "case.nii.gz").is_file()


def test_one_file_to_one_file(softmax_model, ct_file, tmp_path):
    assert _run("-i", ct_file, "-o", tmp_path / "map.nrrd", "-m", softmax_model, "-f", 0) == 0
    assert SimpleITK.ReadImage(str(tmp_path / "map.nrrd")).GetSize() == SimpleITK.ReadImage(str(ct_file)).GetSize()
    assert (tmp_path / "map_labels.json").is_file()


def test_a_bad_case_does_not_stop_the_others_and_is_listed(softmax_model, make_ct, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a", "b", "d"):
        SimpleITK.WriteImage(make_ct(), str(images / f"{name}_0000.nii.gz"))
    broken = images / "b_0000.nii.gz"
    broken.write_bytes(broken.read_bytes()[:500])
    SimpleITK.WriteImage(make_ct()[:, :, 2], str(images / "c_0000.nii.gz"))
    array = SimpleITK.GetArrayFromImage(make_ct()).astype(np.float32)
    array[0, 0, 0] = np.nan
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(images / "e_0000.nii.gz"))
    assert _run("-i", images, "-o", tmp_path / "out", "-m", softmax_model, "-f", 0, "--report") == 1
    assert sorted(file.name for file in (tmp_path / "out").glob("*.nii.gz")) == ["a.nii.gz", "d.nii.gz"]
    failures = json.loads((tmp_path / "out" / "report.json").read_text())["failures"]
    assert sorted(failures) == ["b", "c", "e"]
    assert "complete image" in failures["b"]["reason"]
    assert "3D image" in failures["c"]["reason"]
    assert "NaN" in failures["e"]["reason"]


def test_existing_results_are_neither_replaced_nor_kept_unasked(softmax_model, ct_file, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ("-i", ct_file, "-o", out, "-m", softmax_model, "-f", 0)
    assert _run(*flags) == 0
    first = (out / "case.nii.gz").stat().st_mtime_ns
    assert _run(*flags) == 2
    assert "--continue_prediction" in capsys.readouterr().err
    assert _run(*flags, "--continue_prediction") == 0
    assert (out / "case.nii.gz").stat().st_mtime_ns == first
    assert _run(*flags, "--overwrite") == 0
    assert (out / "case.nii.gz").stat().st_mtime_ns != first


def test_continuing_trusts_only_complete_files(softmax_model, ct_file, tmp_path):
    out = tmp_path / "out"
    flags = ("-i", ct_file, "-o", out, "-m", softmax_model, "-f", 0)
    assert _run(*flags) == 0
    whole = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(out / "case.nii.gz")))
    (out / "case.nii.gz").write_bytes((out / "case.nii.gz").read_bytes()[:-40])
    assert _run(*flags, "--continue_prediction") == 0
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(out / "case.nii.gz"))), whole)


def test_parts_share_the_cases(softmax_model, make_ct, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    for name in "abc":
        SimpleITK.WriteImage(make_ct(size=(9, 9, 9)), str(tmp_path / "images" / f"{name}.mha"))
    flags = ("-i", tmp_path / "images", "-o", tmp_path / "out", "-m", softmax_model, "-f", 0, "-num_parts", 2)
    assert _run(*flags, "-part_id", 0, "--statistics") == 0
    assert sorted(file.name for file in (tmp_path / "out").glob("*.nii.gz")) == ["a.nii.gz", "c.nii.gz"]
    assert _run(*flags, "-part_id", 1, "--statistics") == 0
    assert list(json.loads((tmp_path / "out" / "statistics.json").read_text())) == ["a", "b", "c"]
    assert _run(*flags, "-part_id", 2) == 2
    assert "between 0 and 1" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["per_source", "per_class"])
def test_maps_per_source_and_per_class(region_model, ct_file, tmp_path, kind):
    out = tmp_path / "out"
    flags = ("-i", ct_file, "-o", out, "-m", region_model, "-f", 0, "--outputs", kind, "--output_type", "seg.nrrd")
    assert _run(*flags, "--classes", "A/tumour", "B/spleen") == 0
    found = sorted(str(file.relative_to(out)) for file in out.rglob("*.seg.nrrd"))
    if kind == "per_class":
        assert found == ["case/A/tumour.seg.nrrd", "case/B/spleen.seg.nrrd"]
        assert json.loads((out / "labels.json").read_text())["files"]["A/tumour"] == "<case>/A/tumour.seg.nrrd"
    else:
        assert found == ["A/case.seg.nrrd", "B/case.seg.nrrd"]
        assert json.loads((out / "A" / "labels.json").read_text())["labels"] == {"background": 0, "A/tumour": 2}
        assert SimpleITK.ReadImage(str(out / "B" / "case.seg.nrrd")).GetMetaData("Segment0_Name") == "B/spleen"


def test_extras_are_written(softmax_model, ct_file, tmp_path):
    out = tmp_path / "out"
    flags = ("-i", ct_file, "-o", out, "-m", softmax_model, "-f", 0)
    assert _run(*flags, "--statistics", "--preview", "--report") == 0
    labels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(out / "case.nii.gz")))
    image = SimpleITK.ReadImage(str(ct_file))
    figures = json.loads((out / "statistics.json").read_text())["case"]
    voxel = np.prod(image.GetSpacing()) / 1000
    for value, name in enumerate(("liver", "spleen", "aorta"), 1):
        assert figures[name]["volume_ml"] == pytest.approx((labels == value).sum() * voxel)
        inside = SimpleITK.GetArrayFromImage(image)[labels == value]
        assert figures[name]["mean_intensity"] == pytest.approx(inside.mean())
    assert (out / "statistics.csv").read_text().startswith("case,class,voxels,volume_ml")
    assert (out / "previews" / "case.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads((out / "report.json").read_text())
    assert report["versions"]["torch"]
    assert len(report["model"]["sha256"]["fold_0/checkpoint_final.pth"]) == 64
    assert {"reading", "preprocessing", "network", "writing"} <= set(report["stages"])
    assert all(stage["peak_memory_mb"] > 0 for stage in report["stages"].values())
    assert report["cases"]["case"]["outputs"] == [str(out / "case.nii.gz")]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("-m", "{model}", "-f", "9"), "fold 9"),
        (("-m", "{model}", "-chk", "best.pth"), "best.pth"),
        (("-m", "{tmp}/missing"), "model folder"),
        (("-m", "{model}", "-d", "1"), "either -m or -d"),
        (("-d", "1"), "give -d and -c"),
    ],
)
def test_wrong_models_are_refused_in_one_sentence(softmax_model, ct_file, tmp_path, capsys, flags, text):
    flags = [flag.format(model=softmax_model, tmp=tmp_path) for flag in flags]
    assert _run("-i", ct_file, "-o", tmp_path / "out", *flags) == 2
    error = capsys.readouterr().err
    assert text in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_written_is_refused(softmax_model, ct_file, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert _run("-i", ct_file, "-o", tmp_path / "file" / "out", "-m", softmax_model, "-f", 0) == 2
    assert "there is a file in its place" in capsys.readouterr().err


def test_an_image_is_never_replaced_by_its_result(softmax_model, make_ct, tmp_path, capsys):
    SimpleITK.WriteImage(make_ct(), str(tmp_path / "scan.nii.gz"))
    assert _run("-i", tmp_path / "scan.nii.gz", "-o", tmp_path, "-m", softmax_model, "-f", 0, "--overwrite") == 2
    assert "would replace the image" in capsys.readouterr().err


def test_results_do_not_go_among_the_images(softmax_model, ct_file, capsys):
    """``case.nii.gz`` beside ``case_0000.nii.gz`` would be the second image of a case in the next prediction."""
    before = sorted(ct_file.parent.iterdir())
    assert _run("-i", ct_file.parent, "-o", ct_file.parent, "-m", softmax_model, "-f", 0) == 2
    assert "overlap; choose another place" in capsys.readouterr().err
    assert sorted(ct_file.parent.iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_no_half_file_and_continuing_finishes(
    softmax_model, make_ct, tmp_path, monkeypatch, number
):
    from nnunetv2_ext.inference.predictor import Predictor

    (tmp_path / "images").mkdir()
    for name in "abcd":
        SimpleITK.WriteImage(make_ct(size=(9, 9, 9)), str(tmp_path / "images" / f"{name}.mha"))
    flags = ("-i", tmp_path / "images", "-o", tmp_path / "out", "-m", softmax_model, "-f", 0)
    segment, calls, before = Predictor.segment, [], signal.getsignal(signal.SIGTERM)

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            # Ctrl-C by hand, or the end of a batch system's time limit.
            signal.raise_signal(number)
        return segment(self, *arguments)

    monkeypatch.setattr(Predictor, "segment", interrupted)
    assert _run(*flags) == 128 + number
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names <= {"a.nii.gz", "b.nii.gz", "labels.json", "dataset.json", "plans.json", "prediction.json", "progress"}
    assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.setattr(Predictor, "segment", segment)
    assert _run(*flags, "--continue_prediction") == 0
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 4


def test_folds_are_those_of_nnunets_two_commands(make_model_folder, ct_file, tmp_path):
    model = make_model_folder(tmp_path / "model", folds=(0, 3))
    assert _run("-i", ct_file, "-o", tmp_path / "out", "-m", model) == 0
    record = json.loads((tmp_path / "out" / "prediction.json").read_text(encoding="utf-8"))
    assert list(record["checkpoints"]) == ["fold_0/checkpoint_final.pth", "fold_3/checkpoint_final.pth"]


USELESS = {
    "picture per class": ("regions", ("--preview", "--outputs", "per_class"), "--preview with merged or per_source"),
    "format of a file": ("softmax", ("-o", "{tmp}/map.nii.gz", "--output_type", "mha"), "--output_type asks for"),
    "a file that is no image": ("softmax", ("-o", "{tmp}/map.png"), r"a file that ends with one of \.nii\.gz"),
    "probabilities of some": ("softmax", ("--save_probabilities", "--classes", "liver"), "without --classes"),
    "previous stage of a single one": ("softmax", ("-prev_stage_predictions", "{tmp}"), "no cascade's second stage"),
    "second stage alone": ("cascade", (), "previous stage .3d_lowres., or its model in .*/3d_lowres; predict that"),
}


@pytest.mark.parametrize("case", USELESS)
def test_flags_that_would_do_nothing_are_refused(
    softmax_model, region_model, make_model_folder, ct_file, tmp_path, capsys, case
):
    kind, flags, text = USELESS[case]
    model = {"softmax": softmax_model, "regions": region_model}.get(kind) or make_model_folder(
        tmp_path / "model", changes={"previous_stage": "3d_lowres"}
    )
    words = [flag.format(tmp=tmp_path) for flag in flags]
    before = sorted(tmp_path.iterdir())
    assert _run("-i", ct_file, "-o", tmp_path / "out", "-m", model, "-f", 0, *words) == 2
    assert re.search(text, capsys.readouterr().err)
    assert sorted(tmp_path.iterdir()) == before


def test_results_of_an_earlier_run_do_not_outlive_a_failure_under_overwrite(softmax_model, make_ct, tmp_path):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for name in "ab":
        SimpleITK.WriteImage(make_ct(size=(9, 9, 9)), str(images / f"{name}.mha"))
    flags = ("-i", images, "-o", out, "-m", softmax_model, "-f", 0)
    assert _run(*flags, "--statistics", "--preview", "--save_probabilities") == 0
    (images / "a.mha").write_bytes(b"no image any more")
    assert _run(*flags, "--overwrite", "--statistics") == 1
    assert list(json.loads((out / "statistics.json").read_text(encoding="utf-8"))) == ["b"]
    found = sorted(str(file.relative_to(out)) for file in out.rglob("*") if file.stem.split(".")[0] in "ab")
    assert found == ["b.nii.gz", "statistics/b.json"]


def test_the_sentence_about_logits_that_are_not_finite_names_an_option(make_model_folder, ct_file, tmp_path, capsys):
    import torch

    model = make_model_folder(tmp_path / "model")
    file = model / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["network_weights"]["decoder.seg_layers.0.bias"][-1] = float("nan")
    torch.save(checkpoint, file)
    flags = ("-i", ct_file, "-o", tmp_path / "out", "-m", model, "-f", 0)
    assert _run(*flags) == 1
    option = re.search(r"predict in float32 \((--\S+ float32)\)", capsys.readouterr().err)
    assert option is not None
    assert _run(*flags, "--overwrite", *option[1].split()) == 1


def test_room_for_probabilities_is_taken_before_they_are_written(softmax_model, ct_file, tmp_path, monkeypatch):
    """Writing to a mapped file that a full disk has no room for ends the process by a bus error."""
    memmap, holes = np.memmap, []

    def mapped(file, **options):
        needed = np.prod(options["shape"]) * np.dtype(options["dtype"]).itemsize
        holes.append(needed > os.fstat(file.fileno()).st_blocks * 512)
        return memmap(file, **options)

    monkeypatch.setattr(np, "memmap", mapped)
    assert _run("-i", ct_file, "-o", tmp_path / "out", "-m", softmax_model, "-f", 0, "--save_probabilities") == 0
    assert holes == [False]


def test_disks_that_are_full_fail_the_case(softmax_model, ct_file, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    flags = ("-i", ct_file, "-o", tmp_path / "out", "-m", softmax_model, "-f", 0, "--save_probabilities")
    assert _run(*flags) == 1
    assert "case failed while computing: Expected to write the results, but the disk" in capsys.readouterr().err


def _commands_of(page):
    text = (Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("nnUNetv2_ext_predict")]
    # Models with several heads are those of tests/inference/multi_head.
    return [line for line in lines if "--heads" not in line]


@pytest.mark.slow
def test_every_command_of_the_page_runs(
    make_model_folder, region_model, make_ct, nnunet_folders, dicom_folder, tmp_path
):
    results = nnunet_folders / "nnUNet_results" / "Dataset061_Page"
    make_model_folder(results / "nnUNetTrainer__nnUNetPlans__3d_fullres")
    images = tmp_path / "images"
    images.mkdir()
    for name in ("case", "other"):
        SimpleITK.WriteImage(make_ct(size=(9, 9, 9)), str(images / f"{name}_0000.nii.gz"))
    grid = oblique_grid((9, 9, 9), (1.5, 1.6, 2.5))
    dicom_folder.series("archive/ct", SimpleITK.GetArrayFromImage(make_ct(size=(9, 9, 9))), grid)
    commands = _commands_of("predict.md")
    assert len(commands) > 10
    for number, command in enumerate(commands):
        table = tmp_path / "who_is_who.csv"
        archive = dicom_folder.root / "archive"
        places = {"IMAGES": images, "ARCHIVE": archive, "OUT": tmp_path / str(number), "MODEL": region_model}
        places["who_is_who"] = table.with_suffix("")
        for name, place in places.items():
            command = re.sub(rf"(?<= ){name}\b", str(place), command)
        words = command.split()
        assert main([*words[1:], "--quiet"]) == 0, command


def test_the_python_of_the_page_runs(region_model, make_ct, tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "predict.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    image = make_ct(size=(9, 9, 9))
    (tmp_path / "images").mkdir()
    SimpleITK.WriteImage(image, str(tmp_path / "images" / "case_0000.nii.gz"))
    names = {"image": image, "array": SimpleITK.GetArrayFromImage(image)}
    for name, place in (("MODEL", region_model), ("IMAGES", tmp_path / "images"), ("OUT", tmp_path / "out")):
        code = code.replace(name, str(place))
    exec(code, names)
    assert (tmp_path / "out" / "case.nii.gz").is_file()
    assert names["labels"].shape == (9, 9, 9)
    assert names["label_map"].GetSize() == (9, 9, 9)
