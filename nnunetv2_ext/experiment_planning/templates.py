"""Plan templates: nnU-Net plans without what belongs to one dataset. The format is described in plans/README.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunetv2_ext.checkpoints.plans import check_plans, check_plans_names, resolve_configuration
from nnunetv2_ext.checkpoints.shapes import PLANNED_CONFIGURATION
from nnunetv2_ext.resources import list_resources, resource_folder
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json
from nnunetv2_ext.utilities.validation import check


def list_templates() -> list[str]:
    """Names of the plan templates that ship with the package, sorted."""
    return list_resources("plans")


def load_template(name_or_path: str | Path) -> dict[str, Any]:
    """Reads a plan template, or any plans file of nnU-Net v2, and checks that it is one.

    Args:
        name_or_path: Name of a shipped template (``"stunet_ct"``) or path of a JSON file.

    Raises:
        UserError: No such template, or the file holds no plans, or its network comes from a foreign package.
    """
    text = str(name_or_path)
    if text in list_templates():
        path = resource_folder("plans") / f"{text}.json"
    elif text.endswith(".json") or Path(text).is_file():
        path = Path(text)
    else:
        raise UserError(
            f"Expected the name of a plan template ({', '.join(list_templates())}) or the path of a plans file, "
            f"but got {text!r}."
        )
    plans = read_json(path)
    check_template(plans, str(path))
    return plans


def is_template(plans: dict[str, Any]) -> bool:
    """Whether ``plans`` is a template, as opposed to the plans of a certain dataset or of a trained model."""
    return not plans.get("dataset_name")


def check_template(plans: Any, source: str) -> None:
    """Checks that ``plans`` is a template or a plans file that can be adapted to a dataset.

    Args:
        plans: The parsed JSON.
        source: Where it comes from, for the error message.

    Raises:
        UserError: It is not.
    """
    check_plans(plans, source)
    # Names of dataset and plans are those of another dataset, and not used.
    check_plans_names({"configurations": plans["configurations"]}, source)
    for name in plans["configurations"]:
        check(resolve_configuration(plans, name), PLANNED_CONFIGURATION, f"the configuration {name!r} of {source}")
