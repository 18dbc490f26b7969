"""Which weights of a network belong to its encoder, to its heads, and to which stage."""

from __future__ import annotations

import re
from typing import Literal

from torch import nn

from nnunetv2_ext.architectures.families import FAMILIES, NetworkFamily, family_of
from nnunetv2_ext.utilities.errors import UserError

Part = Literal["none", "encoder", "backbone"]
"""Nothing, the contracting path, or everything but the segmentation heads."""


def family_of_network(network: nn.Module) -> NetworkFamily:
    """The family that a network's class, or the nearest of those that it derives from, belongs to."""
    paths = [f"{base.__module__}.{base.__qualname__}" for base in type(network).__mro__]
    # Sizes of one class, of which the first is taken, do not differ in what their parts are called.
    known = [next((family for family in FAMILIES if family.class_path == path), None) for path in paths]
    return next((family for family in known if family is not None), family_of(paths[0]))


def belongs_to(name: str, part: Part, family: NetworkFamily) -> bool:
    """Whether a weight or module of this name is in a part of the networks of a family."""
    if part == "none" or f"{name}.".startswith(family.heads):
        return False
    return part == "backbone" or re.match(family.encoder, f"{name}.") is not None


def check_part(network: nn.Module, part: Part) -> None:
    """Refuses a part that a network does not have, or that is all of it.

    Raises:
        UserError: It does not, or it is.
    """
    family = family_of_network(network)
    inside = [belongs_to(name, part, family) for name, _ in network.named_parameters()]
    if part != "none" and (not any(inside) or all(inside)):
        raise UserError(
            f"Expected a network whose {part} is known apart from the rest, but {type(network).__name__} has "
            f"{'no weights' if not any(inside) else 'all its weights'} there; leave the {part} as it is."
        )


def stage_depths(network: nn.Module) -> dict[str, int]:
    """Name of each parameter to the number of stages between it and the heads, which have 0."""
    family = family_of_network(network)

    def place(name: str) -> tuple[int, int]:
        if name.startswith(family.heads):
            return (-1, 0)
        for number, pattern in enumerate(family.stages):
            if match := re.match(pattern, name):
                return (number, -int(match[1]) if match.re.groups else 0)
        return (len(family.stages), 0)

    places = {name: place(name) for name, _ in network.named_parameters()}
    depth = {found: number for number, found in enumerate(sorted({(-1, 0), *places.values()}))}
    return {name: depth[found] for name, found in places.items()}
