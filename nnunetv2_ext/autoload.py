"""What this package does in every Python process of its environment: as little as possible.

``nnunetv2_ext.pth`` lies at the root of site-packages, so Python imports this module at every interpreter start.
nnU-Net reads ``nnUNet_extTrainer`` when it looks a trainer up; appending our discovery folder to it is all that is
needed for ``nnUNetv2_train -tr STUNetTrainer_base``. Child processes inherit the variable. Where ``--mode`` is typed
behind a stock command, or ``nnUNetv2_ext_mode`` is set, nnU-Net's predictor gets our methods once it is imported. The
module must stay cheap (no torch, no nnU-Net) and must not raise.
"""

import os
import sys

DISCOVERY_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "discovery")

MODE_VARIABLE = "nnUNetv2_ext_mode"
"""``accurate``, ``fast`` or ``fastest`` changes how nnU-Net's own predictor works in every process."""

_STOCK_COMMANDS = ("nnUNetv2_predict", "nnUNetv2_predict_from_modelfolder")
_STOCK_MODULE = "nnunetv2.inference.predict_from_raw_data"


def register(environment: "os._Environ[str] | dict[str, str]" = os.environ) -> None:
    """Appends the discovery folder to ``nnUNet_extTrainer`` once, keeping the folders that the user has there.

    Args:
        environment: The mapping to change; the process environment by default.
    """
    folders = [folder for folder in environment.get("nnUNet_extTrainer", "").split(os.pathsep) if folder.strip()]
    if DISCOVERY_FOLDER not in folders:
        environment["nnUNet_extTrainer"] = os.pathsep.join([*folders, DISCOVERY_FOLDER])


def take_mode(argv: "list[str]", environment: "os._Environ[str] | dict[str, str]") -> "str | None":
    """The mode that was asked for; takes ``--mode`` out of the arguments of a stock command, which does not know it.

    Args:
        argv: The command line, which is changed.
        environment: Where `MODE_VARIABLE` is looked up; what was typed outranks it.
    """
    mode = environment.get(MODE_VARIABLE, "").strip() or None
    if not _is_stock_command(argv):
        return mode
    for number, word in enumerate(argv):
        if word == "--mode":
            mode = argv[number + 1] if number + 1 < len(argv) else ""
            del argv[number : number + 2]
            break
        if word.startswith("--mode="):
            mode = argv.pop(number)[len("--mode=") :]
            break
    return mode


def _is_stock_command(argv: "list[str]") -> bool:
    return bool(argv) and os.path.basename(argv[0]).removesuffix(".exe") in _STOCK_COMMANDS


class _AfterImport:
    """A finder that lets others find nnU-Net's module, and has `in_stock` change it once it was executed."""

    def __init__(self, mode: str) -> None:
        self.mode = mode

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        if name != _STOCK_MODULE:
            return None
        from importlib import import_module
        from importlib.util import find_spec

        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = find_spec(name)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_change(module: object) -> None:
            execute(module)  # type: ignore[arg-type]
            command_line = sys.argv[1:] if _is_stock_command(sys.argv) else None
            in_stock = import_module("nnunetv2_ext.inference.in_stock")
            in_stock.install(module.nnUNetPredictor, self.mode, command_line)  # type: ignore[attr-defined]

        spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


def hook() -> None:
    """Prepares for the import of nnU-Net's predictor where a mode is asked for; a second call changes nothing."""
    mode = take_mode(sys.argv, os.environ)
    if mode is not None and not any(type(finder).__name__ == _AfterImport.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport(mode))  # type: ignore[arg-type]


register()
hook()
