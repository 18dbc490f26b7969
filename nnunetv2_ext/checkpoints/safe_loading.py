"""Reading files written with pickle without executing what they may carry.

Checkpoints of nnU-Net v1 and v2 hold numpy arrays and scalars beside tensors. ``torch.load(weights_only=True)`` refuses
them unless they are allow-listed; what it gets to call here are functions of our own. And because it believes what a
file says about its sizes, each file is first read through without its tensors (`_TorchUnpickler`).
``weights_only`` is to be trusted from torch 2.10 on, which this package requires.
"""

from __future__ import annotations

import io
import math
import mmap
import pickle
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import torch

from nnunetv2_ext.checkpoints.plain_pickle import NUMPY, PlainUnpickler, RefusedError
from nnunetv2_ext.utilities.errors import UserError


def load_torch_file(path: Path | str, map_location: Any = "cpu", mmap: bool = False) -> Any:
    """Reads a file written by ``torch.save`` (zip or legacy format), admitting tensors, numbers and containers only.

    Args:
        path: The file.
        map_location: Where tensors go; the CPU by default, so that checkpoints of GPU machines load anywhere.
        mmap: Read tensors only when they are used, where the format allows it (zip, not legacy): the optimiser state
            of a large network then costs nothing.

    Raises:
        UserError: The file is missing, truncated, not a checkpoint, or carries something that would be executed.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"Expected a checkpoint file at {path}, but there is none.")
    try:
        is_zip = _read_through(path)
        with torch.serialization.safe_globals([(stand_in, name) for name, stand_in in NUMPY.items()]):
            return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap and is_zip)
    except UserError:
        raise
    except RefusedError as error:
        raise UserError(
            f"{path} cannot be read safely: expected tensors, numbers and containers of them, but found {error}; such "
            "a file can run code of its own, so save the network's state_dict alone where it was written, and give "
            "that file."
        ) from None
    except Exception as error:
        # Parsers of damaged files raise almost anything: struct.error, KeyError, RuntimeError, ...
        raise UserError(
            f"{path} is truncated or is not a checkpoint ({_reason(error)}); copy or download it again."
        ) from None


def _read_through(path: Path) -> bool:
    """Reads all of a file but its tensors, and returns whether it is a zip archive, as torch tells it.

    Raises:
        UserError: It is a program, or no archive that torch writes.
        Exception: It is damaged, or announces more than it holds.
    """
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as file:
        if file[:4] == b"PK\x03\x04":
            _check_archive(path, len(file))
            return True
        # The legacy format: magic number, version, properties of the machine, content, names of the storages.
        for _ in range(3):
            _TorchUnpickler(file).load()
        content = _TorchUnpickler(file)
        content.load()
        PlainUnpickler(file).load()
        if file.tell() + sum(content.storages.values()) > len(file):
            raise EOFError("its tensors are longer than the file")
        return False


def _check_archive(path: Path, size: int) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if any(name.endswith("/constants.pkl") or "/code/" in name for name in members):
            # Reading it means running what it holds.
            raise UserError(
                f"{path} is a TorchScript program, not weights alone; give the file of weights beside it (model.pt of "
                "a MONAI bundle)."
            )
        if (
            len(members) < len(archive.infolist())
            or any(member.compress_type != zipfile.ZIP_STORED for member in members.values())
            or sum(member.file_size for member in members.values()) > size
        ):
            raise ValueError("its members are compressed, overlap, or have the same names")
        folder = next(iter(members)).partition("/")[0]
        content = _TorchUnpickler(io.BytesIO(archive.read(f"{folder}/data.pkl")))
        content.load()
        for key, needed in content.storages.items():
            if needed > members[f"{folder}/data/{key}"].file_size:
                raise EOFError(f"its tensor {key!r:.40} is longer than what the file holds")


class _Storage:
    """What a tensor looks into: a number of values; stands for the type of the values, too."""

    def __init__(self, itemsize: int, length: int = 0) -> None:
        self.itemsize, self.length = itemsize, length


class _Tensor:
    """A tensor that is not read yet."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *_further: Any) -> None:
        if not isinstance(storage, _Storage) or len(size) != len(stride):
            raise RefusedError("a tensor of something else than numbers")
        reach = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if any(type(n) is not int or n < 0 for n in (offset, *size, *stride)) or (
            all(size) and max(reach + 1, math.prod(size)) > storage.length
        ):
            raise EOFError(f"a tensor of {math.prod(size)} values looks into {storage.length}")


class _Named:
    """A device, or the type of values."""

    def __init__(self, *arguments: Any) -> None:
        if not all(isinstance(argument, str | int) for argument in arguments):
            raise RefusedError("a device without a name")


_NAMED = _Named()
_BYTES = {"Byte": 1, "Char": 1, "Bool": 1, "Short": 2, "Half": 2, "BFloat16": 2, "Int": 4, "Float": 4, "Long": 8}


class _TorchUnpickler(PlainUnpickler):
    """Reads what ``torch.save`` pickles with the tensors left out.

    Attributes:
        storages: Name of each storage -> its bytes.
    """

    names: ClassVar[dict[str, Any]] = {
        **PlainUnpickler.names,
        "torch._utils._rebuild_tensor_v2": _Tensor,
        "torch._utils._rebuild_parameter": lambda data, *_further: data,
        "torch.Size": tuple,
        "torch.device": _Named,
        **{f"torch.{kind}Storage": _Storage(size) for kind, size in {**_BYTES, "Double": 8}.items()},
        **{f"torch.{kind}": _NAMED for kind in ("float16", "bfloat16", "float32", "float64", "int32", "int64", "bool")},
    }
    leaves: ClassVar[tuple[type, ...]] = (*PlainUnpickler.leaves, _Tensor, _Named)
    dispatch: ClassVar[dict[int, Any]] = {
        **PlainUnpickler.dispatch,
        pickle.BINPERSID[0]: pickle._Unpickler.dispatch[pickle.BINPERSID[0]],
    }

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.storages: dict[str, int] = {}

    def persistent_load(self, pid: Any) -> Any:
        """A storage, or a part of one."""
        kind, storage, key, _location, length, *view = pid
        if kind != "storage" or not isinstance(storage, _Storage) or type(key) is not str or type(length) is not int:
            raise RefusedError("something else than a tensor")
        needed = length * storage.itemsize
        if self.storages.setdefault(key, needed) != needed:
            raise EOFError("a tensor has several lengths")
        if view and view[0] is not None:
            _name, start, part = view[0]
            if min(start, part) < 0 or start + part > length:
                raise EOFError("a part of a tensor is larger than the tensor")
            length = part
        return _Storage(storage.itemsize, length)


def load_pickle_file(path: Path | str) -> Any:
    """Reads a pickle of plain containers, numbers and numpy arrays, such as nnU-Net v1's plans.

    Raises:
        UserError: The file is missing, truncated, not a pickle, or names any other class or function.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"Expected a pickle file at {path}, but there is none.")
    try:
        with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as file:
            return PlainUnpickler(file).load()
    except RefusedError as error:
        raise UserError(
            f"{path} cannot be read safely: expected numbers, text and containers of them, but found {error}."
        ) from None
    except Exception as error:  # a damaged pickle raises almost anything
        raise UserError(f"{path} is not a pickle that can be read ({_reason(error)}); copy it again.") from None


def _reason(error: BaseException) -> str:
    """The first sentence of an error; errors of few words, such as ``KeyError(101)``, with their type."""
    text = (str(error).strip().splitlines() or [""])[0]
    sentence = text.split(". ")[0].rstrip(".")
    return sentence if " " in sentence else f"{type(error).__name__} {sentence}".strip()
