"""From a dotted path that a file names to the class it means."""

from __future__ import annotations

import importlib
import inspect
import os
import re
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from nnunetv2_ext.utilities.errors import UserError

#: Packages of networks and of what they are built from.
PACKAGES = ("nnunetv2_ext.architectures", "dynamic_network_architectures", "monai.networks.nets", "torch.nn")

PACKAGES_VARIABLE = "nnUNetv2_ext_packages"
"""Environment variable; packages or modules of the user's own networks, with commas between them."""

PACKAGES_GROUP = "nnunetv2_ext.packages"
"""Entry points of an installed distribution whose values are packages of networks."""

_CLASS_PATH = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\.(?P<name>\w+)", re.ASCII)


def network_packages() -> tuple[str, ...]:
    """`PACKAGES`, and those that the user has admitted: by a variable, or by installing what names them.

    Raises:
        UserError: One of these is not the name of a package.
    """
    named = [name.strip() for name in os.environ.get(PACKAGES_VARIABLE, "").split(",")]
    admitted = [name for name in (*named, *_installed_packages()) if name]
    for name in admitted:
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name, re.ASCII):
            raise UserError(
                f"Expected names of packages with commas between them in {PACKAGES_VARIABLE}, or in entry points of "
                f"the group {PACKAGES_GROUP}, but found {name!r:.200}; correct it."
            )
    return (*PACKAGES, *admitted)


@cache
def _installed_packages() -> tuple[str, ...]:
    return tuple(point.value for point in entry_points(group=PACKAGES_GROUP))


def resolve_class(path: object, base: type) -> Any:
    """The class at a dotted path, which lies in one of `network_packages` and is defined in one of them.

    The path leads through packages and modules that can be imported under their own names. What a module merely imports
    (``torch.nn.parallel.distributed.os``) is out of reach: nnU-Net locates whatever plans name and calls it with
    arguments from the same file, so that anything else could be executed.

    Args:
        path: As it stands in the file, such as ``"torch.nn.modules.conv.Conv3d"``.
        base: What the class has to derive from.

    Raises:
        UserError: The path leads elsewhere, to nothing, or to something else.
    """
    found: Any = None
    packages = network_packages()
    match = _CLASS_PATH.fullmatch(path) if isinstance(path, str) else None
    if match and _lies_in(match["module"], packages):
        try:
            found = vars(importlib.import_module(match["module"])).get(match["name"])
        except ImportError as error:
            raise UserError(
                f"Expected a network class at {path!r:.200}, but it cannot be imported ({error})."
            ) from None
    if not is_class_of(found, base, packages):
        raise UserError(
            f"Expected a network class ({base.__module__}.{base.__qualname__}) from {', '.join(packages)}, but found "
            f"{path!r:.200}; use plans from a source you trust, correct the class path, or admit a package of your own "
            f"with {PACKAGES_VARIABLE}."
        )
    return found


def is_class_of(found: object, base: type, packages: tuple[str, ...]) -> bool:
    """Whether something is a class that derives from ``base``, can have instances and is defined in a package."""
    return (
        isinstance(found, type)
        and issubclass(found, base)
        and not inspect.isabstract(found)
        and _lies_in(found.__module__, packages)
    )


def _lies_in(module: str, packages: tuple[str, ...]) -> bool:
    return f"{module}.".startswith(tuple(f"{package}." for package in packages))
