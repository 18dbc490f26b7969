"""Opens a checkpoint file or folder without knowing yet which network it belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from nnunetv2_ext.checkpoints.plans import first_configuration, resolve_configuration
from nnunetv2_ext.checkpoints.safe_loading import load_pickle_file, load_torch_file
from nnunetv2_ext.checkpoints.shapes import CHECKPOINT, PLANS
from nnunetv2_ext.labels.dataset_json import read_dataset_json
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import parse_json, read_json
from nnunetv2_ext.utilities.validation import check

#: Entry of a safetensors file's metadata that this package writes.
METADATA_KEY = "nnunetv2_ext"

# Where the weights are in files of nnU-Net v2, nnU-Net v1 (and Lightning), MONAI, and SuPreM.
_STATE_KEYS = ("network_weights", "state_dict", "model", "net")
# Wrappers that put themselves before every name: DistributedDataParallel and torch.compile.
_WRAPPER_PREFIXES = ("module.", "_orig_mod.")
# What Lightning modules and similar frames call the network that they train, beside losses, teachers and heads.
_MEMBERS = ("model", "net", "network", "backbone")
_CHECKPOINT_NAMES = (
    "checkpoint_final.pth",
    "checkpoint_best.pth",
    "checkpoint_latest.pth",
    "model_final_checkpoint.model",
    "model_best.model",
)
_CHECKPOINT_SUFFIXES = (".pth", ".pt", ".model", ".ckpt", ".safetensors")


@dataclass
class RawCheckpoint:
    """A file's weights under the names it uses, with whatever lies beside them.

    Attributes:
        path: The file.
        state: Parameter name (without prefixes of wrappers) to tensor.
        content: The rest of the file: trainer name, arguments, metadata.
        plans: nnU-Net v2 plans from the file, its folder or the caller.
        plans_v1: nnU-Net v1 plans from a pickle beside the file.
        stage: Stage of the v1 plans that the network was trained with; the last one where unknown.
        dataset_v1: Name of the training dataset (``Task101_...``) where the v1 pickle tells it.
        configuration: Configuration of the v2 plans.
        dataset_json: dataset.json from the file or its folder.
        dataset: Which head the caller asks for, where there are several.
        key: Entry of the file that held the weights, None where they are the whole file.
    """

    path: Path
    state: dict[str, Tensor]
    content: dict[str, Any] = field(default_factory=dict)
    plans: dict[str, Any] | None = None
    plans_v1: dict[str, Any] | None = None
    stage: int | None = None
    dataset_v1: str | None = None
    configuration: str | None = None
    dataset_json: dict[str, Any] | None = None
    dataset: str | int | None = None
    key: str | None = None

    def unwrapped(self, layers: int = 2) -> Iterator[RawCheckpoint]:
        """The checkpoint, and then the networks that it names as members of a training module (``model.``, ``net.``).

        Names of MONAI's own UNet begin with ``model.``, so that a format has to recognise what is left.

        Args:
            layers: How many modules may be around each other.
        """
        yield self
        for member in _MEMBERS if layers else ():
            if state := self.below(f"{member}."):
                yield from replace(self, state=state).unwrapped(layers - 1)

    def below(self, prefix: str) -> dict[str, Tensor]:
        """The weights whose names begin with a prefix, without it."""
        return {name[len(prefix) :]: tensor for name, tensor in self.state.items() if name.startswith(prefix)}

    def configuration_plans(self) -> dict[str, Any] | None:
        """The configuration of the v2 plans with what it inherits; None without plans."""
        if self.plans is None:
            return None
        return resolve_configuration(self.plans, self.configuration or first_configuration(self.plans))

    def stage_plans(self) -> Mapping[str, Any] | None:
        """The stage of the v1 plans; None without plans."""
        if self.plans_v1 is None:
            return None
        per_stage = self.plans_v1["plans_per_stage"]
        return per_stage[max(per_stage) if self.stage is None else self.stage]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor of the state."""
        return tuple(self.state[name].shape)

    def indices(self, prefix: str) -> list[int]:
        """Sorted numbers that follow ``prefix`` in the names of the state (``stages.`` -> [0, 1, 2])."""
        found = {name[len(prefix) :].split(".", 1)[0] for name in self.state if name.startswith(prefix)}
        return sorted(int(text) for text in found if text.isdigit())


def open_checkpoint(path: Path | str, fold: int | str | None = None) -> RawCheckpoint:
    """Reads a checkpoint file or the checkpoint of a model folder, and the plans beside it.

    Args:
        path: A ``.pth``, ``.pt``, ``.model``, ``.ckpt`` or ``.safetensors`` file, a fold's folder or a model folder.
        fold: Which fold of a model folder; the first one by default.

    Raises:
        UserError: There is no checkpoint, or it cannot be read safely.
    """
    file = checkpoint_file(Path(path), fold)
    if file.suffix == ".safetensors":
        return _open_safetensors(file)
    content = load_torch_file(file, mmap=True)
    if not isinstance(content, Mapping):
        raise UserError(f"Expected network weights in {file}, but found a {type(content).__name__}.")
    key = next((key for key in _STATE_KEYS if isinstance(content.get(key), Mapping)), None)
    state = content if key is None else content[key]
    raw = RawCheckpoint(file, _without_prefixes(state, file), key=key)
    raw.content = {} if key is None else {name: value for name, value in content.items() if name != key}
    check(raw.content, CHECKPOINT, file)
    _add_plans_in_file(raw)
    _add_plans_beside(raw)
    return raw


def checkpoint_file(path: Path, fold: int | str | None = None) -> Path:
    """The file that a path means: itself, or the checkpoint of a fold's or model's folder."""
    if path.is_file():
        if path.suffix == ".pkl":
            raise UserError(f"{path} holds plans, not weights; give the file {path.with_suffix('')} instead.")
        return path
    if not path.is_dir():
        raise UserError(f"Expected a checkpoint file or a model folder at {path}, but there is none.")
    if fold is not None and (path / f"fold_{fold}").is_dir():
        path = path / f"fold_{fold}"
    elif fold is not None and list(path.glob("fold_*")):
        found = ", ".join(sorted(folder.name for folder in path.glob("fold_*")))
        raise UserError(f"Expected fold_{fold} in {path}, but found {found}.")
    folders = [path, *sorted(folder for folder in path.glob("fold_*") if folder.is_dir())]
    for folder in folders:
        for name in _CHECKPOINT_NAMES:
            if (folder / name).is_file():
                return folder / name
        files = sorted(file for file in folder.iterdir() if file.suffix in _CHECKPOINT_SUFFIXES)
        if len(files) == 1:
            return files[0]
        if len(files) > 1:
            raise UserError(
                f"Expected one checkpoint in {folder}, but found {', '.join(file.name for file in files)}; give the "
                "file itself."
            )
    raise UserError(f"Expected a checkpoint ({', '.join(_CHECKPOINT_NAMES)}) in {path}, but found none.")


def _open_safetensors(file: Path) -> RawCheckpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            metadata = opened.metadata() or {}
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  not a dictionary
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is truncated or is not a safetensors file ({error}); copy it again.") from error
    raw = RawCheckpoint(file, _without_prefixes(state, file))
    where = f"the metadata entry {METADATA_KEY!r} of {file}"
    raw.content = content = check(parse_json(metadata.get(METADATA_KEY, "{}"), where), CHECKPOINT, where)
    raw.plans, raw.dataset_json = content.get("plans"), content.get("dataset_json")
    raw.configuration = content.get("configuration")
    return raw


def _without_prefixes(state: Mapping[str, Any], file: Path) -> dict[str, Tensor]:
    tensors = {}
    for name, value in state.items():
        if not isinstance(value, Tensor) or not isinstance(name, str):
            continue
        while name.startswith(_WRAPPER_PREFIXES):
            name = name.split(".", 1)[1]
        tensors[name] = value.detach()
    if not tensors:
        raise UserError(
            f"Expected network weights in {file} (under {', '.join(_STATE_KEYS)} or at the top), but found none."
        )
    return tensors


def _add_plans_in_file(raw: RawCheckpoint) -> None:
    arguments = raw.content.get("init_args", {})
    raw.plans, raw.dataset_json = arguments.get("plans"), arguments.get("dataset_json")
    raw.configuration = arguments.get("configuration")


def _add_plans_beside(raw: RawCheckpoint) -> None:
    """Plans of the model folder count more than those in the file: the stock predictor uses them."""
    folders = [raw.path.parent]
    if raw.path.parent.name.startswith("fold_"):
        folders.append(raw.path.parent.parent)
    for folder in folders:
        if (folder / "plans.json").is_file():
            raw.plans = read_json(folder / "plans.json", PLANS)
        if (folder / "dataset.json").is_file():
            raw.dataset_json = read_dataset_json(folder / "dataset.json")
    if raw.plans is not None:
        return
    beside = raw.path.with_name(raw.path.name + ".pkl")
    candidates = [beside, *(folder / "plans.pkl" for folder in folders)]
    found = next((file for file in candidates if file.is_file()), None)
    if found is None:
        return
    content = load_pickle_file(found)
    plans = content.get("plans", content) if isinstance(content, Mapping) else None
    if not isinstance(plans, Mapping) or not isinstance(plans.get("plans_per_stage"), Mapping):
        raise UserError(f"Expected nnU-Net v1 plans in {found}, but found none; remove the file or replace it.")
    raw.plans_v1 = dict(plans)
    raw.content.setdefault("trainer_name", content.get("name"))
    _add_trainer_arguments(raw, content.get("init"))


def _add_trainer_arguments(raw: RawCheckpoint, init: Any) -> None:
    """The trainers of nnU-Net v1 take the dataset's folder as their fourth and the stage as their sixth argument."""
    if not isinstance(init, Sequence) or raw.plans_v1 is None or len(init) < 6:
        return
    if isinstance(init[3], str):
        raw.dataset_v1 = re.split(r"[/\\]", init[3].rstrip("/\\"))[-1]
    if isinstance(init[5], int) and init[5] in raw.plans_v1["plans_per_stage"]:
        raw.stage = init[5]
