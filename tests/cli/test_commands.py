"""What holds for every command of the package."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from nnunetv2_ext.cli._command import make_parser, run_command
from nnunetv2_ext.utilities.errors import UserError

COMMANDS = {
    point.name: point.value for point in entry_points(group="console_scripts") if point.name.startswith("nnUNetv2_ext_")
}
# Each takes a noticeable part of the second within which help has to answer.
SLOW_IMPORTS = {"torch", "nnunetv2", "numpy", "SimpleITK", "monai", "matplotlib", "pandas", "scipy", "nibabel"}


def test_commands_are_installed():
    assert {"nnUNetv2_ext_info", "nnUNetv2_ext_train", "nnUNetv2_ext_finetune"} <= set(COMMANDS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_answers_without_slow_imports(command):
    module, function = COMMANDS[command].split(":")
    code = (
        "import sys\n"
        f"from {module} import {function}\n"
        f"try:\n    {function}(['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        f"print('IMPORTED', *sorted({SLOW_IMPORTS!r} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert f"usage: {command}" in result.stdout
    assert result.stdout.rstrip().endswith("IMPORTED")


def test_help_states_the_defaults_that_say_something():
    parser = make_parser("nnUNetv2_ext_test", "A test.")
    parser.add_argument("-i", required=True, help="folder of images")
    parser.add_argument("--names", nargs="+", default=[], help="some names")
    parser.add_argument("--copy", action="store_true", help="copy them")
    parser.add_argument("--mode", default="fast", help="how")
    parser.add_argument("-f", nargs="+", default=["0", "1"], help="folds")
    parser.add_argument("-np", type=int, default=0, help="processes")
    text = parser.format_help()
    assert text.count("(default: ") == 3
    for stated in ("how (default: fast)", "folds (default: 0 1)", "processes (default: 0)"):
        assert stated in text


@pytest.mark.parametrize(
    ("outcome", "code"),
    [(None, 0), (1, 1), (UserError("Expected A, but found B; do C."), 2), (KeyboardInterrupt(), 130)],
)
def test_exit_codes(outcome, code, capsys):
    def run(arguments):
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    assert run_command(make_parser("nnUNetv2_ext_test", "A test."), run, []) == code
    error = capsys.readouterr().err
    assert "Traceback" not in error
    if code == 2:
        assert error == "nnUNetv2_ext_test: Expected A, but found B; do C.\n"


def test_defects_keep_their_traceback():
    def run(arguments):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(make_parser("nnUNetv2_ext_test", "A test."), run, [])


@pytest.mark.parametrize(
    ("command", "flag"),
    [(name, "-np") for name in ("convert_dataset", "merge_datasets", "remap_labels", "evaluate", "plan", "finetune")]
    + [("predict", "-npp"), ("predict", "-nps")],
)
def test_less_than_no_process_is_refused(command, flag, capsys):
    module = importlib.import_module(f"nnunetv2_ext.cli.{command}")
    with pytest.raises(SystemExit) as end:
        module.main([flag, "-1"])
    assert end.value.code == 2
    assert f"argument {flag}" in capsys.readouterr().err
