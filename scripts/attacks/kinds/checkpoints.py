"""Checkpoints that are data alone, but not those of a network: wrong types, shapes, names and headers."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from attacks import fixtures
from attacks.kinds.plans import WALKS
from attacks.recipes import RECIPES, Recipe, per_command
from attacks.sandbox import Sandbox
from attacks.table import ANY, REFUSED, Expect, SetUp, Try, kind, pick

_Content = TypeVar("_Content")

IMPORTED = ("nnUNet_results/Dataset050_Imported",)


def _save(path: Path, content: Any) -> None:
    import torch

    file = io.BytesIO()
    torch.save(content, file)
    path.write_bytes(file.getvalue())


def _with(recipe: Recipe, role: str, content: Callable[[], Any]) -> SetUp:
    def set_up(box: Sandbox) -> Sequence[str]:
        argv = recipe(box)
        _save(recipe.file(box, role), content())
        return argv

    return set_up


def _with_weights(state: Any) -> Any:
    return fixtures.checkpoint(network_weights=state)


def _with_tensors(changes: Mapping[str, Any]) -> Any:
    return _with_weights({**fixtures.network_state(), **changes})


def _sized(*shape: int) -> Any:
    import torch

    return torch.zeros(shape)


def _of_type(name: str) -> Any:
    import torch

    return torch.zeros((3, 4, 1, 1, 1), dtype=getattr(torch, name))


def _each(make: Callable[[Any], _Content], values: Iterable[Any]) -> list[Callable[[], _Content]]:
    return [partial(make, value) for value in values]


_HEAD = "decoder.seg_layers.0.weight"
WEIGHTS: Mapping[str, Sequence[Callable[[], Any]]] = {
    "no_mapping": _each(_with_weights, (5, "abc", [], [1], {"a": 5}, {"a": "b"}, {5: 5})),
    "none": [lambda: _with_weights({}), lambda: {}, lambda: [], lambda: 5, lambda: {"a": {"b": {}}}],
    "missing_tensor": [
        lambda: _with_weights({name: each for name, each in fixtures.network_state().items() if name != _HEAD})
    ],
    "wrong_shape": _each(
        lambda shape: _with_tensors({_HEAD: _sized(*shape)}),
        ((3, 5, 1, 1, 1), (0, 4, 1, 1, 1), (3,), (), (7, 4, 1, 1, 1)),
    ),
    "further_tensor": _each(lambda name: _with_tensors({name: _sized(2)}), ("x" * 5000, "../../x", "a\nb")),
    "wrong_type": _each(lambda value: _with_tensors({_HEAD: value}), ("text", 5, None, [1.0])),
    "odd_dtype": _each(lambda name: _with_tensors({_HEAD: _of_type(name)}), ("complex64", "bool", "int8")),
    "not_finite": [lambda: _with_tensors({_HEAD: _sized(3, 4, 1, 1, 1) / 0})],
}  # fmt: skip
#: Values of the other entries; each of them may be of no interest to a command, which then need not look at it.
ENTRIES: Mapping[str, Sequence[Any]] = {
    "trainer_name": [5, None, "", "base", "os", "print", "../../x", "a.b", "x" * 5000, "a\0b", "a\x1b[31mb", ["x"], {}],
    "init_args": [5, None, [], "abc", {"configuration": 5}, {"configuration": ["3d_fullres"]}, {"plans": 5},
        {"plans": []}],
    "inference_allowed_mirroring_axes": ["abc", 5, [7], [-1], [1.5], ["0"], [0, 0], [[0]], {}, list(range(1000)),
        [None]],
    "num_classes": ["x", -1, 10**9, 1.5, None],
    "input_channels": ["x", -1, 10**9, 1.5, None],
    "labels": [5, [], "abc", {"liver": "x"}, {"background": 0, "liver": 10**9}, {5: 5}],
    "architecture": [5, {}, {"network_class_name": WALKS[0]}, {"network_class_name": 5, "arch_kwargs": 5}],
}  # fmt: skip


def _register(turn: int, name: str, contents: Sequence[Callable[[], Any]], codes: frozenset[int]) -> None:
    @kind(f"weights_{name}")
    def make() -> Iterator[Try]:
        for recipe, role in per_command(turn, "checkpoint"):
            # A training takes what fits of pretrained weights, and trains with it; one such example is enough.
            few = pick(contents, turn, 2 if recipe.command in ("train", "finetune") else 6)
            examples = tuple(_with(recipe, role, content) for content in few)
            yield Try(recipe.command, f"{recipe.name}/{role}", examples, Expect(codes, recipe.targets), seconds=80)


for _turn, (_name, _contents) in enumerate(WEIGHTS.items()):
    _register(_turn, _name, _contents, REFUSED if _name in ("no_mapping", "none") else ANY)
for _turn, (_name, _values) in enumerate(ENTRIES.items()):
    _register(
        _turn,
        f"entry_{_name}",
        [partial(fixtures.checkpoint, **{_name: value}) for value in _values],
        ANY,
    )


# Safetensors -------------------------------------------------------------------------------------------------------


def _header(tensors: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> bytes:
    content = {"__metadata__": {"nnunetv2_ext": json.dumps(metadata)}} if metadata is not None else {}
    return json.dumps({**content, **tensors}).encode()


_TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
_METADATA = {
    "format": "nnunet_v2",
    "architecture": fixtures.plans_json()["configurations"][fixtures.CONFIGURATION]["architecture"],
    "input_channels": 1,
    "num_classes": 3,
    "plans": fixtures.plans_json(),
    "configuration": fixtures.CONFIGURATION,
    "dataset_json": fixtures.dataset_json(fixtures.LABELS),
    "labels": fixtures.LABELS,
}


def _file(header: bytes, body: bytes = b"\0" * 8, length: int | None = None) -> bytes:
    return fixtures.safetensors_bytes(header, body, length)


def _whole(**changes: Any) -> bytes:
    """A good file with changed metadata."""
    tensors, body = {}, b""
    for name, tensor in fixtures.network_state().items():
        content = tensor.contiguous().numpy().tobytes()
        offsets = [len(body), len(body) + len(content)]
        tensors[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": offsets}
        body += content
    return _file(_header(tensors, {**_METADATA, **changes}), body)


def _evil_architecture() -> dict[str, Any]:
    architecture = json.loads(json.dumps(_METADATA["architecture"]))
    architecture["arch_kwargs"] |= {"nonlin": WALKS[0], "nonlin_kwargs": {"command": "touch $SENTINEL"}}
    return dict(architecture)


SAFETENSORS: Mapping[str, Sequence[Callable[[], bytes]]] = {
    "header_length": _each(
        lambda length: _file(_header({"a": _TENSOR}), length=length), (0, 1, 7, 10**6, 2**63, 2**64 - 1)
    ),
    "header_no_json": _each(
        _file, (b"", b"[]", b"5", b'{"a": 5}', b"\xff" * 9, b"{" * 100_000, b"[" * 90_000)
    ),
    "offsets": _each(
        lambda offsets: _file(_header({"a": {**_TENSOR, "data_offsets": offsets}})),
        ([0, 999], [-8, 0], [8, 0], [0, 2**63], ["a", "b"], 5, []),
    ),
    "shapes": _each(
        lambda shape: _file(_header({"a": {**_TENSOR, "shape": shape}})), ([3], [-2], [2**40], [2**63, 2**63], "x")
    ),
    "dtype": _each(
        lambda dtype: _file(_header({"a": {**_TENSOR, "dtype": dtype}})), ("OBJECT", 5, None, "F4", "")
    ),
    "metadata": _each(
        lambda metadata: _file(json.dumps({"__metadata__": metadata, "a": _TENSOR}).encode()),
        (5, [], {"nnunetv2_ext": "{"}, {"nnunetv2_ext": "5"}, {"nnunetv2_ext": "[" * 50_000}, {"nnunetv2_ext": 5}),
    ),
    "metadata_fields": [
        partial(_whole, **c)
        for c in (
            {"architecture": 5}, {"input_channels": "x"}, {"num_classes": 10**9}, {"plans": 5},
            {"plans": {"configurations": 5}},
            {"configuration": "/../../../victim"}, {"dataset_json": 5}, {"labels": 5},
            {"architecture": {"network_class_name": WALKS[0]}},
        )
    ],
    "code_in_metadata": [lambda: _whole(architecture=_evil_architecture())],
    "truncated": [lambda: _whole()[:3000], lambda: _whole()[:20], lambda: _whole()[:4], lambda: b""],
}  # fmt: skip


def _safetensors(name: str, contents: Sequence[Callable[[], bytes]]) -> None:
    @kind(f"safetensors_{name}")
    def make() -> Iterator[Try]:
        for each in ("import_file", "train", "finetune"):
            yield Try(
                RECIPES[each].command,
                each,
                tuple(_in_place_of_weights(RECIPES[each],
                    content) for content in contents[: 2 if each == "train" else None]),
                # Metadata that a training has no use for, it need not look at.
                Expect(ANY if name == "metadata_fields" else REFUSED, RECIPES[each].targets),
                seconds=80,
            )  # fmt: skip


def _in_place_of_weights(recipe: Recipe, content: Callable[[], bytes]) -> SetUp:
    def set_up(box: Sandbox) -> Sequence[str]:
        argv = recipe(box)
        weights = box.inputs / "w" / "net.safetensors"
        weights.parent.mkdir()
        weights.write_bytes(content().replace(b"$SENTINEL", str(box.sentinel).encode()))
        old = (str(box.inputs / "net.pth"), str(box.inputs / "model"))
        return [str(weights) if word in old else word for word in argv]

    return set_up


for _name, _files in SAFETENSORS.items():
    _safetensors(_name, _files)


# Bundles of MONAI --------------------------------------------------------------------------------------------------

_EXPRESSION = "$__import__('os').system('touch SENTINEL')"
BUNDLE_FILES = {
    "metadata.json": {"version": _EXPRESSION, "_target_": "os.system", "command": "touch SENTINEL",
        "network_data_format": 5},
    "inference.json": {
        "imports": ["$import os", _EXPRESSION],
        "run": [_EXPRESSION],
        "network_def": {"_target_": "os.system", "command": "touch SENTINEL"},
        "preprocessing": {"_target_": "subprocess.getoutput", "cmd": "touch SENTINEL"},
    },
    "logging.conf": "[handlers]\nkeys=__import__('os').system('touch SENTINEL')\n",
}  # fmt: skip


def _monai_unet() -> dict[str, Any]:
    """Weights of a MONAI UNet of two levels."""
    shapes: dict[str, tuple[int, ...]] = {}
    for prefix, inputs, features in (("model.0.", 1, 4), ("model.1.submodule.", 4, 8)):
        for unit, channels in ((0, inputs), (1, features)):
            name = f"{prefix}conv.unit{unit}."
            shapes |= {f"{name}conv.weight": (features, channels, 3, 3, 3), f"{name}conv.bias": (features,)}
            shapes |= {f"{name}adn.N.{part}": (features,) for part in ("weight", "bias", "running_mean", "running_var")}
            shapes |= {f"{name}adn.N.num_batches_tracked": (), f"{name}adn.A.weight": (1,)}
        edge = 3 if inputs == 1 else 1
        shapes |= {
            f"{prefix}residual.weight": (features, inputs, edge, edge, edge),
            f"{prefix}residual.bias": (features,),
        }
    shapes |= {"model.2.0.conv.weight": (12, 2, 3, 3, 3), "model.2.0.conv.bias": (2,)}
    shapes |= {f"model.2.0.adn.N.{part}": (2,) for part in ("weight", "bias", "running_mean", "running_var")}
    shapes |= {"model.2.0.adn.N.num_batches_tracked": (), "model.2.0.adn.A.weight": (1,)}
    shapes |= {"model.2.1.conv.unit0.conv.weight": (2, 2, 3, 3, 3), "model.2.1.conv.unit0.conv.bias": (2,)}
    return {name: _sized(*shape) for name, shape in shapes.items()}


def _bundle(recipe: Recipe, program: bool = False) -> SetUp:
    def set_up(box: Sandbox) -> Sequence[str]:
        argv = recipe(box)
        bundle = box.inputs / "bundle"
        (bundle / "models").mkdir(parents=True)
        (bundle / "configs").mkdir()
        for name, content in BUNDLE_FILES.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (bundle / "configs" / name).write_text(text.replace("SENTINEL", str(box.sentinel)))
        weights = bundle / "models" / ("model.ts" if program else "model.pt")
        if program:
            weights.write_bytes(b"PK\x03\x04" + struct.pack("<I", 5) * 100)
        else:
            _save(weights, {"model": _monai_unet()})
        old = (str(box.inputs / "net.pth"), str(box.inputs / "model"))
        return [str(weights) if word in old else word for word in argv]

    return set_up


@kind("bundle_with_code_in_configs")
def bundles() -> Iterator[Try]:
    """Expressions and targets in the JSON files of a bundle are never evaluated."""
    for each in ("import_file", "train", "finetune"):
        yield Try(
            RECIPES[each].command, each, (_bundle(RECIPES[each]),), Expect(ANY, RECIPES[each].targets), seconds=80
        )


@kind("bundle_torchscript")
def torchscript() -> Iterator[Try]:
    """A damaged TorchScript program in the place of weights."""
    for each in ("import_file", "train", "finetune"):
        yield Try(
            RECIPES[each].command, each, (_bundle(RECIPES[each], program=True),), Expect(REFUSED, RECIPES[each].targets)
        )


_PROFILE = {
    "orientation": "RAS", "spacing": [2.0, 1.5, 1.5], "intensity": [{"name": "clip_and_scale", "from": [-57.0,
        164.0], "to": [0.0, 1.0]}],
    "window_size": [8, 8, 8], "overlap": 0.5, "blend": "constant", "padding": "constant",
        "inversion": "linear_probabilities",
}  # fmt: skip


def _profile(changes: Any) -> SetUp:
    def set_up(box: Sandbox) -> Sequence[str]:
        argv = RECIPES["predict"](box)
        content = {**_PROFILE, **changes} if isinstance(changes, dict) else changes
        fixtures.write_json(box.inputs / "model" / "preprocessing_profile.json", content)
        return argv

    return set_up


@kind("bundle_profile")
def profiles() -> Iterator[Try]:
    """The record of a bundle's inference in an imported model folder."""
    values: Mapping[str, Sequence[Any]] = {
        "whole": [5, [], "abc", None],
        "orientation": [5, "XYZ", "", "RASRAS"],
        "spacing": [5, "abc", [0, 0, 0], [-1, 1, 1], [1], [1e-9] * 3],
        "intensity": [5, [5], ["x"], [{"name": 5}], [{"name": "scale", "minimum": "x", "maximum": 1}], [{}]],
        "window_size": [5, "abc", [0, 0, 0], [-8, 8, 8], [8], [10**9] * 3, [8.5] * 3],
        "overlap": ["x", None, -1, 1, [0.5]],
        "blend": [5, [], {}],
    }
    for name, wrong in values.items():
        examples = tuple(_profile(value if name == "whole" else {name: value}) for value in wrong)
        yield Try("predict", name, examples, Expect(says="preprocessing_profile|Expected"))
