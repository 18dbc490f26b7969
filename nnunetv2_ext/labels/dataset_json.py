"""What a dataset.json must look like before anything looks into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json
from nnunetv2_ext.utilities.validation import (
    Shape,
    check,
    choice,
    either,
    entries,
    integer,
    list_of,
    mapping_of,
    nullable,
    text,
)

#: What 16 bits hold; nnU-Net writes no larger label values.
HIGHEST_LABEL = 65535
#: Every class is an output of a network, or a mask; some tables hold all classes times all label values.
MOST_CLASSES = 4096

LABEL_VALUE = integer(0, HIGHEST_LABEL)
NAMES = list_of(text())
#: Nodes below nodes; a leaf may have null below it.
TREE_NODE: Shape = Shape(
    "an object of nodes or null",
    lambda value: value is None or isinstance(value, Mapping),
    lambda value: ((name, below, TREE_NODE) for name, below in (value or {}).items()),
)
#: The entry that says what x, y and z of the images run towards, where all of them agree; stock nnU-Net ignores it.
ORIENTATION = "image_orientation"
#: Its value, in the letters of nibabel's ``aff2axcodes``: ``"RAS"`` is right, anterior, superior.
AXIS_CODES = text(r"(?=.*[LR])(?=.*[PA])(?=.*[IS]).{3}", "an orientation such as RAS or LPS")
LABELS = mapping_of(either(LABEL_VALUE, list_of(LABEL_VALUE, at_least=1)), text(), at_most=MOST_CLASSES)
_CHANNELS = mapping_of(text(), text(r"\d{1,4}", "a channel's number"), at_least=1)
_ENTRIES = {
    "labels": LABELS,
    "regions_class_order": nullable(list_of(LABEL_VALUE)),
    "channel_names": _CHANNELS,
    "modality": _CHANNELS,
    "file_ending": text(r".+", "an ending such as .nii.gz"),
    "numTraining": integer(0),
    ORIENTATION: AXIS_CODES,
    "overwrite_image_reader_writer": nullable(text()),
    "dataset": mapping_of(entries({"images": list_of(text(), at_least=1), "label": text()}, ("images", "label"))),
    # Imported models know no cases.
    "partial_labels": mapping_of(
        entries(
            {"classes": list_of(text(), at_least=1), "cases": NAMES, "exceptions": mapping_of(NAMES)},
            needed=("classes", "cases"),
            closed=True,
        )
    ),
    "label_tree": mapping_of(TREE_NODE),
}


def dataset_json_shape(*needed: str) -> Shape:
    """The shape of a dataset.json in which some entries must be."""
    return entries(_ENTRIES, needed)


def read_dataset_json(file: Path | str, *needed: str) -> dict[str, Any]:
    """Reads a dataset.json; ``labels`` and what else is ``needed`` are there, and every entry is of its kind.

    Raises:
        UserError: They are not, or a name is there twice.
    """
    content: dict[str, Any] = read_json(file, dataset_json_shape("labels", *needed), refuse_repeated_names=True)
    return content


def kind_of_dataset(dataset_json: Mapping[str, Any]) -> str:
    """``"tree"`` for a collection with a label tree, ``"collection"`` for another one, else ``"plain"``."""
    if "label_tree" in dataset_json:
        return "tree"
    return "collection" if "partial_labels" in dataset_json else "plain"


def image_channels(dataset_json: Mapping[str, Any]) -> list[str]:
    """Names of the image channels in order.

    Raises:
        UserError: There are none.
    """
    # nnU-Net still reads the name of this entry from before 2.0.
    channels = dataset_json.get("channel_names") or dataset_json.get("modality")
    if not channels:
        raise UserError("Expected channel_names in dataset.json, but there are none; add them as nnU-Net asks for.")
    return [channels[key] for key in sorted(channels, key=int)]


def check_outputs(dataset_json: Mapping[str, Any], where: Path | str) -> None:
    """Checks that the labels are such that nnU-Net knows which output of a network is which class.

    Raises:
        UserError: They are not.
    """
    labels = check(dataset_json, dataset_json_shape("labels", "file_ending"), where)["labels"]
    image_channels(dataset_json)
    check(labels, entries({"background": choice(0), "ignore": LABEL_VALUE}, ("background",)), f"the labels of {where}")
    classes = {name: value for name, value in labels.items() if name != "ignore"}
    values = {label for value in classes.values() for label in (value if isinstance(value, list | tuple) else [value])}
    if values != set(range(len(values))) or labels.get("ignore", len(values)) != len(values):
        raise UserError(
            f"Expected the label values 0 to {len(values) - 1} without gaps, and an ignore label above them, in "
            f"{where}, but the highest is {max(values)}; renumber them."
        )
    is_region_based = any(isinstance(value, list | tuple) and len(value) > 1 for value in classes.values())
    if is_region_based and len(dataset_json.get("regions_class_order") or ()) != len(classes) - 1:
        raise UserError(
            f"Expected regions_class_order with one label value for each of the {len(classes) - 1} classes in {where}; "
            "add it."
        )
