"""Part of the attacks on the commands, and whether their judge sees what it is to see."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, signals and /proc as Linux has them")


@pytest.fixture(scope="module")
def attack():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import attack

        attack.fill_table()
        yield attack
    finally:
        sys.path.remove(str(ROOT / "scripts"))


@pytest.mark.slow
def test_quick_part_holds():
    command = [sys.executable, str(ROOT / "scripts" / "attack.py"), "--quick", "--no_progress_bar"]
    result = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert ", failed 0," in result.stdout


def test_every_command_is_attacked(attack):
    from attacks.client import console_scripts
    from attacks.table import KINDS

    tried = {f"nnUNetv2_ext_{each.command}" for kind in KINDS.values() for each in kind.tries()}
    assert tried == set(console_scripts(ROOT))
    assert len(KINDS) >= 40
    assert sum(len(list(kind.tries())) for kind in KINDS.values()) >= 400


@pytest.fixture
def judged(attack, tmp_path):
    """What the judge says of a process that printed something, and of what was done in its sandbox meanwhile."""
    from attacks.client import Process
    from attacks.judge import judge
    from attacks.sandbox import Sandbox, snapshot
    from attacks.table import Expect

    box = Sandbox(tmp_path / "tries" / "00000", tmp_path)

    def run(act=lambda box: None, output="", code=2, **expect):
        before = snapshot(box.root)
        box.log.write_text(output)
        process = Process(box.log, pid=2**22 + 1, code=code)
        act(box)
        return judge(box, process, before, Expect(**expect))

    return run


def _write_truncated(box):
    content = gzip.compress(np.arange(4000, dtype=np.int16).tobytes())
    box.out.mkdir()
    (box.out / "a.nii.gz").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("act", "word"),
    [
        (lambda box: box.sentinel.touch(), "EXECUTED"),
        (lambda box: (box.victim / "kept.txt").write_text("changed"), "changed victim/kept.txt"),
        (lambda box: (box.victim / "kept.txt").unlink(), "deleted victim/kept.txt"),
        (lambda box: (box.raw / "new").mkdir(), "created nnUNet_raw/new"),
        (lambda box: (box.root.parent / "evil").mkdir(), "beside its sandbox"),
        (lambda box: (box.temporary / "x").touch(), "left the temporary"),
        (_write_truncated, "cannot be read"),
    ],
)
def test_judge_sees_what_was_done(judged, act, word):
    assert any(word in problem for problem in judged(act, "Expected x."))


@pytest.mark.parametrize(
    ("output", "code", "word"),
    [
        ("Traceback (most recent call last):\n  ...\nKeyError: 5", 1, "KeyError"),
        ("Expected x.", 0, "exit code 0"),
        ("", -11, "killed by signal 11"),
        ("", None, "hung"),
        ("a\0b", 2, "control characters"),
        ("Expected y.", 2, "does not say"),
    ],
)
def test_judge_sees_what_was_printed_and_returned(judged, output, code, word):
    assert any(
        word in problem for problem in judged(output=output, code=code, says="zebra" if word == "does not say" else "")
    )


def test_judge_lets_a_refusal_pass(judged):
    assert judged(output="Expected x, but found y.") == []
    assert judged(lambda box: box.out.mkdir(), code=0, codes=frozenset({0})) == []
