"""A server is given a hostile model: it reads models as predictions do, in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator

from attacks.kinds.json_files import NO_JSON, with_spoiled
from attacks.kinds.pickles import calling_system, saved, with_content
from attacks.kinds.plans import PLACES, WALKS, with_changed_plans
from attacks.recipes import RECIPES
from attacks.table import REFUSED, Expect, Try, kind


@kind("served_model")
def served_models() -> Iterator[Try]:
    """Plans and a checkpoint that carry a program, and a dataset.json that is none."""
    recipe = RECIPES["serve"]
    for name, examples in {
        "plans": tuple(with_changed_plans(recipe, "served_plans", PLACES["nonlin"], walk) for walk in WALKS[:2]),
        "checkpoint": (with_content(recipe, "served_checkpoint", lambda box: saved(calling_system(box))),),
        "dataset": (with_spoiled(recipe, "served_dataset", NO_JSON["truncated"]),),
    }.items():
        yield Try("serve", name, examples, Expect(REFUSED))
