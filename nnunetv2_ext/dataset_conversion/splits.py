"""Cross-validation splits of a collection: every source in every fold, copies of one image never apart.

Stock nnU-Net reads ``splits_final.json`` from ``nnUNet_preprocessed/<dataset>`` and draws its own random folds where
that file is missing. Nothing in stock nnU-Net carries a file from ``nnUNet_raw`` there, so the merge writes both, and
`bring_splits` copies the raw one for those who preprocess on another machine.
"""

from __future__ import annotations

import logging
import os
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from nnunetv2_ext.labels.dataset_json import NAMES
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json, write_json
from nnunetv2_ext.utilities.paths import nnunet_folder
from nnunetv2_ext.utilities.validation import entries, list_of

SPLITS_FILE = "splits_final.json"

# The seed of nnU-Net's own splits.
_SEED = 12345

Splits = list[dict[str, list[str]]]

_SPLITS = list_of(entries({"train": NAMES, "val": NAMES}, needed=("train", "val")))

logger = logging.getLogger(__name__)


def stratified_splits(
    source_of: Mapping[str, str], groups: Iterable[Iterable[str]] = (), number_of_folds: int = 5
) -> Splits:
    """Splits in which each source is spread evenly over the folds.

    Args:
        source_of: Case identifier -> its source.
        groups: Cases that must not be separated, such as copies of one image; disjoint.
        number_of_folds: Wanted number; fewer where there are fewer groups of cases than folds.

    Returns:
        nnU-Net's format: per fold the sorted ``train`` and ``val`` identifiers. Empty where everything is one group,
        which cannot be split.
    """
    together = [sorted(group) for group in groups]
    grouped = {case for group in together for case in group}
    together += [[case] for case in sorted(source_of) if case not in grouped]
    number_of_folds = min(number_of_folds, len(together))
    if number_of_folds < 2:
        return []
    random.Random(_SEED).shuffle(together)
    # Large groups first: the single cases that follow fill the gaps that they leave. Singles go source by source, so
    # that the last source evens out the sizes of the folds.
    together.sort(key=lambda group: (-len(group), source_of[group[0]]))
    folds: list[list[str]] = [[] for _ in range(number_of_folds)]
    counts: list[Counter[str]] = [Counter() for _ in range(number_of_folds)]
    for group in together:
        content = Counter(source_of[case] for case in group)

        def crowding(fold: int, content: Counter[str] = content) -> tuple[float, int, int]:
            return (sum(content[source] * counts[fold][source] for source in content), len(folds[fold]), fold)

        chosen = min(range(number_of_folds), key=crowding)
        folds[chosen] += group
        counts[chosen] += content
    everyone = set(source_of)
    return [{"train": sorted(everyone - set(fold)), "val": sorted(fold)} for fold in folds]


def leave_one_source_out(source_of: Mapping[str, str], groups: Iterable[Iterable[str]] = ()) -> Splits:
    """One fold per source, which validates on all cases of it and trains on those of the others.

    Args:
        source_of: Case identifier -> its source.
        groups: Cases that must not be on both sides; those that belong with a case of the source are not trained on.

    Returns:
        nnU-Net's format, in the order of the sources' first cases.

    Raises:
        UserError: There is nothing left to train on without a source.
    """
    together = [set(group) for group in groups]
    splits: Splits = []
    for source in dict.fromkeys(source_of.values()):
        held_out = {case for case, of_case in source_of.items() if of_case == source}
        apart = held_out.union(*(group for group in together if group & held_out))
        if not source_of.keys() - apart:
            raise UserError(
                f"Expected cases to train on without the source {source}, but all others belong with cases of it (as "
                "copies of one image, or by --group); leave --leave_one_dataset_out out."
            )
        splits.append({"train": sorted(source_of.keys() - apart), "val": sorted(held_out)})
    return splits


def read_splits(file: Path) -> Splits:
    """Reads splits in nnU-Net's format.

    Raises:
        UserError: They have another form.
    """
    splits: Splits = read_json(file, _SPLITS)
    return splits


def refuse_too_few_cases(fold: int | str, cases: int, folder: Path) -> None:
    """Checks that there are folds, or cases enough for nnU-Net to make them.

    Args:
        fold: What is to be trained.
        cases: How many there are.
        folder: The preprocessed dataset.

    Raises:
        UserError: nnU-Net would have to make five folds of fewer cases, or the folds have another form.
    """
    if fold == "all":
        return
    if (folder / SPLITS_FILE).is_file():
        read_splits(folder / SPLITS_FILE)
    elif cases < 5:
        raise UserError(
            f"Expected at least 5 cases in {folder.name} for fold {fold}, but found {cases}: {cases} cases cannot make "
            f"5 folds; train the fold 'all', or write folds of your own to {folder / SPLITS_FILE}."
        )


def bring_splits(dataset: str) -> bool:
    """Copies ``splits_final.json`` from the raw to the preprocessed dataset where the latter has none.

    Args:
        dataset: Full name, ``DatasetXXX_Name``.

    Returns:
        Whether a file was copied. Nothing happens where nnUNet_raw is not set: machines that only train do without it.
    """
    if not os.environ.get("nnUNet_raw", "").strip():
        return False
    return hand_over_splits(nnunet_folder("nnUNet_raw") / dataset)


def hand_over_splits(raw_dataset: Path, former: Splits | None = None) -> bool:
    """Writes the splits of a raw dataset where stock nnU-Net reads them, unless there are others of the user's own.

    Args:
        raw_dataset: The dataset.
        former: Splits of a dataset that it replaces, which are nobody's own.

    Returns:
        Whether they were written.
    """
    raw = raw_dataset / SPLITS_FILE
    if not raw.is_file():
        return False
    if not os.environ.get("nnUNet_preprocessed", "").strip():
        logger.warning(
            "nnUNet_preprocessed is not set; copy %s to nnUNet_preprocessed/%s before training, else nnU-Net draws its "
            "own folds.",
            raw,
            raw_dataset.name,
        )
        return False
    preprocessed = nnunet_folder("nnUNet_preprocessed") / raw_dataset.name / SPLITS_FILE
    splits, present = read_splits(raw), read_splits(preprocessed) if preprocessed.is_file() else None
    if present == splits:
        return False
    if present is not None and present != former:
        logger.warning("%s differs from %s and is kept; delete it to take the raw dataset's splits.", preprocessed, raw)
        return False
    write_json(splits, preprocessed)
    logger.info("Cross-validation splits are taken from %s.", raw)
    return True
