"""Folders of label maps in another label order."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nnunetv2_ext.images.label_maps import write_volume
from nnunetv2_ext.images.reading import read_volume
from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import input_files, refuse_existing, require_writable
from nnunetv2_ext.utilities.folders import refuse_overlap
from nnunetv2_ext.utilities.locks import output_lock
from nnunetv2_ext.utilities.names import refuse_equal_names
from nnunetv2_ext.utilities.parallel import parallel_map

_logger = logging.getLogger(__name__)

_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")


@dataclass(frozen=True)
class _Job:
    file: Path
    result: Path
    source: LabelOrder | None
    target: LabelOrder
    drop: Collection[str] | Literal["all"]
    overwrite: bool

    def __str__(self) -> str:
        return self.file.name


def remap_files(
    source_folder: Path,
    output: Path,
    *,
    source: str | None,
    target: str,
    drop: Collection[str] | Literal["all"] = (),
    num_processes: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, str]:
    """Writes label maps in the integers of another order, as compressed NIfTI on their own grids.

    Args:
        source_folder: Folder of label maps, or one label map.
        output: Folder for the results; they keep their names.
        source: Order of the label maps (see `LabelOrder.read`); None to read it from each label map's header.
        target: Order of the results.
        drop: Classes that may become background; ``"all"`` for those that the target lacks.
        num_processes: Files at a time, each by a process; with 0, all by this one.
        overwrite: Replace existing files.
        progress: Show a progress bar.

    Returns:
        File name -> reason, for the files that could not be translated.

    Raises:
        UserError: There are no label maps, an order cannot be read, a class to drop does not exist, or the folder for
            the results cannot be written.
    """
    if not source_folder.exists():
        raise UserError(f"Expected a label map or a folder of label maps, but {source_folder} does not exist.")
    files = [source_folder] if source_folder.is_file() else input_files(source_folder)
    files = [file for file in files if file.name.endswith(_ENDINGS)]
    if not files:
        raise UserError(f"Expected label maps ({', '.join(_ENDINGS)}) in {source_folder}, but found none.")
    refuse_overlap([source_folder], output, above=False)
    old, new = LabelOrder.read(source) if source else None, LabelOrder.read(target)
    unknown = [name for name in drop if old.find(name) is None] if old and drop != "all" else []
    if old and unknown:
        raise UserError(
            f"Expected classes of {old.name} to drop ({', '.join(old.labels)}), but {', '.join(unknown)} is none of "
            "them."
        )
    missing = old.missing_in(new) if old else []
    if old and missing and drop != "all":
        _logger.info(
            "%s cannot express %d class(es) of %s; label maps that have them are refused unless --drop names them: %s",
            new.name,
            len(missing),
            old.name,
            ", ".join(missing),
        )
    results = [(_result_name(file), file) for file in files]
    refuse_equal_names(results)
    require_writable(output)
    jobs = [_Job(file, output / name, old, new, drop, overwrite) for name, file in results]
    with output_lock(output, inside=True):
        outcomes = parallel_map(_remap, jobs, processes=num_processes, description="Remapping", progress=progress)
        return {outcome.item.file.name: outcome.error for outcome in outcomes if outcome.error}


def _result_name(file: Path) -> str:
    ending = next(ending for ending in _ENDINGS if file.name.endswith(ending))
    return f"{file.name.removesuffix(ending).removesuffix('.seg')}.nii.gz"


def _remap(job: _Job) -> None:
    refuse_overlap([job.file], job.result)
    refuse_existing(job.result, job.overwrite)
    order = job.source or LabelOrder.read(job.file)
    volume = read_volume(job.file)
    write_volume(volume.with_array(order.remap(volume.array, to=job.target, drop=job.drop)), job.result)
