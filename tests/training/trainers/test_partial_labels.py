from __future__ import annotations

import json
import os
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunetv2_ext.labels.partial_labels import PartialLabels
from nnunetv2_ext.training.options import TrainingOptions
from nnunetv2_ext.training.outputs.sigmoid import SigmoidOutputs
from nnunetv2_ext.training.run_training import TrainingRun, make_trainer, run_training
from nnunetv2_ext.utilities.errors import UserError

SHORT = TrainingOptions(
    num_epochs=2, iterations_per_epoch=2, val_iterations_per_epoch=1, batch_size=2, save_every=1, seed=1, num_workers=0
)


def run_of(dataset, trainer="MultiTalentTrainer_unet", **changes):
    return TrainingRun(dataset, "3d_fullres", 0, trainer, device="cpu", **{"options": SHORT, **changes})


def fold_folder(dataset):
    return Path(os.environ["nnUNet_results"]) / dataset / "MultiTalentTrainer_unet__nnUNetPlans__3d_fullres" / "fold_0"


def test_a_plain_dataset_is_refused_with_what_to_run_instead(tiny_dataset):
    with pytest.raises(UserError, match=r"-tr nnUNetTrainer, .*nnUNetv2_ext_merge_datasets"):
        make_trainer(run_of(tiny_dataset))
    assert not fold_folder(tiny_dataset).exists()


def test_batches_hold_label_maps_and_what_is_annotated(tiny_collection):
    trainer = make_trainer(run_of(tiny_collection))
    trainer.initialize()
    loader, _ = trainer.get_dataloaders()
    for _ in range(4):
        batch = next(loader)
        levels = batch["target"]
        assert [level.shape[:2] for level in levels] == [(2, 1)] * len(levels)
        assert levels[0].shape[2:] == batch["data"].shape[2:]
        assert all(level.dtype == torch.uint8 for level in levels)
        expected = np.stack([trainer.partial_labels.annotated(case) for case in batch["keys"]])
        assert torch.equal(batch["annotated"], torch.from_numpy(expected))
        for case, label_map in zip(batch["keys"], levels[0], strict=True):
            assert set(label_map.unique().tolist()) <= ({0, 1, 2} if case.startswith("A") else {0, 3, 4})


def test_a_step_equals_one_with_all_heads(tiny_collection):
    """Evaluating the annotated heads only must change neither loss nor gradient, nor the weights after a step."""
    trainer = make_trainer(run_of(tiny_collection))
    trainer.initialize()
    batch = next(trainer.get_dataloaders()[0])
    start = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    losses, weights = [], []
    for selectable in (True, False):
        trainer.network.load_state_dict(start)
        trainer.optimizer, _ = trainer.configure_optimizers()
        with pytest.MonkeyPatch.context() as patch:
            if not selectable:
                patch.setattr(SigmoidOutputs, "channels", lambda *_: None)
            losses.append(float(trainer.train_step(batch)["loss"]))
        weights.append({name: value.clone() for name, value in trainer.network.state_dict().items()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-4, atol=1e-6)
    head = "decoder.seg_layers.0.weight"
    assert any(not torch.equal(start[name], weights[0][name]) for name in start if name != head)


def test_validation_counts_only_drawn_classes(tiny_collection):
    trainer = make_trainer(run_of(tiny_collection))
    trainer.initialize()
    _, loader = trainer.get_dataloaders()
    batch = next(loader)
    with torch.no_grad():
        trainer.network.eval()
        result = trainer.validation_step(batch)
        outputs = trainer.network(batch["data"])[0]
    label_map, table = batch["target"][0][:, 0].long(), torch.from_numpy(trainer.partial_labels.region_table())
    for index in range(4):
        annotated = batch["annotated"][:, index]
        predicted, reference = outputs[annotated, index] > 0, table[index][label_map[annotated]]
        assert result["tp_hard"][index] == (predicted & reference).sum()
        assert result["fp_hard"][index] == (predicted & ~reference).sum()
        assert result["fn_hard"][index] == (~predicted & reference).sum()


@pytest.mark.slow
@pytest.mark.usefixtures("threads_instead_of_processes")
def test_training_ends_with_a_summary_per_source(tiny_collection):
    run_training(run_of(tiny_collection))
    validation = fold_folder(tiny_collection) / "validation"
    assert {file.name for file in validation.glob("*.nii.gz")} == {"A_0.nii.gz", "B_0.nii.gz", "B_1.nii.gz"}
    whole = json.loads((validation / "summary.json").read_text())
    metrics = {Path(case["prediction_file"]).name: set(case["metrics"]) for case in whole["metric_per_case"]}
    assert metrics == {
        "A_0.nii.gz": {"(1, 2)", "(2, 2)"},
        "B_0.nii.gz": {"(3, 3)", "(4, 4)"},
        "B_1.nii.gz": {"(3, 3)"},  # the exception: this case lacks the kidney
    }
    assert whole["class_names"]["(1, 2)"] == "A/liver"
    for case in whole["metric_per_case"]:
        assert Path(case["prediction_file"]).is_file()
    source = json.loads((validation / "summary_B.json").read_text())
    assert set(source["mean"]) == {"(3, 3)", "(4, 4)"}
    dice = [case["metrics"]["(3, 3)"]["Dice"] for case in source["metric_per_case"]]
    assert source["mean"]["(3, 3)"]["Dice"] == pytest.approx(np.nanmean(dice))


@pytest.mark.slow
@pytest.mark.usefixtures("threads_instead_of_processes")
@pytest.mark.parametrize("has_heads", [True, False])
def test_the_predictions_of_the_final_validation_are_those_of_the_own_source(tiny_collection, monkeypatch, has_heads):
    """A label map of a case holds classes of its own source, even where another source's class is predicted too."""
    if not has_heads:
        monkeypatch.setattr("nnunetv2_ext.inference.preprocessed.segmentation_heads", lambda _: None)
    pools, usual = [], ThreadPool.__init__
    monkeypatch.setattr(ThreadPool, "__init__", lambda self, *given: usual(self, *given) or pools.append(given))
    trainer = make_trainer(run_of(tiny_collection, options=SHORT))
    trainer.initialize()
    for head in trainer.network.decoder.seg_layers:
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.ones_(head.bias)  # every class everywhere
    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    trainer.perform_actual_validation(save_probabilities=True)

    import SimpleITK as sitk

    # Not one for each kind of case, of which a collection with exceptions has as many as cases.
    assert len(pools) == 1
    folder = fold_folder(tiny_collection) / "validation"
    values = {
        case: set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{case}.nii.gz")))).tolist())
        for case in ("A_0", "B_0", "B_1")
    }
    # The last class of a kind is painted over the others.
    assert values == {"A_0": {2}, "B_0": {4}, "B_1": {3}}
    summary = json.loads((folder / "summary.json").read_text())
    assert all(case["metrics"].keys() for case in summary["metric_per_case"])
    # nnU-Net's ensembling takes files with all classes only, and finds the same label maps in them.
    for case, own in (("A_0", [0, 1]), ("B_0", [2, 3]), ("B_1", [2])):
        probabilities = np.load(folder / f"{case}.npz")["probabilities"]
        decided = trainer.label_manager.convert_probabilities_to_segmentation(probabilities)
        assert set(np.unique(decided).tolist()) == values[case]
        assert np.flatnonzero(probabilities.any(axis=(1, 2, 3))).tolist() == own


def test_the_collection_of_a_trainer_is_read_from_its_dataset_json(tiny_collection):
    trainer = make_trainer(run_of(tiny_collection))
    assert isinstance(trainer.partial_labels, PartialLabels)
    assert trainer.partial_labels.class_names == ("A/liver", "A/tumour", "B/spleen", "B/kidney")


def test_the_folds_of_the_merged_dataset_are_fetched(tiny_collection, tmp_path, monkeypatch):
    arrived = Path(os.environ["nnUNet_preprocessed"]) / tiny_collection / "splits_final.json"
    before = arrived.read_text() if arrived.is_file() else None
    arrived.unlink(missing_ok=True)
    trainer = make_trainer(run_of(tiny_collection))
    cases = sorted(case for source in trainer.partial_labels.sources.values() for case in source.cases)
    splits = [{"train": cases[1:], "val": cases[:1]}]
    (tmp_path / "raw" / tiny_collection).mkdir(parents=True)
    (tmp_path / "raw" / tiny_collection / "splits_final.json").write_text(json.dumps(splits))
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    try:
        assert trainer.do_split() == (cases[1:], cases[:1])
        assert json.loads(arrived.read_text()) == splits
    finally:
        arrived.unlink()
        if before is not None:
            arrived.write_text(before)
