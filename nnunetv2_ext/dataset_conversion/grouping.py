"""Cases of one patient, which must not be in different folds."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json, read_table
from nnunetv2_ext.utilities.names import quoted
from nnunetv2_ext.utilities.validation import mapping_of, text


def read_groups(given: str, cases: Sequence[str]) -> list[list[str]]:
    """Cases by the patient that they belong to.

    Args:
        given: A file that says of each case which patient it belongs to: JSON (``{"case": "patient"}``) or a table (CSV
            with the columns ``case`` and ``patient``). Or a regular expression that finds the patient in the name of
            each case: by its first group, or all that it matches.
        cases: Their names in the dataset.

    Raises:
        UserError: The file or the expression cannot be read, or says nothing of a case.
    """
    file = Path(given)
    if file.suffix == ".json":
        patients = read_json(file, mapping_of(text()))
    elif file.suffix == ".csv":
        patients = {row["case"]: row["patient"] for row in read_table(file, ("case", "patient"))}
    else:
        try:
            found = {case: re.search(given, case) for case in cases}
        except re.error as error:
            raise UserError(
                f"Expected a file (.json, .csv) or a regular expression with --group, but {given!r} is none ({error})."
            ) from None
        patients = {case: match[min(len(match.groups()), 1)] for case, match in found.items() if match is not None}
    unknown = [case for case in cases if not patients.get(case)]
    if unknown:
        raise UserError(
            f"Expected the patient of every case with --group, but {given!r} says nothing of {quoted(unknown[0])}."
        )
    groups: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        groups[patients[case]].append(case)
    return list(groups.values())
