"""The list of trainers that is read without importing them."""

from __future__ import annotations

import subprocess
import sys

from nnunetv2_ext.training.trainer_listing import list_trainers


def test_lists_exactly_what_nnunet_sees():
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from nnunetv2_ext.training import trainers

    real = {
        name: (value.__doc__ or "").partition("\n")[0]
        for name, value in vars(trainers).items()
        if isinstance(value, type) and issubclass(value, nnUNetTrainer)
    }
    assert list_trainers() == real
    assert all(real.values()), "every trainer says in its docstring what it is"


def test_needs_no_torch():
    code = (
        "import sys; from nnunetv2_ext.training.trainer_listing import list_trainers; assert list_trainers()\n"
        "assert not {'torch', 'numpy', 'nnunetv2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
