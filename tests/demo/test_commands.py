"""Running commands as a shell would."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_a_command_ends_with_the_demo(tmp_path):
    child = f"import os, time; open({str(tmp_path / 'child')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    command = f"run_as_subprocess([sys.executable, '-c', {child!r}], {{}}, Path({str(tmp_path / 'log')!r}))"
    code = f"import sys\nfrom pathlib import Path\nfrom nnunetv2_ext.demo.commands import run_as_subprocess\n{command}"
    demo = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
        assert demo.poll() is None
        time.sleep(0.05)
    demo.kill()
    demo.wait()
    status = Path("/proc", (tmp_path / "child").read_text(), "stat")
    end = time.monotonic() + 5
    while status.exists() and ") Z" not in status.read_text(encoding="utf-8") and time.monotonic() < end:
        time.sleep(0.05)
    assert not status.exists() or ") Z" in status.read_text(encoding="utf-8")
