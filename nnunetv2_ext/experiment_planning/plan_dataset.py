"""Writes a plans file for a dataset in nnU-Net's folders."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunetv2_ext.checkpoints.shapes import STATISTICS
from nnunetv2_ext.dataset_conversion.splits import bring_splits
from nnunetv2_ext.experiment_planning.plans import check_configurations, plans_for_dataset, reader_writer_of
from nnunetv2_ext.experiment_planning.templates import check_template
from nnunetv2_ext.images.reading import read_volumes
from nnunetv2_ext.labels import label_tree, partial_labels
from nnunetv2_ext.labels.dataset_json import check_outputs, read_dataset_json
from nnunetv2_ext.labels.partial_labels import PartialLabels
from nnunetv2_ext.labels.tree_sources import TreeSources
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import input_files, read_json, refuse_existing, write_json
from nnunetv2_ext.utilities.folders import refuse_overlap
from nnunetv2_ext.utilities.locks import output_lock
from nnunetv2_ext.utilities.names import checked_name
from nnunetv2_ext.utilities.parallel import parallel_map
from nnunetv2_ext.utilities.paths import dataset_name, nnunet_folder
from nnunetv2_ext.utilities.validation import entries, integer, list_of, mapping_of, number

logger = logging.getLogger(__name__)

_FINGERPRINT_ENTRIES = {
    "spacings": list_of(list_of(number(1e-6, 1000), 3, 3), at_least=1),
    "shapes_after_crop": list_of(list_of(integer(1, 65536), 3, 3), at_least=1),
    "foreground_intensity_properties_per_channel": mapping_of(STATISTICS, at_least=1),
    "median_relative_size_after_cropping": number(0, 1),
}
_FINGERPRINT = entries(_FINGERPRINT_ENTRIES, needed=tuple(_FINGERPRINT_ENTRIES))


def plan_dataset(
    dataset: str | int,
    template_or_plans: dict[str, Any],
    *,
    name: str,
    configurations: Sequence[str] | None = None,
    spacing: Sequence[float] | None = None,
    patch_size: Sequence[int] | None = None,
    batch_size: int | None = None,
    overwrite: bool = False,
    num_processes: int | None = None,
    show_progress: bool = True,
    source: Path | None = None,
    to_dataset: bool = False,
) -> Path:
    """Adapts a template (or a pretrained model's plans) to a dataset and writes ``<name>.json`` beside its fingerprint.

    What nnU-Net's own planner leaves for preprocessing is left too: ``dataset.json`` and, where the raw dataset has
    one, ``splits_final.json`` are copied from the raw dataset.

    Args:
        dataset: ID or name of a dataset in ``nnUNet_raw``.
        template_or_plans: What `load_template` returns, or a trained model's plans.
        name: Name of the plans file, nnU-Net's plans identifier.
        configurations: See `plans_for_dataset`, also for the three overrides and ``to_dataset``.
        spacing: (z, y, x) in mm.
        patch_size: (z, y, x) in voxels.
        batch_size: Samples per batch.
        overwrite: Whether an existing plans file may be replaced.
        num_processes: Processes for extracting the fingerprint where it is missing; nnU-Net's default if None.
        show_progress: Whether that extraction shows a progress bar.
        source: File of the template, where it has one, which is not replaced.
        to_dataset: See `plans_for_dataset`.

    Returns:
        Path of the plans file.

    Raises:
        UserError: See `plans_for_dataset`; also if the plans file exists, the name is no file name, or the sections
            of a collection's dataset.json contradict each other or leave out a case.
    """
    checked_name(name, "a plans name")
    full_name = dataset_name(dataset, "nnUNet_raw")
    raw_folder = nnunet_folder("nnUNet_raw") / full_name
    folder = nnunet_folder("nnUNet_preprocessed") / full_name
    target = folder / f"{name}.json"
    refuse_overlap([source] if source else [], target)
    refuse_existing(target, overwrite)
    dataset_json = read_dataset_json(raw_folder / "dataset.json", "file_ending")
    check_outputs(dataset_json, raw_folder / "dataset.json")
    _check_collection(raw_folder, dataset_json)
    # Before the fingerprint, whose extraction reads every image.
    check_template(template_or_plans, "the template")
    check_configurations(template_or_plans, configurations or ())
    with output_lock(folder, inside=True, wait=True):
        refuse_existing(target, overwrite)
        fingerprint = dataset_fingerprint(full_name, num_processes, show_progress)
        plans = plans_for_dataset(
            template_or_plans,
            dataset_json,
            fingerprint,
            name=name,
            dataset_name=full_name,
            image_reader_writer=reader_writer_of(dataset_json, _example_image(raw_folder, dataset_json)),
            configurations=configurations,
            spacing=spacing,
            patch_size=patch_size,
            batch_size=batch_size,
            to_dataset=to_dataset,
        )
        # The preprocessor reads this copy, not the raw one.
        write_json(dataset_json, folder / "dataset.json")
        bring_splits(full_name)
        write_json(plans, target)
    return target


def _check_collection(raw_folder: Path, dataset_json: dict[str, Any]) -> None:
    """Refuses a collection that no trainer would take, before hours go into preprocessing it."""
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    if label_tree.SECTION in dataset_json:
        reader: type[PartialLabels] = TreeSources
    elif partial_labels.SECTION in dataset_json:
        reader = PartialLabels
    else:
        return
    try:
        labels = reader.from_dataset_json(dataset_json)
        for case in get_filenames_of_train_images_and_targets(str(raw_folder), dataset_json):
            labels.source_of(case)
    except UserError as error:
        raise UserError(f"{raw_folder / 'dataset.json'}: {error}") from None


def dataset_fingerprint(full_name: str, num_processes: int | None = None, show_progress: bool = True) -> dict[str, Any]:
    """The dataset's fingerprint, extracted by nnU-Net's own extractor where it is missing.

    Raises:
        UserError: The dataset holds no training cases, or some that cannot be read.
    """
    path = nnunet_folder("nnUNet_preprocessed") / full_name / "dataset_fingerprint.json"
    if not path.exists():
        logger.info("%s has no fingerprint yet: extracting it with nnU-Net's extractor.", full_name)
        _extract_fingerprint(full_name, num_processes, show_progress)
    fingerprint: dict[str, Any] = read_json(path, _FINGERPRINT)
    return fingerprint


def _extract_fingerprint(full_name: str, num_processes: int | None, show_progress: bool) -> None:
    from nnunetv2.configuration import default_num_processes
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

    extractor = DatasetFingerprintExtractor(full_name, num_processes or default_num_processes)
    if not extractor.dataset:
        folder = nnunet_folder("nnUNet_raw") / full_name
        raise UserError(f"Expected training cases in {folder / 'imagesTr'}, but found none.")
    images = nnunet_folder("nnUNet_raw") / full_name / "imagesTr"
    if lost := [file.name for file in input_files(images) if not file.is_file()]:
        raise UserError(f"Expected images in {images}, but {', '.join(lost)} lead nowhere or are no files; mend them.")
    files = [Path(file) for case in extractor.dataset.values() for file in (*case["images"], case["label"])]
    processes = num_processes or default_num_processes
    checks = parallel_map(_read, files, processes=processes, description="Checking", progress=show_progress)
    if errors := [outcome.error for outcome in checks if outcome.error]:
        raise UserError(f"{len(errors)} of {len(files)} files cannot be planned with: {' '.join(errors[:10])}")
    extractor.show_progress_bar = show_progress
    extractor.run()


def _read(file: Path) -> None:
    """Reads a file for its errors; what is cut short comes to nnU-Net as zeros."""
    read_volumes(file)


def _example_image(raw_folder: Path, dataset_json: dict[str, Any]) -> str | None:
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    cases = get_filenames_of_train_images_and_targets(str(raw_folder), dataset_json)
    return next((case["images"][0] for case in cases.values()), None)
