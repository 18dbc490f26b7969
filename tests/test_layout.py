"""Tests lie as modules do: each module has a test module of its name, or stands below with the one that tests it."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "nnunetv2_ext"

#: Test module -> the modules that it tests through what uses them: tables, parts of one computation, plain data.
TESTED_BY = {
    "architectures/test_families.py": ("architectures/planned.py",),
    "architectures/test_mednext.py": ("architectures/mednext_sizes.py",),
    "architectures/test_parts.py": ("architectures/segresnet_ds.py",),
    "architectures/test_stunet.py": ("architectures/stunet_sizes.py",),
    "checkpoints/formats/test_nnssl.py": ("architectures/primus.py",),
    "checkpoints/test_hostile_pickles.py": ("checkpoints/plain_pickle.py",),
    "checkpoints/test_model_folder.py": ("checkpoints/dataset_json.py", "checkpoints/plans_v1.py"),
    "checkpoints/test_reading.py": (
        "checkpoints/checkpoint.py",
        "checkpoints/formats/base.py",
        "checkpoints/formats/nnunet_v1_resenc.py",
        "checkpoints/formats/nnunet_v1_unet.py",
        "checkpoints/formats/nnunet_v2.py",
        "checkpoints/formats/stunet_v1.py",
        "checkpoints/raw.py",
        "checkpoints/shapes.py",
    ),
    "checkpoints/test_transfer.py": ("checkpoints/heads.py", "checkpoints/resizing.py"),
    "cli/test_commands.py": ("cli/_command.py", "utilities/errors.py"),
    "cli/test_predict.py": ("inference/results.py", "inference/stages.py"),
    "cli/test_train.py": ("cli/_training_arguments.py", "cli/finetune.py", "training/options.py"),
    "cluster/test_training.py": ("cluster/distributed.py",),
    "dataset_conversion/datasets/test_label_maps.py": ("dataset_conversion/generic_layouts.py",),
    "dataset_conversion/datasets/test_masks.py": ("dataset_conversion/own_files.py",),
    "dataset_conversion/test_checks.py": ("dataset_conversion/findings.py",),
    "dataset_conversion/test_merge.py": ("dataset_conversion/merge_inputs.py", "dataset_conversion/merge_plan.py"),
    "dataset_conversion/test_raw_dataset.py": (
        "dataset_conversion/case_conversion.py",
        "dataset_conversion/case_record.py",
        "dataset_conversion/converter.py",
        "dataset_conversion/regions.py",
        "dataset_conversion/summary.py",
    ),
    "dataset_conversion/test_registry.py": (
        "dataset_conversion/entry.py",
        "dataset_conversion/table/abdomen.py",
        "dataset_conversion/table/decathlon.py",
        "dataset_conversion/table/head_and_spine.py",
        "dataset_conversion/table/thorax.py",
        "dataset_conversion/table/whole_body.py",
    ),
    "evaluation/test_evaluate.py": ("evaluation/cases.py", "evaluation/classes.py"),
    "evaluation/test_page.py": ("evaluation/summary.py",),
    "images/test_dicom_seg.py": ("images/dicom_annotations.py",),
    "images/test_reading.py": ("images/itk.py",),
    "inference/bundles/test_segmenter.py": ("inference/bundles/preparing.py", "inference/bundles/profile.py"),
    "inference/deciding/test_resample.py": ("inference/deciding/tiles.py",),
    "inference/model/test_folder.py": ("inference/model/heads.py",),
    "inference/multi_head/test_predicting.py": ("inference/multi_head/groups.py", "inference/multi_head/parts.py"),
    "inference/preparing/test_nnunet.py": ("inference/preparing/protocol.py",),
    "inference/test_in_stock.py": ("inference/preprocessed.py",),
    "inference/test_predictor.py": (
        "inference/deciding/components.py",
        "inference/modes.py",
        "inference/parts.py",
        "inference/reporting/probabilities.py",
        "inference/segmentation.py",
    ),
    "inference/windows/test_sliding_window.py": (
        "inference/windows/plan.py",
        "inference/windows/ring.py",
        "inference/windows/window_network.py",
    ),
    "labels/test_label_order.py": ("labels/label_order_checks.py",),
    "labels/test_label_tree.py": ("labels/tree_parents.py",),
    "serving/http/test_app.py": (
        "serving/http/answers.py",
        "serving/http/forms.py",
        "serving/http/listening.py",
        "serving/http/metrics.py",
        "serving/http/openapi.py",
    ),
    "serving/test_service.py": ("serving/errors.py", "serving/worker.py"),
    "serving/test_uploads.py": ("serving/intake.py",),
    "test_malformed_files.py": ("utilities/validation.py",),
    "test_package.py": ("autoload.py", "resources.py"),
    "test_public_names.py": ("inference/export.py", "utilities/lazy.py"),
    "training/loss/test_label_tree_loss.py": ("training/loss/tree_tables.py",),
    "training/loss/test_partial_label_loss.py": ("training/loss/annotated_channels.py", "training/loss/ranks.py"),
    "training/test_every_family.py": (
        "training/trainers/mednext.py",
        "training/trainers/primus.py",
        "training/trainers/swinunetr.py",
    ),
    "training/test_trainer_listing.py": ("discovery/nnunetv2_ext_trainers.py", "training/variants.py"),
    "training/trainers/test_base.py": (
        "training/checks.py",
        "training/plain_log.py",
        "training/run_training.py",
    ),
    "training/trainers/test_label_tree.py": ("training/outputs/tree.py",),
    "training/trainers/test_optimization.py": ("training/trainers/finetune.py",),
    "training/trainers/test_partial_labels.py": ("training/trainers/collection.py",),
    "training/trainers/test_source_heads.py": ("training/outputs/heads.py",),
    "training/trainers/test_warmup_trainer.py": ("training/trainers/warmup.py",),
    "viewer/test_page.py": ("cli/view.py",),
}
ELSEWHERE = {module for modules in TESTED_BY.values() for module in modules}


def _of_its_name(module: Path) -> Path:
    return TESTS / module.parent / f"test_{module.stem.lstrip('_')}.py"


def test_every_module_has_a_test_module_of_its_name_or_is_listed():
    modules = [file.relative_to(PACKAGE) for file in PACKAGE.rglob("*.py") if file.name != "__init__.py"]
    without = {module.as_posix() for module in modules if not _of_its_name(module).exists()}
    assert without == ELSEWHERE, "write the missing test module, or say above which one tests the module"


@pytest.mark.parametrize("test_module", TESTED_BY)
def test_the_other_test_modules_exist(test_module):
    assert (TESTS / test_module).is_file()
