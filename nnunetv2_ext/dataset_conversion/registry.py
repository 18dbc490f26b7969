"""Which datasets can be converted: every class with a name in the modules of ``datasets/``."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from functools import lru_cache

from nnunetv2_ext.dataset_conversion import datasets
from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.utilities.errors import UserError


@lru_cache(maxsize=1)
def converters() -> dict[str, type[DatasetConverter]]:
    """Name on the command line -> converter, sorted by name."""
    found: dict[str, type[DatasetConverter]] = {}
    for module_info in pkgutil.iter_modules(datasets.__path__):
        module = importlib.import_module(f"{datasets.__name__}.{module_info.name}")
        for _, member in inspect.getmembers(module, inspect.isclass):
            if (
                issubclass(member, DatasetConverter)
                and member.__module__ == module.__name__
                and hasattr(member, "name")
            ):
                found[member.name] = member
    return dict(sorted(found.items()))


def find_converter(name: str) -> type[DatasetConverter]:
    """The converter of a name.

    Raises:
        UserError: There is none.
    """
    known = converters()
    if name not in known:
        similar = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        advice = f"did you mean {' or '.join(similar)}?" if similar else f"choose one of {', '.join(known)}."
        raise UserError(f"Expected the name of a dataset, but there is no {name!r}; {advice}")
    return known[name]


def summary(converter: type[DatasetConverter]) -> str:
    """One line: the first of the docstring."""
    return (inspect.getdoc(converter) or "").splitlines()[0]


def description(converter: type[DatasetConverter]) -> str:
    """What the converter expects: its docstring, and that of the family it belongs to."""
    family = converter.__mro__[: converter.__mro__.index(DatasetConverter)]
    return "\n\n".join(inspect.cleandoc(member.__doc__) for member in family if member.__doc__)
