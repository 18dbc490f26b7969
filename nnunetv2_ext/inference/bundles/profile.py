"""How a MONAI bundle prepares images and moves its windows, as recorded in an imported model folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_ext.checkpoints.model_folder import PROFILE_NAME
from nnunetv2_ext.utilities.extras import require_extra
from nnunetv2_ext.utilities.files import read_json
from nnunetv2_ext.utilities.validation import check, choice, entries, integer, list_of, nullable, number, text

_RANGE = list_of(number(), 2, 2)
_RULES = {
    "normalize_nonzero": {},
    "scale": {"minimum": number(), "maximum": number()},
    "clip_and_scale": {"from": _RANGE, "to": _RANGE},
}
_PROFILE = {
    "orientation": text(r"[RL][AP][SI]", "an orientation such as RAS"),
    "spacing": nullable(list_of(number(1e-6, 1000), 3, 3)),
    "intensity": list_of(entries({"name": choice(*_RULES)}, needed=("name",))),
    "window_size": list_of(integer(1, 4096), 3, 3),
    "overlap": number(0, 0.99),
    "blend": choice("gaussian", "constant"),
    "padding": choice("constant", "replicate"),
    "inversion": choice("nearest_labels", "linear_probabilities"),
}


@dataclass(frozen=True)
class BundleProfile:
    """A bundle's inference, in nnU-Net's order of axes (z, y, x).

    Attributes:
        orientation: What x, y and z run towards, such as ``"RAS"``.
        spacing: mm; None for that of each image.
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
    spacing: tuple[float, float, float] | None
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
    content = read_json(file, entries(_PROFILE, needed=tuple(_PROFILE), closed=True))
    for rule in content["intensity"]:
        arguments = {name: value for name, value in rule.items() if name != "name"}
        shapes = _RULES[rule["name"]]
        check(arguments, entries(shapes, needed=tuple(shapes), closed=True), f"the intensity rules of {file}")
    require_extra("monai", "This model, imported from a MONAI bundle and prepared for by MONAI's transforms,")
    triples = {
        name: tuple(content[name]) for name in ("spacing", "window_size", "intensity") if content[name] is not None
    }
    return BundleProfile(**{**content, **triples})
