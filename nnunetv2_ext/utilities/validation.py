"""What a file from outside must look like, and the sentence for where it does not.

A `Shape` says what one value must be and which parts it has; each kind of file has one, beside the code that reads it.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from nnunetv2_ext.utilities.errors import UserError

_ABSENT = object()
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 60, 60


@dataclass(frozen=True)
class Shape:
    """What a value must be.

    Attributes:
        expected: The same in words, such as ``"an integer of at least 1"``.
        fits: Whether a value is of that kind, its parts aside.
        parts: Name, content and shape of each part of a value that fits.
    """

    expected: str
    fits: Callable[[Any], bool]
    parts: Callable[[Any], Iterable[tuple[Any, Any, Shape]]] = lambda value: ()


def check(content: Any, shape: Shape, where: Path | str) -> Any:
    """Returns ``content`` if it has the shape; costs one look at each part, whatever the depth.

    Raises:
        UserError: A part is something else; it is named with its place in ``where``.
    """
    waiting: deque[tuple[Any, Any, Shape]] = deque([((), content, shape)])
    while waiting:
        place, value, shape = waiting.popleft()
        if value is _ABSENT or not shape.fits(value):
            found = "no such entry" if value is _ABSENT else shown(value)
            raise UserError(
                f"Expected {shape.expected}{_written(place)} in {where}, but found {found}; correct the file or take "
                "another."
            )
        waiting.extend(((place, name), part, inner) for name, part, inner in shape.parts(value))
    return content


def shown(value: Any) -> str:
    """A value of a file, short and printable."""
    return f"a {type(value).__name__}" if hasattr(value, "shape") else _SHORT.repr(value)


def _written(place: Any) -> str:
    names: list[str] = []
    while place:
        place, name = place
        names.append(f"[{name}]" if isinstance(name, int) else "." + shown(str(name))[1:-1])
    return " as " + "".join(reversed(names)).removeprefix(".") if names else ""


# Kinds of values ---------------------------------------------------------------------------------------------------

anything = Shape("anything", lambda value: True)
flag = Shape("true or false", lambda value: isinstance(value, bool))


def number(low: float = -math.inf, high: float = math.inf) -> Shape:
    """A finite number."""
    return Shape(
        "a number" + _bounds(low, high),
        lambda value: isinstance(value, Real) and _within(value, low, high) and math.isfinite(value),
    )


def integer(low: float = -math.inf, high: float = math.inf) -> Shape:
    """A whole number."""
    return Shape(
        "an integer" + _bounds(low, high), lambda value: isinstance(value, Integral) and _within(value, low, high)
    )


def text(pattern: str = r"(?s).*", expected: str = "text") -> Shape:
    """A string that the whole of ``pattern`` matches."""
    return Shape(expected, lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None)


def choice(*values: Any) -> Shape:
    """One of a few values."""
    named = ", ".join("null" if value is None else str(value) for value in values)
    return Shape(
        f"one of {named}" if len(values) > 1 else named,
        lambda value: any(type(value) is type(one) and value == one for one in values),
    )


def either(*shapes: Shape) -> Shape:
    """What one of several shapes says; the parts are judged by the first that fits."""
    return Shape(
        " or ".join(shape.expected for shape in shapes),
        lambda value: any(shape.fits(value) for shape in shapes),
        lambda value: next(shape for shape in shapes if shape.fits(value)).parts(value),
    )


def nullable(shape: Shape) -> Shape:
    """The shape, or null."""
    return either(shape, choice(None))


def list_of(item: Shape, at_least: int = 0, at_most: float = math.inf) -> Shape:
    """A list, tuple or array."""
    return Shape(
        f"a list{_bounds(at_least or -math.inf, at_most, ' entries')} of which each is {item.expected}",
        lambda value: _is_row(value) and at_least <= len(value) <= at_most,
        lambda value: ((index, part, item) for index, part in enumerate(value)),
    )


def mapping_of(item: Shape, names: Shape = anything, at_least: int = 0, at_most: float = math.inf) -> Shape:
    """An object whose entries are all alike."""
    return Shape(
        f"an object{_bounds(at_least or -math.inf, at_most, ' entries')}",
        lambda value: isinstance(value, Mapping) and at_least <= len(value) <= at_most,
        lambda value: (entry for name in value for entry in ((name, name, names), (name, value[name], item))),
    )


def entries(shapes: Mapping[str, Shape], needed: Collection[str] = (), *, closed: bool = False) -> Shape:
    """An object whose entries have names; others are admitted unless it is ``closed``."""
    strange = Shape(f"only the entries {', '.join(shapes)}", lambda value: False)

    def parts(value: Mapping[Any, Any]) -> Iterable[tuple[Any, Any, Shape]]:
        yield from ((name, _ABSENT, shapes[name]) for name in needed if name not in value)
        yield from ((name, part, shapes[name]) for name, part in value.items() if name in shapes)
        yield from ((name, name, strange) for name in value if closed and name not in shapes)

    return Shape(f"an object with {', '.join(needed or shapes)}", lambda value: isinstance(value, Mapping), parts)


def _is_row(value: Any) -> bool:
    # An array is known by its axes: numpy is not imported for files that hold none.
    return isinstance(value, list | tuple) or getattr(value, "ndim", 0) > 0


def _within(value: Any, low: float, high: float) -> bool:
    return not isinstance(value, bool) and bool(low <= value <= high)


def _bounds(low: float, high: float, unit: str = "") -> str:
    if low == -math.inf == -high:
        return ""
    return f" ({low:g}{'' if low == high else f' to {high:g}' if high < math.inf else ' or more'}{unit})"
