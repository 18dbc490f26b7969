"""How a MONAI bundle prepares images and moves its windows, as recorded in an imported model folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_ext.checkpoints.model_folder import PROFILE_NAME
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.extras import require_extra
from nnunetv2_ext.utilities.files import read_json

_CHOICES = {
    "blend": ("gaussian", "constant"),
    "padding": ("constant", "replicate"),
    "inversion": ("nearest_labels", "linear_probabilities"),
}
_INTENSITY_RULES = {"normalize_nonzero": set(), "scale": {"minimum", "maximum"}, "clip_and_scale": {"from", "to"}}


@dataclass(frozen=True)
class BundleProfile:
    """A bundle's inference, in nnU-Net's order of axes (z, y, x).

    Attributes:
        orientation: What x, y and z run towards, such as ``"RAS"``.
        spacing: mm.
        intensity: Rules in their order: ``{"name": "normalize_nonzero"}`` (z-score of the voxels other than 0),
            ``{"name": "scale", "minimum": -1, "maximum": 1}`` (the volume's own range to another one),
            ``{"name": "clip_and_scale", "from": [-57, 164], "to": [0, 1]}``.
        window_size: Voxels.
        overlap: Share of a window that neighbours have in common.
        blend: ``"gaussian"`` or ``"constant"`` weights of overlapping windows.
        padding: How images smaller than a window are padded: ``"constant"`` (0) or ``"replicate"``.
        inversion: ``"nearest_labels"``: decide, then bring the label map to the image's grid; or
            ``"linear_probabilities"``: bring each class's probability there, then decide.
    """

    orientation: str
    spacing: tuple[float, float, float]
    intensity: tuple[Mapping[str, Any], ...]
    window_size: tuple[int, int, int]
    overlap: float
    blend: str
    padding: str
    inversion: str


def read_profile(model_folder: Path) -> BundleProfile | None:
    """The profile of a model folder, None where it has none (as any folder that nnU-Net trained).

    Raises:
        UserError: The file is not a profile, or MONAI is not installed.
    """
    file = model_folder / PROFILE_NAME
    if not file.is_file():
        return None
    content = read_json(file)
    names = set(BundleProfile.__dataclass_fields__)
    if not isinstance(content, dict) or set(content) != names:
        raise UserError(f"Expected the entries {', '.join(sorted(names))} in {file}; import the bundle again.")
    for name, choices in _CHOICES.items():
        if content[name] not in choices:
            raise UserError(
                f"Expected {name} to be one of {', '.join(choices)} in {file}, but found {content[name]!r}."
            )
    for rule in content["intensity"]:
        if set(rule) - {"name"} != _INTENSITY_RULES.get(rule.get("name"), {None}):
            raise UserError(f"Expected one of the rules {', '.join(_INTENSITY_RULES)} in {file}, but found {rule}.")
    if not 0 <= content["overlap"] < 1:
        raise UserError(f"Expected an overlap of at least 0 and below 1 in {file}, but found {content['overlap']}.")
    require_extra("monai", "This model, imported from a MONAI bundle and prepared for by MONAI's transforms,")
    triples = {name: tuple(content[name]) for name in ("spacing", "window_size", "intensity")}
    return BundleProfile(**{**content, **triples})
