"""Running commands as a shell would."""

from __future__ import annotations

import sys

import pytest

from nnunetv2_ext.demo.commands import executable, run_as_subprocess
from nnunetv2_ext.utilities.errors import UserError


def test_environment_and_log(tmp_path):
    code = "import os, sys; print(os.environ['nnUNet_raw']); print('to stderr', file=sys.stderr)"
    log = tmp_path / "logs" / "1.log"
    run_as_subprocess([sys.executable, "-c", code], {"nnUNet_raw": "somewhere"}, log)
    assert sorted(log.read_text().split("\n")) == ["", "somewhere", "to stderr"]


def test_failure_names_the_log_and_shows_its_end(tmp_path):
    with pytest.raises(UserError, match=r"exit code 3; its output is in .*1\.log:\nlast words"):
        run_as_subprocess([sys.executable, "-c", "print('last words'); raise SystemExit(3)"], {}, tmp_path / "1.log")


def test_commands_of_this_installation_are_found():
    assert executable("nnUNetv2_ext_plan").endswith("nnUNetv2_ext_plan")
    with pytest.raises(UserError, match="nnUNetv2_no_such"):
        executable("nnUNetv2_no_such")
