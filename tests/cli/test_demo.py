"""The command nnUNetv2_ext_demo."""

from __future__ import annotations

from nnunetv2_ext.cli.demo import main


def test_full_output_folder_is_refused(tmp_path, capsys):
    (tmp_path / "precious").write_text("data")
    assert main(["--output", str(tmp_path)]) == 2
    assert "is not empty; delete it, or choose another folder with --output." in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_file_in_place_of_the_output_folder_is_refused(tmp_path, capsys):
    (tmp_path / "precious").write_text("data")
    assert main(["--output", str(tmp_path / "precious")]) == 2
    assert "there is a file in its place" in capsys.readouterr().err
    assert (tmp_path / "precious").read_text() == "data"
