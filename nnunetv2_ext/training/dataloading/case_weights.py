"""How often cases are drawn, from a file that the user wrote."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json, read_table
from nnunetv2_ext.utilities.names import quoted
from nnunetv2_ext.utilities.validation import check, mapping_of, number


def read_case_weights(file: Path | str, cases: Collection[str]) -> dict[str, float]:
    """Weights of cases; those that the file does not name have 1.

    Args:
        file: JSON (``{"case": 3}``) or a table (CSV with the columns ``case`` and ``weight``).
        cases: The dataset's.

    Raises:
        UserError: The file cannot be read, or names something else than these cases.
    """
    file = Path(file)
    if file.suffix == ".csv":
        rows = read_table(file, ("case", "weight"))
        try:
            weights = {row["case"]: float(row["weight"]) for row in rows}
        except ValueError as error:
            raise UserError(f"Expected numbers in the column weight of {file}, but found {error}.") from None
    else:
        weights = read_json(file)
    check(weights, mapping_of(number(0)), file)
    if unknown := sorted(weights.keys() - set(cases)):
        raise UserError(
            f"Expected cases of the dataset in {file}, but {quoted(unknown[0])} is none; its {len(cases)} cases "
            f"have names such as {quoted(min(cases))}."
        )
    return weights


def weighted(
    probabilities: Sequence[float] | npt.NDArray[np.float64] | None, cases: Sequence[str], weights: Mapping[str, float]
) -> npt.NDArray[np.float64]:
    """Probabilities of cases times their weights.

    Args:
        probabilities: How often cases are drawn otherwise; None for all alike.
        cases: The cases.
        weights: Of some of them.

    Returns:
        Shape (cases,), summing to 1.

    Raises:
        UserError: None of the cases has a weight above 0.
    """
    given = np.array([weights.get(case, 1.0) for case in cases])
    product = given if probabilities is None else given * np.asarray(probabilities)
    if not product.sum():
        raise UserError("Expected a weight above 0 for a case of the fold in --case_weights, but all are 0.")
    return product / product.sum()
