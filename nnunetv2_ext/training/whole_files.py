"""The files that nnU-Net's trainer leaves for others, written at once: folds side by side read whole ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from batchgenerators.utilities.file_and_folder_operations import save_json
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet_module

from nnunetv2_ext.utilities.files import atomic_path


@contextmanager
def whole_files() -> Iterator[None]:
    """Lets nnU-Net's trainer give splits, plans, dataset.json and fingerprint their names when they are complete."""
    before = {name: getattr(nnunet_module, name) for name in ("save_json", "shutil")}
    nnunet_module.save_json = _at_once(save_json)
    nnunet_module.shutil = SimpleNamespace(copyfile=_at_once(shutil.copyfile))
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(nnunet_module, name, value)


def _at_once(write: Callable[..., Any]) -> Callable[..., None]:
    """A function that writes its second argument."""

    @wraps(write)
    def write_at_once(source: Any, target: str, *arguments: Any, **named: Any) -> None:
        with atomic_path(Path(target)) as temporary:
            write(source, str(temporary), *arguments, **named)

    return write_at_once
