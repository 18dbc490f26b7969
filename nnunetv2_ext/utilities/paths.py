"""nnU-Net's three folders, read from the environment without importing nnU-Net."""

from __future__ import annotations

import os
import re
from pathlib import Path

from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.names import checked_name

NNUNET_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def nnunet_folder(variable: str) -> Path:
    """The folder that an nnU-Net environment variable names.

    Args:
        variable: ``"nnUNet_raw"``, ``"nnUNet_preprocessed"`` or ``"nnUNet_results"``.

    Raises:
        UserError: The variable is not set.
    """
    value = os.environ.get(variable, "").strip()
    if not value:
        raise UserError(
            f"The environment variable {variable} is not set; set it to nnU-Net's folder of that name "
            f'(for example: export {variable}="$HOME/nnUNet/{variable}").'
        )
    return Path(value)


def dataset_name(name_or_id: str | int, *variables: str) -> str:
    """Resolves a dataset ID or name to its full name ``DatasetXXX_Name``.

    Args:
        name_or_id: ``5``, ``"005"`` or ``"Dataset005_Name"``.
        *variables: Which of nnU-Net's folders to search; all that are set by default.

    Raises:
        UserError: No such dataset, or the ID is used by several.
    """
    folders = [
        nnunet_folder(variable)
        for variable in (variables or NNUNET_VARIABLES)
        if variables or os.environ.get(variable, "").strip()
    ]
    if not folders:
        nnunet_folder(NNUNET_VARIABLES[0])
    known = sorted({entry.name for folder in folders if folder.is_dir() for entry in folder.glob("Dataset*_*")})
    text = str(name_or_id)
    if re.fullmatch(r"\d+", text):
        found = [name for name in known if name.startswith(f"Dataset{int(text):03d}_")]
    else:
        found = [name for name in known if name == text]
    if len(found) == 1:
        return found[0]
    where = ", ".join(str(folder) for folder in folders)
    if found:
        raise UserError(f"Dataset ID {text} is used by {', '.join(found)} in {where}; give the full name.")
    raise UserError(f"Expected dataset {text} in {where}, but found {', '.join(known) or 'no datasets at all'}.")


def parse_new_dataset_name(dataset_id: int, name: str) -> str:
    """``(5, "Liver")`` -> ``"Dataset005_Liver"``.

    Raises:
        UserError: The ID is out of range or the name is not made of letters, digits, ``_``, ``-`` and ``.``.
    """
    if not 1 <= dataset_id <= 999:
        raise UserError(f"Expected a dataset ID between 1 and 999, but got {dataset_id}.")
    return f"Dataset{dataset_id:03d}_{checked_name(name, 'a dataset name')}"


def refuse_used_id(full_name: str) -> None:
    """Checks that no other dataset has the ID of a new one, in any of nnU-Net's folders that are set.

    Args:
        full_name: ``"Dataset005_Liver"``.

    Raises:
        UserError: ``Dataset005_Something`` exists already; nnU-Net could then not tell the two apart by ID.
    """
    prefix = full_name[: len("DatasetXXX_")]
    for variable in NNUNET_VARIABLES:
        if not os.environ.get(variable, "").strip():
            continue
        others = sorted(entry.name for entry in nnunet_folder(variable).glob(f"{prefix}*") if entry.name != full_name)
        if others:
            raise UserError(
                f"Expected a free dataset ID, but {prefix[7:10]} is used by {others[0]} in {nnunet_folder(variable)}; "
                "choose another ID."
            )
