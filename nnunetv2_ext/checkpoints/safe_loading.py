"""Reading files written with pickle without executing what they may carry.

Checkpoints of nnU-Net v1 and v2 hold numpy arrays and scalars beside tensors. ``torch.load(weights_only=True)``
refuses them unless they are allow-listed; the list below admits containers of numbers and nothing that can act.
``weights_only`` is to be trusted from torch 2.10 on, which this package requires.
"""

from __future__ import annotations

import codecs
import collections
import importlib
import io
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunetv2_ext.utilities.errors import UserError

_NUMBER_TYPES = (
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "bool",
)


def _numpy_globals() -> dict[tuple[str, str], Any]:
    """(module, name) as pickled by numpy 1 and 2 -> the object of the numpy that is installed."""
    core = importlib.import_module("numpy._core.multiarray" if hasattr(np, "_core") else "numpy.core.multiarray")
    allowed: dict[tuple[str, str], Any] = {("numpy", "dtype"): np.dtype, ("numpy", "ndarray"): np.ndarray}
    for name in ("scalar", "_reconstruct"):
        for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            allowed[module, name] = getattr(core, name)
    for name in _NUMBER_TYPES:
        scalar_type = np.dtype(name).type
        allowed["numpy", scalar_type.__name__] = scalar_type
        dtype_class = type(np.dtype(name))
        allowed[dtype_class.__module__, dtype_class.__name__] = dtype_class
    return allowed


_CONTAINERS = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): collections.defaultdict,
    ("builtins", "set"): set,
    ("builtins", "slice"): slice,
    ("_codecs", "encode"): codecs.encode,
}


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
    _refuse_torchscript(path)
    allowed: list[Any] = [(value, ".".join(key)) for key, value in _numpy_globals().items()]
    with torch.serialization.safe_globals(allowed):
        try:
            mmap = mmap and zipfile.is_zipfile(path)
            return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
        except pickle.UnpicklingError as error:
            if "Unsupported operand" in str(error):  # of the unpickler: the first byte that is no pickle's
                raise UserError(f"{path} is truncated or is not a checkpoint; copy or download it again.") from None
            raise _unsafe(path, error) from None
        except Exception as error:
            # Torch's parsers of damaged files raise almost anything: struct.error, KeyError, RuntimeError, ...
            raise UserError(
                f"{path} is truncated or is not a checkpoint ({_reason(error)}); copy or download it again."
            ) from None


def _refuse_torchscript(path: Path) -> None:
    """TorchScript archives are programs: reading them means running what they hold."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        is_program = any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())
    if is_program:
        raise UserError(
            f"{path} is a TorchScript program, not weights alone; give the file of weights beside it (model.pt of a "
            "MONAI bundle)."
        )


def _unsafe(path: Path, error: pickle.UnpicklingError) -> UserError:
    """Says what torch refused, without its advice to load the file by ``weights_only=False`` all the same."""
    refused = re.search(r"GLOBAL '?([\w.]+)", str(error))
    found = f"found {refused.group(1)}" if refused else "found other objects"
    return UserError(
        f"{path} cannot be read safely: expected tensors, numbers and containers of them, but {found}; such a file "
        "can run code of its own, so save the network's state_dict alone where it was written, and give that file."
    )


def load_pickle_file(path: Path | str) -> Any:
    """Reads a pickle of plain containers, numbers and numpy arrays, such as nnU-Net v1's plans.

    Raises:
        UserError: The file is missing, truncated, not a pickle, or names any other class or function.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"Expected a pickle file at {path}, but there is none.") from None
    try:
        return _RestrictedUnpickler(io.BytesIO(content)).load()
    except Exception as error:  # a damaged pickle raises almost anything
        raise UserError(f"{path} is not a pickle that can be read safely: {_reason(error)}") from None


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        allowed = {**_numpy_globals(), **_CONTAINERS}
        if (module, name) in allowed:
            return allowed[module, name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not plain data.")


def _reason(error: BaseException) -> str:
    """The first sentence of an error; errors of few words, such as ``KeyError(101)``, with their type."""
    text = (str(error).strip().splitlines() or [""])[0]
    sentence = text.split(". ")[0].rstrip(".")
    return sentence if " " in sentence else f"{type(error).__name__} {sentence}".strip()
