"""The command nnUNetv2_ext_demo."""

from __future__ import annotations

import subprocess
import sys

from nnunetv2_ext.cli.demo import main


def test_full_output_folder_is_refused(tmp_path, capsys):
    (tmp_path / "precious").write_text("data")
    assert main(["--output", str(tmp_path)]) == 2
    assert "is not empty; choose another folder with --output." in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_help_needs_no_heavy_imports():
    code = (
        "import sys; from nnunetv2_ext.cli.demo import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'nnunetv2', 'numpy', 'SimpleITK'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
