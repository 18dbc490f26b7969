"""Plans that name code: dotted paths to `os.system` in every place where nnU-Net imports what plans name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from attacks.fixtures import CONFIGURATION
from attacks.recipes import Recipe, per_command
from attacks.sandbox import Sandbox
from attacks.table import ANY, REFUSED, Expect, SetUp, Try, kind, pick

Change = Callable[[dict[str, Any], str], None]

#: Ways from an allowed package to what executes. ``pydoc.locate`` walks through attributes.
WALKS = (
    "torch.nn.parallel.distributed.os.system",
    "torch.nn.modules.module.torch.os.system",
    "torch.nn.parallel.data_parallel.torch.os.popen",
    "dynamic_network_architectures.architectures.unet.torch.os.system",
    "nnunetv2_ext.architectures.stunet.torch.os.system",
    "monai.networks.nets.unet.torch.os.system",
    "os.system",
    "subprocess.getoutput",
    "builtins.exec",
)
#: Objects of an allowed package that are not of the kind that is expected.
WRONG_KINDS = (
    "torch.nn.functional.relu",
    "torch.nn.Module",
    "torch.nn",
    "torch.nn.parallel.DistributedDataParallel",
    "torch.nn.init.normal_",
    "dynamic_network_architectures",
    "nnunetv2_ext.architectures.stunet.STUNET_SIZES",
    "torch.nn.Linear.__init__.__globals__",
    "torch.nn.",
    "torch.nn..Module",
    "",
)


def with_changed_plans(recipe: Recipe, role: str, change: Change, walk: str) -> SetUp:
    """A recipe whose plans name an object somewhere."""

    def set_up(box: Sandbox) -> Sequence[str]:
        argv = recipe(box)
        path = recipe.file(box, role)
        plans = json.loads(path.read_text())
        change(plans, walk)
        path.write_text(json.dumps(plans).replace("PAYLOAD", box.payload))
        return argv

    return set_up


def _architecture(plans: dict[str, Any]) -> dict[str, Any]:
    architecture: dict[str, Any] = plans["configurations"][CONFIGURATION]["architecture"]
    return architecture


def _network_class(plans: dict[str, Any], walk: str) -> None:
    _architecture(plans)["network_class_name"] = walk
    _architecture(plans)["arch_kwargs"] |= {"command": "PAYLOAD"}


def _network_class_without_arguments(plans: dict[str, Any], walk: str) -> None:
    _architecture(plans).update(network_class_name=walk, arch_kwargs={"command": "PAYLOAD"}, _kw_requires_import=[])


def _argument(name: str, keywords: str) -> Change:
    def change(plans: dict[str, Any], walk: str) -> None:
        _architecture(plans)["arch_kwargs"] |= {name: walk, keywords: {"command": "PAYLOAD"}}

    return change


def _conv_op(plans: dict[str, Any], walk: str) -> None:
    _architecture(plans)["arch_kwargs"]["conv_op"] = walk


def _further_import(plans: dict[str, Any], walk: str) -> None:
    architecture = _architecture(plans)
    architecture["_kw_requires_import"] = [*architecture["_kw_requires_import"], "block"]
    architecture["arch_kwargs"]["block"] = walk


def _import_of_a_number(plans: dict[str, Any], walk: str) -> None:
    _architecture(plans)["_kw_requires_import"] = ["n_stages", "kernel_sizes", "missing", "nonlin"]
    _architecture(plans)["arch_kwargs"]["nonlin"] = walk


def _unimported_argument(plans: dict[str, Any], walk: str) -> None:
    """Not listed as an import: the network then gets a string where it expects a class."""
    _architecture(plans)["_kw_requires_import"] = []
    _architecture(plans)["arch_kwargs"]["nonlin"] = walk


def _of_configuration(key: str, in_list: bool = False) -> Change:
    def change(plans: dict[str, Any], walk: str) -> None:
        plans["configurations"][CONFIGURATION][key] = [walk] if in_list else walk

    return change


def _of_plans(key: str) -> Change:
    def change(plans: dict[str, Any], walk: str) -> None:
        plans[key] = walk

    return change


def _inherited(plans: dict[str, Any], walk: str) -> None:
    """The payload is in a configuration that the trained one inherits from."""
    configurations = plans["configurations"]
    configurations["base"] = configurations[CONFIGURATION]
    configurations["base"]["architecture"]["arch_kwargs"] |= {"nonlin": walk, "nonlin_kwargs": {"command": "PAYLOAD"}}
    configurations[CONFIGURATION] = {"inherits_from": "base"}


PLACES: Mapping[str, Change] = {
    "network_class": _network_class,
    "network_class_alone": _network_class_without_arguments,
    "nonlin": _argument("nonlin", "nonlin_kwargs"),
    "norm_op": _argument("norm_op", "norm_op_kwargs"),
    "dropout_op": _argument("dropout_op", "dropout_op_kwargs"),
    "conv_op": _conv_op,
    "further_import": _further_import,
    "import_of_a_number": _import_of_a_number,
    "unimported_argument": _unimported_argument,
    "inherited": _inherited,
}
#: nnU-Net looks these up by name in its own folders, so that a command that has no use for one may pass it over.
NAMES: Mapping[str, Change] = {
    "normalization": _of_configuration("normalization_schemes", in_list=True),
    "preprocessor": _of_configuration("preprocessor_name"),
    "resampling_data": _of_configuration("resampling_fn_data"),
    "resampling_seg": _of_configuration("resampling_fn_seg"),
    "resampling_probabilities": _of_configuration("resampling_fn_probabilities"),
    "label_manager": _of_plans("label_manager"),
    "reader_writer": _of_plans("image_reader_writer"),
    "planner": _of_plans("experiment_planner_used"),
}
#: What nnU-Net's lookup finds in its own modules under such names: libraries and functions that they import.
FOUND_BY_NAME = ("os", "shutil", "np", "torch", "save_json", "nnUNetTrainer", "../x", "a.b", "", "x" * 5000, "é\u0000")


def _register(
    turn: int, place: str, change: Change, walks: Sequence[str], what: str, codes: frozenset[int], number: int = 2
) -> None:
    @kind(f"plans_{what}_{place}")
    def make() -> Iterator[Try]:
        for place_turn, (recipe, role) in enumerate(per_command(turn, "plans")):
            examples = tuple(
                with_changed_plans(recipe, role, change, walk) for walk in pick(walks, turn + place_turn, number)
            )
            yield Try(recipe.command, f"{recipe.name}/{role}", examples, Expect(codes, recipe.targets))


for _turn, (_place, _change) in enumerate(PLACES.items()):
    _register(_turn, _place, _change, WALKS, "walk", REFUSED)
for _turn, _place in enumerate(("network_class", "nonlin", "norm_op", "conv_op")):
    _register(_turn, _place, PLACES[_place], WRONG_KINDS, "wrong_kind", REFUSED, number=3)
for _turn, (_place, _change) in enumerate(NAMES.items()):
    _register(_turn, _place, _change, (WALKS[0], *FOUND_BY_NAME), "name", ANY)


def _reader_of_dataset(recipe: Recipe, role: str, name: str) -> SetUp:
    def set_up(box: Sandbox) -> Sequence[str]:
        argv = recipe(box)
        path = recipe.file(box, role)
        path.write_text(json.dumps({**json.loads(path.read_text()), "overwrite_image_reader_writer": name}))
        return argv

    return set_up


@kind("dataset_json_reader_writer")
def reader_of_dataset() -> Iterator[Try]:
    """A dataset.json names the class that reads its images."""
    for turn, (each, role) in enumerate(per_command(0, "dataset")):
        names = pick((WALKS[0], *FOUND_BY_NAME), turn, 4)
        examples = tuple(_reader_of_dataset(each, role, name) for name in names)
        yield Try(each.command, f"{each.name}/{role}", examples, Expect(ANY, each.targets))
