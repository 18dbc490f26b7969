"""Pickles that execute, corrupt memory or take all of it, in every kind of checkpoint file."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from attacks import fixtures
from attacks.recipes import Recipe, per_command
from attacks.sandbox import Sandbox
from attacks.table import ANY, REFUSED, Expect, SetUp, Try, kind

Content = Callable[[Sandbox], bytes]


class _Calls:
    """Unpickled, it is the result of a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


def saved(content: Any, **options: Any) -> bytes:
    """What `torch.save` writes."""
    import torch

    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def _archive(data_pkl: bytes, records: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A file as torch.save writes it, around any pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        entries = {"data.pkl": data_pkl, "byteorder": b"little", "version": b"3\n", **(records or {})}
        for name, content in entries.items():
            archive.writestr(f"archive/{name}" if not name.startswith("/") else name[1:], content)
    return file.getvalue()


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def _call(module: str, name: str, *arguments: bytes) -> bytes:
    """Opcodes that call a function by its module and name."""
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def _pickle(opcodes: bytes) -> bytes:
    return b"\x80\x02" + opcodes + b"."


def _state_with(opcodes: bytes) -> bytes:
    """A pickled checkpoint: ``{"network_weights": {"a": <opcodes>}}``."""
    return _pickle(b"}" + _text("network_weights") + b"}" + _text("a") + opcodes + b"ss")


def _dtype_with_an_object_field() -> bytes:
    """BUILD on a dtype of 8 bytes that puts an object into it; a number read as one is a pointer to anywhere."""
    dtype = _call("numpy", "dtype", _text("V8"), b"K\x00", b"K\x01")
    fields = b"}" + _text("f0") + b"(" + _call("numpy", "dtype", _text("O8"), b"K\x00", b"K\x01") + b"K\x00ts"
    return dtype + b"(K\x03" + _text("|") + b"N(" + _text("f0") + b"t" + fields + b"K\x08K\x01K\x10tb"


def _array(dtype: bytes, shape: bytes, data: bytes) -> bytes:
    made = _call("numpy.core.multiarray", "_reconstruct", b"cnumpy\nndarray\n", b"(K\x00t", b"C\x01b")
    return made + b"(K\x01" + shape + dtype + b"\x89B" + struct.pack("<I", len(data)) + data + b"tb"


def _number(value: int) -> bytes:
    content = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


_DOUBLE = _call("numpy", "dtype", _text("f8"), b"K\x00", b"K\x01")
_HUGE = b"(" + _number(1 << 40) + b"t"


def _tensor(size: int, offset: int = 0, stride: int = 1, numel: int = 1) -> bytes:
    """A tensor of one dimension over a storage of ``numel`` numbers that is in the archive as data/0."""
    storage = b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text("0") + _text("cpu") + _number(numel) + b"tQ"
    return _call(
        "torch._utils",
        "_rebuild_tensor_v2",
        storage,
        _number(offset),
        b"(" + _number(size) + b"t",
        b"(" + _number(stride) + b"t",
        b"\x89",
        b"ccollections\nOrderedDict\n)R",
    )


def calling_system(box: Sandbox) -> _Calls:
    """Runs the payload where it is unpickled."""
    return _Calls(os.system, box.payload)


def _deep(levels: int = 200_000) -> bytes:
    return b"]" * levels + b"a" * (levels - 1)


#: Ways to os.system that name nothing forbidden: an attribute of an allowed module, and a name with dots in it.
_GETATTR = b"cbuiltins\ngetattr\n(cnumpy\nos\n" + _text("system") + b"tR"
_DOTTED = b"\x80\x04\x8c\x08torch.nn\x8c\x1eparallel.distributed.os.system\x93"

#: What a pickle of any kind may hold: opcodes.
OPCODES: dict[str, Callable[[Sandbox], bytes]] = {
    "global_os_system": lambda box: _call("os", "system", _text(box.payload)),
    "global_posix_system": lambda box: _call("posix", "system", _text(box.payload)),
    "inst_opcode": lambda box: b"(" + _text(box.payload) + b"iposix\nsystem\n",
    "obj_opcode": lambda box: b"(cposix\nsystem\n" + _text(box.payload) + b"o",
    "builtins_eval": lambda box: _call("builtins", "eval", _text(f"__import__('os').system({box.payload!r})")),
    "getattr_walk": lambda box: _GETATTR + b"(" + _text(box.payload) + b"tR",
    "dotted_global": lambda box: _DOTTED + b"(" + _text(box.payload) + b"tR",
    "numpy_load": lambda box: _call("numpy", "load", _text(str(box.victim / "kept.txt"))),
    "numpy_memmap": lambda box: _call("numpy", "memmap", _text(str(box.victim / "kept.txt")), _text("uint8"),
        _text("w+")),
    "torch_load": lambda box: _call("torch", "load", _text(str(box.victim / "kept.txt"))),
    "path_unlink": lambda box: _call("os", "unlink", _text(str(box.victim / "kept.txt"))),
    "open_to_write": lambda box: _call("io", "open", _text(str(box.victim / "kept.txt")), _text("w")),
}  # fmt: skip
#: What corrupts memory or takes all of it.
MEMORY: dict[str, Callable[[Sandbox], bytes]] = {
    "build_on_dtype": lambda _: _array(_dtype_with_an_object_field(), b"(K\x01t", b"\x41" * 8),
    "object_array_of_bytes": lambda _: _array(_call("numpy", "dtype", _text("O8"), b"K\x00", b"K\x01"), b"(K\x01t",
        b"\x41" * 8),
    "array_of_a_terabyte": lambda _: _array(_DOUBLE, _HUGE, b"\0" * 8),
    "empty_array_of_a_terabyte": lambda _: _call("numpy.core.multiarray", "_reconstruct", b"cnumpy\nndarray\n",
        _HUGE, _text("f8")),
    "ndarray_over_nothing": lambda _: _call("numpy", "ndarray", _HUGE, _text("f8")),
    "negative_shape": lambda _: _array(_DOUBLE, b"(" + _number(-5) + b"t", b"\0" * 8),
    "deep_lists": lambda _: _deep(),
    "scalar_of_object": lambda _: _call("numpy.core.multiarray", "scalar", _call("numpy", "dtype", _text("O8"),
        b"K\x00", b"K\x01"), b"C\x08AAAAAAAA"),
    "stack_underflow": lambda _: b"tRtR00000b",
    "persistent_id": lambda _: b"Pnobody\n",
    "odd_memo": lambda _: b"j\xff\xff\xff\x7f",
    "bytes_of_4_gigabytes": lambda _: b"B\xff\xff\xff\xffabc",
    "extension": lambda _: b"\x84\xff\xff\xff\x7f",
}  # fmt: skip
#: What torch's own files may hold.
TENSORS: dict[str, Content] = {
    "reduce_in_zip": lambda box: saved(fixtures.checkpoint(evil=calling_system(box))),
    "reduce_in_legacy": lambda box: saved(fixtures.checkpoint(evil=calling_system(box)),
        _use_new_zipfile_serialization=False),
    "reduce_as_weights": lambda box: saved({"network_weights": {"a.weight": calling_system(box)}}),
    "reduce_alone": lambda box: pickle.dumps(calling_system(box)),
    "pickled_module": lambda box: saved(__import__("torch").nn.Linear(2, 2)),
    "array_of_payloads": lambda box: saved(fixtures.checkpoint(evil=np.array([calling_system(box)], dtype=object))),
    "tensor_beyond_storage": lambda _: _archive(_state_with(_tensor(1 << 30)), {"data/0": b"\0" * 4}),
    "tensor_of_negative_offset": lambda _: _archive(_state_with(_tensor(1, offset=-(1 << 20))), {"data/0": b"\0" * 4}),
    "tensor_of_negative_stride": lambda _: _archive(_state_with(_tensor(2, stride=-9)), {"data/0": b"\0" * 8}),
    "tensor_of_a_terabyte": lambda _: _archive(_state_with(_tensor(1 << 40, stride=0)), {"data/0": b"\0" * 4}),
    "storage_of_a_terabyte": lambda _: _archive(_state_with(_tensor(1 << 40, numel=1 << 40)), {"data/0": b"\0" * 4}),
    "storage_missing": lambda _: _archive(_state_with(_tensor(1))),
    "torchscript": lambda box: _archive(_state_with(_tensor(1)), {"data/0": b"\0" * 4,
        "constants.pkl": b"\x80\x02).", "code/__torch__.py": box.payload.encode()}),
    "zip_in_zip": lambda box: _archive(_archive(_state_with(_call("os", "system", _text(box.payload))))),
    "zip_bomb": lambda _: _archive(b"\x80\x02}" + b"0}" * 50_000_000 + b".", compression=zipfile.ZIP_DEFLATED),
    "zip_with_ways_up": lambda _: _archive(_state_with(_tensor(1)), {"data/0": b"\0" * 4,
        "/../../victim/kept.txt": b"evil", "/archive/../../evil": b"evil"}),
    "zip_without_pickle": lambda _: _archive(b""),
    "zip_truncated": lambda _: saved(fixtures.checkpoint())[:4000],
    "not_a_checkpoint": lambda _: b"These are no weights.\n" * 50,
    "empty": lambda _: b"",
    "wrong_pickle_in_zip": lambda _: _archive(b"\xff\xfe\x00garbage"),
}  # fmt: skip
#: Files of these kinds are good enough to be read: only harm counts.
_HARMLESS = {"zip_with_ways_up"}


def with_content(recipe: Recipe, role: str, content: Content) -> SetUp:
    """A recipe with other bytes in the file of a role."""

    def set_up(box: Sandbox) -> list[str]:
        argv = recipe(box)
        recipe.file(box, role).write_bytes(content(box))
        return argv

    return set_up


def _register(turn: int, name: str, role: str, *contents: Content, codes: frozenset[int] = REFUSED) -> None:
    @kind(f"{role}_{name}")
    def make() -> Iterator[Try]:
        for recipe, place in per_command(turn, role):
            examples = tuple(with_content(recipe, place, content) for content in contents)
            yield Try(recipe.command, f"{recipe.name}/{place}", examples, Expect(codes, recipe.targets))


def _in_zip(opcodes: Callable[[Sandbox], bytes]) -> Content:
    return lambda box: _archive(_state_with(opcodes(box)))


class _Raw:
    """Stands for opcodes in what is pickled."""

    def __init__(self, opcodes: bytes) -> None:
        self.opcodes = opcodes


_PythonPickler: Any = pickle._Pickler  # the one whose methods can be replaced


class _Pickler(_PythonPickler):
    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, _Raw):
            self.write(obj.opcodes)
        else:
            super().save(obj, save_persistent_id)


def _in_pickle(opcodes: Callable[[Sandbox], bytes], place: str) -> Content:
    """The opcodes in the place of a number that is used, in plans that are good otherwise."""

    def content(box: Sandbox) -> bytes:
        information = fixtures.plans_v1()
        information["plans"]["plans_per_stage"][0][place] = _Raw(opcodes(box))
        file = io.BytesIO()
        _Pickler(file, 2).dump(information)
        return file.getvalue()

    return content


for _turn, (_name, _opcodes) in enumerate({**OPCODES, **MEMORY}.items()):
    _register(_turn, _name, "pickle", *(_in_pickle(_opcodes, place) for place in ("patch_size", "current_spacing")))
    _register(_turn, _name, "checkpoint", _in_zip(_opcodes))
for _turn, (_name, _content) in enumerate(TENSORS.items()):
    _register(_turn, _name, "checkpoint", _content, codes=ANY if _name in _HARMLESS else REFUSED)


def _place_link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def _special(recipe: Recipe, role: str, change: Callable[[Path], None]) -> SetUp:
    def set_up(box: Sandbox) -> list[str]:
        argv = recipe(box)
        change(recipe.file(box, role))
        return argv

    return set_up


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@kind("checkpoint_no_regular_file")
def no_regular_file() -> Iterator[Try]:
    """A named pipe, a folder, a dangling link in the place of a checkpoint or its pickle."""
    changes = (_fifo, _folder, lambda path: _place_link(path, "nowhere"), lambda path: _place_link(path, "/dev/zero"))
    for role in ("checkpoint", "pickle"):
        for recipe, place in per_command(0, role):
            examples = tuple(_special(recipe, place, change) for change in changes)
            # Where there is no pickle, other plans may do.
            codes = REFUSED if role == "checkpoint" else ANY
            yield Try(recipe.command, f"{recipe.name}/{place}", examples, Expect(codes, recipe.targets))
