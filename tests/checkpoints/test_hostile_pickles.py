"""Pickles that crash, fill the memory or never end: each is refused with a sentence, in little memory."""

from __future__ import annotations

import codecs
import collections
import contextlib
import importlib
import io
import os
import pickle
import signal
import struct
import traceback
import zipfile
from typing import Any

import numpy as np
import pytest
import torch

from nnunetv2_ext.checkpoints import read_checkpoint
from nnunetv2_ext.checkpoints.safe_loading import load_pickle_file, load_torch_file
from nnunetv2_ext.utilities.errors import UserError

resource = pytest.importorskip("resource")  # of POSIX, like fork
CORE = importlib.import_module("numpy._core.multiarray" if np.__version__ >= "2" else "numpy.core.multiarray")


class Calls:
    """Pickles as a call of ``function``, with an optional state for what it returns."""

    def __init__(self, function, arguments, *state):
        self.reduced = (function, arguments, *state)

    def __reduce__(self):
        return self.reduced


#: Objects that are said to be plain bytes: numpy takes the bytes for the address of an object.
OBJECTS = Calls(np.dtype, ("O8", False, True), (3, "|", None, None, None, 8, 1, 0))
FIELDS = Calls(np.dtype, ("f8", False, True), (3, "<", None, ("x",), {"x": (np.dtype("O"), 0)}, 8, 1, 0))
EMPTY = (np.ndarray, (0,), b"b")


def doubled(times):
    content: list[Any] = [0]
    for _ in range(times):
        content = [content, content]
    return content


def cycle():
    content = []
    content.append(content)
    return content


def colliding(number):
    return {index * (2**61 - 1): None for index in range(number)}


CONTENTS = {
    "objects in a scalar": Calls(CORE.scalar, (OBJECTS, b"A" * 8)),
    "objects in an array": Calls(CORE._reconstruct, EMPTY, (1, (1,), OBJECTS, False, b"A" * 8)),
    "objects in a field": Calls(CORE._reconstruct, EMPTY, (1, (1,), FIELDS, False, b"A" * 8)),
    "objects without more": Calls(np.dtype, ("O8", False, True)),
    "an array of nothing": Calls(np.ndarray, ((10**10,),)),
    "an array with too few bytes": Calls(CORE._reconstruct, EMPTY, (1, (10**9,), np.dtype("f8"), False, b"A" * 8)),
    "a shape that overflows": Calls(CORE._reconstruct, EMPTY, (1, (2**32, 2**32), np.dtype("f8"), False, b"")),
    "a dtype as a value": np.dtype("f8"),
    "a class as a value": np.ndarray,
    "attributes of a dictionary": Calls(collections.OrderedDict, (), {"items": 5}),
    "versions of no modules": Calls(collections.OrderedDict, (), {"_metadata": 5}),
    "another encoding": Calls(codecs.encode, ("x" * 1000, "rot13")),
    "lists that double": doubled(60),
    "a list in itself": cycle(),
    "names that collide": colliding(1000),
}

DEEP_TUPLE = b")" + b"\x85" * 2_000_000
PICKLES = {
    "a name of a million levels": b"\x80\x02}" + DEEP_TUPLE + b"Ns.",
    "names of a million levels": b"\x80\x02}(" + DEEP_TUPLE + b"Nu.",
    "a set of a million levels": b"\x80\x04\x8f(" + DEEP_TUPLE + b"\x90.",
    "an ordered dictionary of a million levels": (
        b"\x80\x02ccollections\nOrderedDict\n](]" + DEEP_TUPLE + b"aNae\x85R."
    ),
    "a million levels": b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b".",
    "a high number in the memo": b"\x80\x02]r" + struct.pack("<I", 2**26) + b"0.",
    "bytes that are not there": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".",
    "a bytearray that is not there": b"\x80\x05\x96" + struct.pack("<Q", 2**33) + b".",
    "a frame that is not there": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"0.",
    "an integer of many digits": b"\x80\x02\x8b" + struct.pack("<I", 10**6) + b"\x01" * 10**6 + b".",
    "an instance": b"(ios\nsystem\n.",
    "a new object": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "an extension": b"\x80\x02\x82\x01.",
    "a persistent object": b"Pname\n.",
    "a call of a call": b"\x80\x02ccollections\nOrderedDict\n)R)R.",
    "nothing": b"",
}
PICKLES |= {name: pickle.dumps(content, protocol=2) for name, content in CONTENTS.items()}


def as_zip(data):
    file = io.BytesIO()
    torch.save({}, file)
    changed = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            new.writestr(name, data if name.endswith("data.pkl") else old.read(name))
    return changed.getvalue()


def as_legacy(data):
    file = io.BytesIO()
    torch.save({}, file, _use_new_zipfile_serialization=False)
    return file.getvalue().replace(b"\x80\x02}q\x00.", data)


def saved(content, zip_format=True):
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zip_format)
    return file.getvalue()


def compressed(content):
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(content))) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return file.getvalue()


def twice(content):
    file = io.BytesIO(saved(content))
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/data.pkl", archive.read("archive/data.pkl"))
    return file.getvalue()


def longer(content):
    """As if the first storage had 10^8 values."""
    return saved(content, zip_format=False).replace(b"K\x04", b"J" + struct.pack("<i", 10**8))


TORCH = {
    "compressed": lambda: compressed({"a": torch.zeros(10**7)}),
    "a name twice": lambda: twice({"a": torch.zeros(4)}),
    "longer than the file": lambda: longer({"a": torch.zeros(4)}),
    "one value for all": lambda: saved({"a": torch.zeros(1).expand(10**12)}),
    "one value for all, legacy": lambda: saved({"a": torch.zeros(1).expand(10**12)}, zip_format=False),
    "sparse": lambda: saved({"a": torch.zeros(4).to_sparse()}),
    "on no device": lambda: saved({"a": torch.zeros(10**9, 10**3, device="meta")}),
}
LOADERS = {
    "pickle": (load_pickle_file, lambda data: data),
    "zip": (load_torch_file, as_zip),
    "legacy": (load_torch_file, as_legacy),
}


def outcome(load, path):
    """Loads in a child, since a crash would end the tests: what it did, and the memory it took in MiB."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            said = f"loaded {type(load(path)).__name__}"
        except UserError as error:
            said = f"refused: {error}"
        except BaseException:
            said = traceback.format_exc()
        os.write(writing, said[:2000].encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = file.read()
    _, status, usage = os.wait4(child, 0)
    return said if os.WIFEXITED(status) else f"signal {os.WTERMSIG(status)}", usage.ru_maxrss >> 10


def refuses(load, data, tmp_path):
    path = tmp_path / "weights.model.pkl"
    path.write_bytes(data)
    said, memory = outcome(load, path)
    assert said.startswith(f"refused: {path} ")
    assert "\n" not in said
    assert memory < (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10) + 400


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if "million" in name else name for name in PICKLES]
)
@pytest.mark.parametrize("loader", LOADERS)
def test_hostile_pickles_are_refused(tmp_path, loader, name):
    load, wrap = LOADERS[loader]
    refuses(load, wrap(PICKLES[name]), tmp_path)


@pytest.mark.parametrize("name", TORCH)
def test_hostile_archives_are_refused(tmp_path, name):
    refuses(load_torch_file, TORCH[name](), tmp_path)


def test_an_archive_behind_a_legacy_file_does_not_hide_it(tmp_path):
    """Torch goes by the first bytes of a file, zip readers by its last."""
    file = tmp_path / "weights.pth"
    file.write_bytes(as_legacy(PICKLES["objects in a scalar"]) + saved({"a": torch.zeros(4)}))
    assert outcome(load_torch_file, file)[0].startswith("refused: ")


@pytest.mark.parametrize("zip_format", [True, False])
def test_what_checkpoints_hold_is_read(tmp_path, zip_format):
    weights = torch.arange(24.0).reshape(2, 3, 4)
    content = {
        "weights": collections.OrderedDict(
            a=weights, part=weights[1, 1:], turned=weights.transpose(0, 2), empty=torch.zeros(0, 3), one=torch.tensor(5)
        ),
        "parameter": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)),
        "module": torch.nn.BatchNorm1d(3).state_dict(),
        "device": torch.device("cuda", 0),
        "array": np.arange(6, dtype=">i2").reshape(2, 3, order="F"),
        "scalar": np.float32(0.5),
        "size": torch.Size([1, 2]),
        "set": {1, 2},
        "logging": [[0.5] * 3, (None, True)],
    }
    torch.save(content, tmp_path / "c.pth", _use_new_zipfile_serialization=zip_format)
    read = load_torch_file(tmp_path / "c.pth")
    for name, tensor in content["weights"].items():
        assert torch.equal(read["weights"][name], tensor)
    assert torch.equal(read["parameter"], content["parameter"])
    torch.nn.BatchNorm1d(3).load_state_dict(read["module"])
    np.testing.assert_array_equal(read["array"], content["array"])
    assert {name: read[name] for name in ("device", "scalar", "size", "set", "logging")} == {
        name: content[name] for name in ("device", "scalar", "size", "set", "logging")
    }
    assert not any(isinstance(entry, tuple) for entry in torch.serialization.get_safe_globals())


def test_members_that_lie_elsewhere_are_not_written(tmp_path):
    file = tmp_path / "inside" / "weights.pth"
    file.parent.mkdir()
    torch.save({"a": torch.zeros(4)}, file)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("../elsewhere", "x")
        archive.writestr(str(tmp_path / "absolute"), "x")
    with contextlib.suppress(UserError):
        load_torch_file(file)
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]


SAFETENSORS = {
    "a header that is not there": struct.pack("<Q", 2**62) + b"{}",
    "a header of a million levels": struct.pack("<Q", 2 * 10**6) + b"[" * 10**6 + b"]" * 10**6,
    "values that are not there": b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}',
    "a shape that overflows": b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}',
    "values that overlap": (
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    ),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_hostile_safetensors_are_refused(tmp_path, name):
    data = SAFETENSORS[name]
    file = tmp_path / "weights.safetensors"
    file.write_bytes(data if data[:1] != b"{" else struct.pack("<Q", len(data)) + data + b"\0" * 4)
    said, memory = outcome(read_checkpoint, file)
    assert said.startswith(f"refused: {file} ")
    assert memory < (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10) + 400
