"""From a dotted path that a file names to the class it means."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

from nnunetv2_ext.utilities.errors import UserError

#: Packages of networks and of what they are built from.
PACKAGES = ("nnunetv2_ext.architectures", "dynamic_network_architectures", "monai.networks.nets", "torch.nn")

_CLASS_PATH = re.compile(
    rf"(?P<module>(?:{'|'.join(map(re.escape, PACKAGES))})(?:\.[A-Za-z_]\w*)*)\.(?P<name>\w+)", re.A
)


def resolve_class(path: object, base: type) -> Any:
    """The class at a dotted path, which lies in one of `PACKAGES` and is defined in one of them.

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
    if match := _CLASS_PATH.fullmatch(path) if isinstance(path, str) else None:
        try:
            found = vars(importlib.import_module(match["module"])).get(match["name"])
        except ImportError as error:
            raise UserError(
                f"Expected a network class at {path!r:.200}, but it cannot be imported ({error})."
            ) from None
    if not is_class_of(found, base, PACKAGES):
        raise UserError(
            f"Expected a network class ({base.__module__}.{base.__qualname__}) from {', '.join(PACKAGES)}, but found "
            f"{path!r:.200}; use plans from a source you trust, or correct the class path."
        )
    return found


def is_class_of(found: object, base: type, packages: tuple[str, ...]) -> bool:
    """Whether something is a class that derives from ``base``, can have instances and is defined in a package."""
    return (
        isinstance(found, type)
        and issubclass(found, base)
        and not inspect.isabstract(found)
        and f"{found.__module__}.".startswith(tuple(f"{package}." for package in packages))
    )
