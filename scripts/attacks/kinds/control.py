"""Good files, which have to be taken: else everything hostile would be refused for the wrong reason."""

from __future__ import annotations

from collections.abc import Iterator

from attacks.recipes import RECIPES
from attacks.table import ACCEPTED, Expect, Try, kind


@kind("good_files")
def good_files() -> Iterator[Try]:
    """Every recipe as it is."""
    for each in RECIPES.values():
        yield Try(each.command, each.name, (each,), Expect(ACCEPTED, each.targets), seconds=120)
