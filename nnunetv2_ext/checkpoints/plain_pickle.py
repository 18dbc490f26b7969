"""Pickles of plain data: an unpickler that makes numbers, text, containers and arrays of numbers, and nothing else.

Python's own (the one written in Python: its memo is a dictionary, which a high index does not inflate) without what
makes objects: names lead to the few functions below, which look at their arguments before anything is made of them.
"""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from typing import Any, ClassVar

import numpy as np

#: Of numpy's dtypes those that are numbers, as pickles name them.
_NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
_PLAIN = (str, bytes, int, float, type(None), slice, np.generic, np.ndarray)
_DEEPEST = 100
_MOST_VALUES = 5_000_000
_OPCODES: dict[int, Any] = pickle._Unpickler.dispatch
# What makes objects of any class, or sets memory aside before there is data to fill it.
_LEFT_OUT = (
    *(pickle.PERSID, pickle.BINPERSID, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.INST, pickle.OBJ, pickle.NEWOBJ),
    *(pickle.NEWOBJ_EX, pickle.FROZENSET, pickle.LONG4, pickle.BYTEARRAY8, pickle.NEXT_BUFFER),
)
# Where the stack holds what an opcode hashes.
_HASHING = {
    pickle.SETITEM: slice(-2, -1),
    pickle.SETITEMS: slice(None, None, 2),
    pickle.DICT: slice(None, None, 2),
    pickle.ADDITEMS: slice(None),
}


class RefusedError(pickle.UnpicklingError):
    """A pickle holds something else than plain data; the message says what."""


class PlainDtype:
    """Stands for ``numpy.dtype``, whose own `__setstate__` writes to memory what the pickle says."""

    def __init__(self, name: Any, align: Any = False, copy: Any = False) -> None:
        if name not in _NUMBERS:
            raise RefusedError(f"an array of type {name!r:.40}")
        self.numpy = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        _version, order, *rest = state
        if order not in ("<", ">", "=", "|") or rest != [None, None, None, -1, -1, 0]:
            raise RefusedError("an array of structures")
        self.numpy = self.numpy.newbyteorder(order)


class PlainArray(np.ndarray[Any, Any]):
    """Stands for ``numpy.ndarray``; takes its content once, if that is as much as its shape needs."""

    _filled = False

    def __setstate__(self, state: Any) -> None:
        _version, shape, dtype, fortran, data = state
        if self._filled or type(dtype) is not PlainDtype or type(data) is not bytes:
            raise RefusedError("an array of something else than numbers")
        if any(type(n) is not int or n < 0 for n in shape) or math.prod(shape) * dtype.numpy.itemsize != len(data):
            raise RefusedError(f"an array whose shape does not fit its {len(data)} bytes")
        self._filled = True
        content: Any = (1, tuple(shape), dtype.numpy, bool(fortran), data)
        super().__setstate__(content)


def _empty_array(kind: Any, shape: Any, code: Any) -> PlainArray:
    if kind is not PlainArray or shape != (0,):
        raise RefusedError("an array that is none of numpy's")
    return np.empty(0, np.int8).view(PlainArray)


def _scalar(dtype: Any, data: Any) -> Any:
    if type(dtype) is not PlainDtype or type(data) is not bytes or len(data) != dtype.numpy.itemsize:
        raise RefusedError("something else than a number")
    return np.frombuffer(data, dtype.numpy)[0]


def _ordered_dict(pairs: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict(zip(_keys(key for key, _ in pairs), (value for _, value in pairs), strict=True))


def _set(items: Any = ()) -> set[Any]:
    return set(_keys(items))


def _encode(text: Any, encoding: Any) -> bytes:
    if encoding != "latin1":
        raise RefusedError(f"text in the encoding {encoding!r:.40}")
    encoded: bytes = text.encode("latin1")  # how protocol 2 writes bytes
    return encoded


def _keys(keys: Iterable[Any]) -> Iterator[Any]:
    """Keys that Python hashes without calling itself for every level of what they hold, and that do not collide."""
    for key in keys:
        for part in key if type(key) is tuple else (key,):
            if not isinstance(part, _PLAIN) or (isinstance(part, int) and abs(part) >= 1 << 60):
                raise RefusedError(f"a {type(part).__name__} as the name of an entry")
        yield key


#: Stand-ins for what numpy pickles, 1 and 2.
NUMPY: dict[str, Callable[..., Any]] = {
    "numpy.dtype": PlainDtype,
    "numpy.ndarray": PlainArray,
    **{f"{core}.multiarray._reconstruct": _empty_array for core in ("numpy.core", "numpy._core")},
    **{f"{core}.multiarray.scalar": _scalar for core in ("numpy.core", "numpy._core")},
}


def _admit(unpickler: PlainUnpickler, code: bytes) -> None:
    """Looks at what an opcode would hash, call or change, and then does as Python does."""
    stack = unpickler.stack
    if code == pickle.REDUCE and not any(stack[-2] is known for known in unpickler.names.values()):
        raise RefusedError("a call of something that has no name")
    if code == pickle.BUILD and not (
        isinstance(stack[-2], PlainDtype | PlainArray)
        or (isinstance(stack[-2], OrderedDict) and isinstance(stack[-1], dict))
    ):
        raise RefusedError(f"the state of a {type(stack[-2]).__name__}")
    if code in _HASHING:
        list(_keys(stack[_HASHING[code]]))
    _OPCODES[code[0]](unpickler)


class PlainUnpickler(pickle._Unpickler):
    """Reads one pickle.

    Attributes:
        names: What a pickle may name, and what is made of it.
        leaves: Types, besides containers, that the result may hold.
    """

    names: ClassVar[dict[str, Any]] = {
        **NUMPY,
        "collections.OrderedDict": _ordered_dict,
        "builtins.set": _set,
        "builtins.slice": slice,
        "_codecs.encode": _encode,
    }
    leaves: ClassVar[tuple[type, ...]] = _PLAIN
    stack: list[Any]

    def load(self) -> Any:
        """The content.

        Raises:
            RefusedError: It is not plain.
            Exception: The pickle is damaged.
        """
        content = super().load()
        self._check(content)
        return content

    def find_class(self, module: str, name: str) -> Any:
        """See `names`."""
        try:
            # Protocol 2, which torch writes, has the names of Python 2.
            return self.names[f"{module.replace('__builtin__', 'builtins')}.{name}"]
        except KeyError:
            raise RefusedError(f"{module}.{name}"[:100]) from None

    def _check(self, content: Any) -> None:
        """No deeper and, with everything that is there several times, no larger than can be walked through."""
        level, seen = [content], 0
        for _ in range(_DEEPEST):
            seen += len(level)
            if not level or seen > _MOST_VALUES:
                break
            level = list(islice(chain.from_iterable(map(self._parts, level)), _MOST_VALUES))
        if level:
            raise RefusedError("values without end")

    def _parts(self, value: Any) -> Iterable[Any]:
        if isinstance(value, dict):
            # Of what can be stored beside the entries, torch writes the versions of modules.
            versions = getattr(value, "__dict__", {}).get("_metadata", {})
            if not {*getattr(value, "__dict__", {})} <= {"_metadata"} or not (
                isinstance(versions, dict)
                and all(isinstance(entry, dict) for entry in versions.values())
                and all(isinstance(number, int) for entry in versions.values() for number in entry.values())
            ):
                raise RefusedError("attributes of a dictionary")
            return value.values()
        if isinstance(value, list | tuple | set):
            return value
        if not isinstance(value, self.leaves):
            raise RefusedError(f"a {type(value).__name__}")
        return ()

    dispatch: ClassVar[dict[int, Any]] = {
        **{code: load for code, load in _OPCODES.items() if code not in {left_out[0] for left_out in _LEFT_OUT}},
        **{code[0]: partial(_admit, code=code) for code in (*_HASHING, pickle.REDUCE, pickle.BUILD)},
    }
