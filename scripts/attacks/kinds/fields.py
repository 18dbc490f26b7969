"""JSON of the right form with entries of the wrong type or beyond all measure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attacks.fixtures import CONFIGURATION
from attacks.recipes import RECIPES, Recipe, per_command
from attacks.sandbox import Sandbox
from attacks.table import ANY, REFUSED, Expect, SetUp, Try, kind, pick

NAN = float("nan")
REMOVED = object()
_MANY = 100_000
#: Entries of dataset.json.
DATASET: Mapping[str, Sequence[Any]] = {
    "labels": [
        5, "abc", [], None, {}, {"liver": 1}, {"background": 0}, {"background": 5, "liver": 1}, {"background": 0,
        "liver": "x"},
        {"background": 0, "liver": 1, "spleen": 1}, {"background": 0, "liver": -1, "spleen": 2}, {"background": 0,
        "liver": 1.5},
        {"background": 0, "liver": 10**9, "spleen": 2}, {"background": 0, "liver": 2**63, "spleen": 2},
        {"background": 0, "liver": NAN}, {"background": 0, "liver": True}, {"background": 0, "liver": None},
        {"background": 0, "liver": []}, {"background": 0, "liver": [[1]]}, {"background": 0, "liver": {"a": 1}},
        {"background": 0, "liver": [1, "x"]}, {"background": [0], "liver": 1}, {"background": 0, "ignore": 1,
        "liver": 2},
        {"background": 0, **{f"c{number}": number + 1 for number in range(_MANY)}}, REMOVED,
    ],
    "channel_names": [5, "CT", [], {}, None, {"0": 5}, {"a": "CT"}, {"7": "CT"}, {"0": {"x": 1}}, {"0": "CT",
        "1": "CT"}, {"-1": "CT"}, REMOVED],
    "regions_class_order": [5, "abc", [], [99], ["x"], [1, 1], None, [1, 2, 3, 4, 5], {}],
    "numTraining": ["x", -1, None, 10**9, NAN, {}],
    "partial_labels": [
        5, [], "abc", {}, None, {"A": 5}, {"A": {}}, {"A": {"classes": 5, "cases": []}},
        {"A": {"classes": ["nothing"], "cases": ["bad"]}},
        {"A": {"classes": ["liver"], "cases": 5}}, {"A": {"classes": [5], "cases": [5]}},
        {"A": {"classes": ["liver"], "cases": ["bad", "bad"]}},
        {"A": {"classes": ["liver"], "cases": ["bad"], "exceptions": 5}}, {"A": {"classes": [["liver"]],
        "cases": [["bad"]]}},
    ],
    "label_tree": [
        5, [], "abc", {}, {"background": 5}, {"background": {}, "liver": {}}, {"background": {}, "body": {"body": {}}},
        {"background": {}, "liver": {"spleen": {"liver": {}}}},
    ],
}  # fmt: skip
#: Entries of plans.
PLANS: Mapping[str, Sequence[Any]] = {
    "configurations": [5, [], {}, None, {"3d_fullres": 5}, {"3d_fullres": {}}, {"3d_fullres": None}, {"": {}}],
    "inherits_from": ["3d_fullres", "nothing", 5, ["3d_fullres"], "", {}],
    "patch_size": ["abc", 5, [], None, [0, 0, 0], [-8, 8, 8], [10**9] * 3, [8], [8.5] * 3, ["8"] * 3, [[8]], [7, 7,
        7], [8] * 9, [NAN] * 3],
    "spacing": ["abc", 5, [], [0, 1, 1], [-1, 1, 1], [NAN] * 3, [1e-12] * 3, [1e9] * 3, ["1"] * 3, [1], [True] * 3,
        None],
    "batch_size": ["x", 0, -1, 10**9, 1.5, None, [2], NAN],
    "normalization_schemes": [5, "CTNormalization", [], ["nothing"], [5], [None], ["CTNormalization"] * 9, {}],
    "use_mask_for_norm": [5, "x", [], [5], None, [True] * 9],
    "resampling_fn_data_kwargs": [5, "x", [], None, {"nothing": 1}, {"order": "x", "is_seg": False}],
    "data_identifier": [5, None, [], REMOVED],
    "median_image_size_in_voxels": [5, "x", [], [NAN] * 3, [-1] * 3, None],
    "architecture": [5, None, [], {}, "x", REMOVED],
    "network_class_name": [5, None, [], {}, REMOVED],
    "arch_kwargs": [5, None, [], {}, "x", {"nothing": 1}],
    "_kw_requires_import": [5, None, "x", {}, [5], [["nonlin"]], REMOVED],
    "n_stages": [10**9, -1, 0, "x", 1.5, None, [2], True],
    "features_per_stage": [5, "x", [], [10**9, 10**9], [0, 0], [-4, 8], [4], ["4", "8"], [4] * 50],
    "strides": [5, "x", [], [[0, 0, 0]] * 2, [[10**9] * 3] * 2, [[-1] * 3] * 2, [[1], [2]], [[1.5] * 3] * 2],
    "kernel_sizes": [5, "x", [], [[0, 0, 0]] * 2, [[-3] * 3] * 2, [[10**5] * 3] * 2, [[2, 2, 2]] * 2],
    "n_conv_per_stage": [5, "x", [], [10**7, 1], [-1, 1], [0, 0], ["1", "1"]],
    "transpose_forward": [5, "abc", [], [0, 0, 0], [0, 1, 2, 3], [2, 1], [0, 1, 9], [-1, 0, 1], None],
    "transpose_backward": [5, "abc", [], [0, 0, 0], [2, 0, 1], None],
    "foreground_intensity_properties_per_channel": [
        5, [], {}, {"0": 5}, {"0": {}}, {"a": {}}, None, {"0": {"mean": "x", "std": 1, "percentile_00_5": 0,
        "percentile_99_5": 1}},
        {"0": {"mean": NAN, "std": 0, "percentile_00_5": 5, "percentile_99_5": -5}},
    ],
    "original_median_spacing_after_transp": [5, [], "x", [0, 0, 0], [NAN] * 3, None],
    "dataset_name": [5, None, [], "", {}],
}  # fmt: skip
_OF_CONFIGURATION = {
    "inherits_from", "patch_size", "spacing", "batch_size", "normalization_schemes", "use_mask_for_norm",
    "resampling_fn_data_kwargs",
    "data_identifier", "median_image_size_in_voxels", "architecture",
}  # fmt: skip
_OF_ARCHITECTURE = {"network_class_name", "arch_kwargs", "_kw_requires_import"}
_OF_ARGUMENTS = {"n_stages", "features_per_stage", "strides", "kernel_sizes", "n_conv_per_stage"}
#: Entries of label orders.
ORDER: Mapping[str, Sequence[Any]] = {
    "labels": [value for value in DATASET["labels"] if not (isinstance(value, dict) and "background" in value)]
    + [{"liver": 10**9, "spleen": 2}, {"liver": 0}, {"liver": -5}, {"liver": 1.5}, {"liver": NAN},
        {"liver": [1] * _MANY}, {"": 1}, {"liver": "1"}],
    "aliases": [5, [], {"liver": 5}, {"nothing": ["x"]}, {"liver": ["spleen"]}, {"liver": [5]}],
    "left_right_pairs": [5, "x", [5], [["liver"]], [["a", "b"]], [["liver", "liver"]]],
    "regions": [5, [], {"r": 5}, {"r": ["nothing"]}, {"liver": ["spleen"]}, {"r": []}],
    "ignore_label": ["x", -1, 1, 1.5, 10**12, []],
    "colors": [5, [], {"liver": 5}, {"liver": [300, 0, 0]}, {"liver": ["x", "y", "z"]}, {"nothing": [1, 2, 3]}],
    "sources": [5, [], {"a": 5}, {"a": ["nothing"]}],
    "name": [5, None, [], "../../x", ""],
    "description": [5, [], {}],
    "nothing": [5],
}  # fmt: skip
TREE = [
    5, {}, {"a": 5}, {"a": {"a": {}}}, {"a": None}, {"": {}}, {"a": {"": {}}}, {"background": {},
    "x" * 5000: {"y": {}, "z": {}}},
    {"background": {}, "a\u0000b": {"y": {}, "z": {}}}, {"background": {}, "<script>": {"y": {}, "z": {}}},
    {"background": {}, "wide": {f"n{number}": {} for number in range(_MANY)}}, {"background": {"a": {}, "b": {}}},
]  # fmt: skip
EXCEPTIONS = [
    {"Tiny/good": 5}, {"Tiny/good": "Tiny/spleen"}, {"Tiny/good": [5]}, {"Tiny/nothing": ["Tiny/spleen"]},
    {"good": ["spleen"]},
    {"Tiny/good": []}, {"Nothing/good": ["x"]}, {"": []}, {"Tiny/good": ["Tiny/spleen"] * _MANY},
]  # fmt: skip
_ENTRY = {"image": "imagesTr/good_0000.nii.gz", "label": "labelsTr/good.nii.gz"}
DATALIST: Mapping[str, Sequence[Any]] = {
    "training": [
        5, "abc", {}, None, [5], [None], [[]], [{}], [{"image": 5}], [{"image": []}], [{**_ENTRY, "fold": "x"}],
        [{**_ENTRY, "fold": -5}],
        [{**_ENTRY, "fold": 1.5}], [{**_ENTRY, "fold": 10**9}], [{**_ENTRY, "label": 5}], [{**_ENTRY,
        "label": ["a"]}], [_ENTRY, _ENTRY],
        [{**_ENTRY, "image": "nothing.nii.gz"}], [{**_ENTRY, "image": "a\u0000b"}], [{**_ENTRY, "image": "x" * 5000}],
        [{**_ENTRY, "image": ["imagesTr/good_0000.nii.gz"] * 1000}], [{**_ENTRY, "image": "."}], [{**_ENTRY,
        "image": ""}],
    ],
    "labels": [5, [], "x", {}, {"a": "liver"}, {"0": 5}, {"1": ["x"]}, {"-1": "liver"}, {"1": "liver",
        "01": "spleen"}, {"1": None}, {"1" * 5000: "x"}],
    "test": [5, "abc", [5], [{}], [{"image": 5}]],
    "validation": [5, "abc", [5], [{}]],
    "description": [5, []],
}  # fmt: skip
SPLITS = [
    5,
    {},
    "abc",
    [],
    [5],
    [[]],
    [{}],
    [{"train": 5, "val": 5}],
    [{"train": ["nothing"], "val": ["nobody"]}],
    [{"train": [], "val": []}],
]
FINGERPRINT: Mapping[str, Sequence[Any]] = {
    "spacings": [5, [], "x", [5], [[]], [[0, 0, 0]], [[NAN] * 3], [["x"] * 3], [[1e-12] * 3], REMOVED],
    "shapes_after_crop": [5, [], "x", [5], [[]], [[0, 0, 0]], [[-1] * 3], [[10**9] * 3], [["x"] * 3], REMOVED],
    "foreground_intensity_properties_per_channel": [*PLANS["foreground_intensity_properties_per_channel"], REMOVED],
}  # fmt: skip


def _edited(recipe: Recipe, role: str, field: str, value: Any) -> SetUp:
    def set_up(box: Sandbox) -> Sequence[str]:
        argv = recipe(box)
        path = recipe.file(box, role)
        content = json.loads(path.read_text())
        place = content
        if role.rstrip("2") == "plans" and field in _OF_CONFIGURATION | _OF_ARCHITECTURE | _OF_ARGUMENTS:
            place = content["configurations"][CONFIGURATION]
        if field in _OF_ARCHITECTURE | _OF_ARGUMENTS:
            place = place["architecture"]
        if field in _OF_ARGUMENTS:
            place = place["arch_kwargs"]
        if value is REMOVED:
            place.pop(field, None)
        else:
            place[field] = value
        path.write_text(json.dumps(content))
        return argv

    return set_up


def _replaced(recipe: Recipe, role: str, value: Any) -> SetUp:
    def set_up(box: Sandbox) -> Sequence[str]:
        argv = recipe(box)
        recipe.file(box, role).write_text(json.dumps(value))
        return argv

    return set_up


def _of_role(role: str, fields: Mapping[str, Sequence[Any]], number: int = 2) -> None:
    for turn, (field, values) in enumerate(fields.items()):

        @kind(f"field_{role}_{field.strip('_')}")
        def make(turn: int = turn, field: str = field, values: Sequence[Any] = values) -> Iterator[Try]:
            for command_turn, (recipe, place) in enumerate(per_command(turn, role)):
                examples = tuple(
                    _edited(recipe, place, field, value) for value in pick(values, turn + command_turn, number)
                )
                expect = Expect(ANY, recipe.targets)
                yield Try(recipe.command, f"{recipe.name}/{place}", examples, expect, seconds=60)


_of_role("dataset", DATASET)
_of_role("plans", PLANS)
_of_role("order", ORDER, number=3)
_of_role("datalist", DATALIST, number=12)
_of_role("fingerprint", FINGERPRINT, number=6)


def _whole(role: str, values: Sequence[Any], codes: frozenset[int]) -> None:
    @kind(f"field_{role}")
    def make() -> Iterator[Try]:
        for recipe, place in per_command(0, role):
            examples = tuple(_replaced(recipe, place, value) for value in values)
            yield Try(recipe.command, f"{recipe.name}/{place}", examples, Expect(codes, recipe.targets))


_whole("tree", TREE, ANY)
_whole("exceptions", EXCEPTIONS, ANY)
_whole("splits", SPLITS, ANY)

TEXTS: Mapping[str, bytes] = {
    "empty": b"",
    "not_utf8": b"background\n\xff\xfe\xe4\n",
    "3000_levels": b"background\n" + b",".join(b"n%d" % number for number in range(3000)) + b"\n",
    "100000_lines": b"\n".join(b"body,n%d" % number for number in range(_MANY)),
    "twice_the_same": b"background\nliver\nliver\n",
    "its_own_parent": b"background\nliver,liver\nliver,liver,liver\n",
    "empty_parts": b"background\n,,,\n,\n",
    "null_bytes": b"background\na\0b\n\x1b[2J\n",
    "longer_than_the_other": b"background\nliver\nspleen\nx\ny\nz\n",
    "line_of_a_megabyte": b"background\n" + b"x" * (1 << 20) + b"\n",
}


@kind("field_text")
def texts() -> Iterator[Try]:
    """The two text files of SALT's layout."""
    recipe = RECIPES["convert_salt"]
    for role in ("text", "text2"):
        for name, content in TEXTS.items():

            def set_up(box: Sandbox, role: str = role, content: bytes = content) -> Sequence[str]:
                argv = recipe(box)
                recipe.file(box, role).write_bytes(content)
                return argv

            codes = REFUSED if name in ("empty", "not_utf8") and role == "text" else ANY
            yield Try(recipe.command, f"{role}/{name}", (set_up,), Expect(codes, recipe.targets))
