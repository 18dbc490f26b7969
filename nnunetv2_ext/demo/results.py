"""The tour's result: Dice per class, as a table and as a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from nnunetv2_ext.utilities.files import read_json, write_json


@dataclass
class DiceTable:
    """Mean Dice over held-out patients, per model and class.

    Attributes:
        rows: Model -> class -> Dice.
    """

    rows: dict[str, dict[str, float]] = field(default_factory=dict)

    def mean(self, model: str) -> float:
        """Mean foreground Dice of a model."""
        return fmean(self.rows[model].values())

    def __str__(self) -> str:
        lines = [f"{'model':<44} {'class':<16} Dice"]
        for model, classes in self.rows.items():
            lines += [f"{model:<44} {name:<16} {dice:.3f}" for name, dice in classes.items()]
            lines.append(f"{model:<44} {'mean':<16} {self.mean(model):.3f}")
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Writes the table as JSON."""
        write_json({model: {**classes, "mean": self.mean(model)} for model, classes in self.rows.items()}, path)


def read_summary(path: Path) -> dict[str, float]:
    """Mean Dice per class name from a ``summary.json`` of ``nnUNetv2_ext_evaluate``."""
    summary = read_json(path)
    return {
        name: summary["mean"][key]["Dice"] for key, name in summary["class_names"].items() if key in summary["mean"]
    }
