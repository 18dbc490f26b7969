"""The final validation against nnU-Net's own, with the same network and the same preprocessed cases."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from batchgenerators.utilities.file_and_folder_operations import load_pickle, write_pickle
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_ext.training.options import TrainingOptions
from nnunetv2_ext.training.run_training import TrainingRun, make_trainer
from nnunetv2_ext.training.validation import predict_cases

pytestmark = pytest.mark.usefixtures("threads_instead_of_processes")

#: Shape of the images as files, and of what the preprocessing kept of them; the network sees 24^3 voxels.
WHOLE, CROP = (34, 27, 31), ((1, 33), (0, 27), (2, 30))


def _in_another_shape(preprocessed: Path, case: str) -> None:
    """Lets a preprocessed case come from an image of other voxels, part of which was cropped away."""
    file = preprocessed / "nnUNetPlans_3d_fullres" / f"{case}.pkl"
    properties = load_pickle(str(file))
    properties["shape_before_cropping"] = WHOLE
    properties["bbox_used_for_cropping"] = [list(edges) for edges in CROP]
    properties["shape_after_cropping_and_before_resampling"] = tuple(stop - start for start, stop in CROP)
    write_pickle(properties, str(file))
    labels = np.random.default_rng(3).integers(0, 3, WHOLE).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(labels), str(preprocessed / "gt_segmentations" / f"{case}.nii.gz"))


def _let_all_classes_win(network) -> None:
    """Gives the last two classes opposite heads: random ones may prefer one class everywhere."""
    head = network.decoder.seg_layers[-1]
    with torch.no_grad():
        head.weight[-1] = torch.linspace(-1, 1, head.weight.shape[1]).view_as(head.weight[-1])
        head.weight[-2] = -head.weight[-1]
        head.bias.zero_()


def _trainer(dataset, *, labels=None, spacing=(1.0, 1.0, 1.0), next_stage=None, device="cpu"):
    preprocessed = Path(os.environ["nnUNet_preprocessed"]) / dataset
    if labels is not None:
        file = preprocessed / "dataset.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **labels}))
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    configurations = plans["configurations"]
    configurations["3d_fullres"] |= {"spacing": spacing, "next_stage": next_stage, "patch_size": [16, 16, 16]}
    if next_stage is not None:
        configurations[next_stage] = {**configurations["3d_fullres"], "data_identifier": next_stage}
    (preprocessed / "nnUNetPlans.json").write_text(json.dumps(plans))
    options = TrainingOptions(seed=3)
    made = make_trainer(TrainingRun(dataset, "3d_fullres", 0, "FineTuneTrainer_unet", device=device, options=options))
    made.initialize()
    made.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    _let_all_classes_win(made.network)
    _in_another_shape(preprocessed, made.do_split()[1][0])
    return made


def _compare(trainer, save_probabilities=False):
    """Validates by nnU-Net, then by ours; their folders, everything that both wrote compared."""
    for validate, name in (
        (nnUNetTrainer.perform_actual_validation, "stock"),
        (type(trainer).perform_actual_validation, "ours"),
    ):
        validate(trainer, save_probabilities)
        assert trainer.network.decoder.deep_supervision
        Path(trainer.output_folder, "validation").rename(Path(trainer.output_folder, name))
        if (stage := Path(trainer.output_folder_base, "predicted_next_stage")).is_dir():
            stage.rename(Path(trainer.output_folder, f"next_{name}"))
    stock, ours = (Path(trainer.output_folder, name) for name in ("stock", "ours"))
    names = sorted(file.name for file in stock.iterdir())
    assert sorted(file.name for file in ours.iterdir()) == names
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (stock, ours)]
    on_cpu = trainer.device.type == "cpu"
    if on_cpu:
        assert summaries[0] == summaries[1]
    dice = [summary["foreground_mean"]["Dice"] for summary in summaries]
    assert dice[1] == pytest.approx(dice[0], abs=0.01)
    assert dice[0] > 0
    maps = [name for name in names if name.endswith(".nii.gz")]
    assert len(maps) == len(trainer.do_split()[1])
    for name in maps:
        expected, found = (sitk.ReadImage(str(folder / name)) for folder in (stock, ours))
        assert found.GetPixelID() == expected.GetPixelID()
        assert found.GetSpacing() == expected.GetSpacing()
        expected = sitk.GetArrayFromImage(expected)
        assert len(np.unique(expected)) > 1
        # On a GPU ours interpolates there and stock on the CPU, which round the last digit their own ways.
        assert (sitk.GetArrayFromImage(found) == expected).mean() >= (1 if on_cpu else 0.99)
    return stock, ours


REGIONS = {"labels": {"background": 0, "both": [1, 2], "spleen": [2, 2]}, "regions_class_order": [1, 2]}


@pytest.mark.parametrize("labels", [None, REGIONS], ids=["softmax", "regions"])
def test_files_are_those_of_nnunet(tiny_dataset, labels, device):
    trainer = _trainer(tiny_dataset, labels=labels, device=device.type)
    assert trainer.inference_allowed_mirroring_axes == (0, 1, 2)
    stock, ours = _compare(trainer, save_probabilities=True)
    for file in stock.glob("*.npz"):
        expected, found = (np.load(folder / file.name)["probabilities"] for folder in (stock, ours))
        # What lies exactly between two numbers of float16 is rounded by the last digit of a sum.
        np.testing.assert_allclose(found, expected, atol=1e-3)
        assert (abs(found - expected) < (2e-6 if device.type == "cpu" else 5e-4)).mean() > 0.995
        np.testing.assert_equal(*(load_pickle(str(folder / f"{file.stem}.pkl")) for folder in (ours, stock)))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 1.0, 1.0)], ids=["isotropic", "thick slices"])
def test_the_next_stage_gets_what_nnunet_gives_it(tiny_dataset, spacing, capsys):
    trainer = _trainer(tiny_dataset, spacing=spacing, next_stage="other")
    known, missing = trainer.do_split()[1][:2]
    folder = Path(trainer.preprocessed_dataset_folder_base) / "other"
    folder.mkdir()
    shape = (1, 36, 30, 41)
    arguments = (np.zeros(shape, np.float32), np.zeros(shape, np.int8), {}, str(folder / known))
    nnUNetDatasetBlosc2.save_case(*arguments, *[shape] * 4)
    stock, ours = _compare(trainer)
    expected, found = (
        blosc2.open(urlpath=str(side.with_name(f"next_{side.name}") / "other" / f"{known}.b2nd"), mode="r")
        for side in (stock, ours)
    )
    assert (found.dtype, found.chunks, found.blocks) == (expected.dtype, expected.chunks, expected.blocks)
    assert found.shape == shape[1:]
    assert len(np.unique(expected[:])) > 1
    np.testing.assert_array_equal(found[:], expected[:])
    assert f"Predicting next stage other failed for case {missing}" in capsys.readouterr().out
    assert not list(ours.parent.glob(f"next_ours/other/{missing}*"))


def test_the_second_stage_of_a_cascade_sees_the_first(tiny_dataset):
    trainer = _trainer(tiny_dataset)
    previous = Path(trainer.output_folder) / "previous"
    previous.mkdir()
    for case in trainer.do_split()[1]:
        labels = np.random.default_rng(5).integers(0, 3, (24, 24, 24)).astype(np.uint8)
        nnUNetDatasetBlosc2.save_seg(labels, str(previous / case))
    trainer.is_cascaded, trainer.folder_with_segs_from_previous_stage = True, str(previous)
    trainer.network = trainer.build_network_architecture(
        trainer.plans_manager, trainer.configuration_manager, 3, 3, True
    )
    _let_all_classes_win(trainer.network)
    _compare(trainer)


def test_ranks_share_the_cases(tiny_dataset, monkeypatch):
    trainer = _trainer(tiny_dataset)
    meetings = []
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.barrier", lambda: meetings.append(1))
    trainer.is_ddp, trainer.local_rank = True, 1
    cases = [f"case_{number}" for number in range(5)]
    predict_cases(trainer, dict.fromkeys(cases), save_probabilities=False)
    written = sorted(file.name for file in Path(trainer.output_folder, "validation").iterdir())
    assert written == ["case_1.nii.gz", "case_3.nii.gz"]
    assert meetings == [1]


@pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be sent these signals there")
def test_a_signal_ends_it_with_the_code_of_trainings_that_go_on_later(tiny_dataset, monkeypatch):
    trainer = _trainer(tiny_dataset)
    usual = type(trainer).do_split

    def split(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return usual(self)

    monkeypatch.setattr(type(trainer), "do_split", split)
    with pytest.raises(SystemExit) as end:
        trainer.perform_actual_validation()
    assert end.value.code == 75


def test_an_end_leaves_no_half_written_case_and_says_why(tiny_dataset, monkeypatch):
    trainer = _trainer(tiny_dataset)

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(type(trainer.plans_manager.image_reader_writer_class()), "write_seg", fail)
    with pytest.raises(OSError, match="the disk is full"):
        trainer.perform_actual_validation()
    assert not list(Path(trainer.output_folder, "validation").iterdir())
    assert trainer.network.decoder.deep_supervision
