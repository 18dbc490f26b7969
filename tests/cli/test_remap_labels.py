import numpy as np
import SimpleITK as sitk

from nnunetv2_ext.cli.remap_labels import main
from nnunetv2_ext.labels import LabelOrder


def _save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(np.array(values, np.uint8).reshape(1, 1, -1)), str(path))


def _run(*arguments):
    return main([str(argument) for argument in arguments])


def test_remaps_a_folder_and_lists_what_it_cannot(tmp_path, capsys):
    v2, stunet = LabelOrder.read("totalsegmentator_v2"), LabelOrder.read("stunet_totalsegmentator")
    _save(tmp_path / "in/a.nii.gz", [0, v2.value("liver"), v2.value("spleen")])
    _save(tmp_path / "in/b.nii.gz", [0, v2.value("liver"), v2.value("skull")])
    command = ("-i", tmp_path / "in", "-o", tmp_path / "out", "--from", "totalsegmentator_v2", "-np", 1, "--quiet")
    assert _run(*command, "--to", "stunet_totalsegmentator") == 1
    assert (
        "b.nii.gz: Expected classes of stunet_totalsegmentator, but the label map has skull" in capsys.readouterr().out
    )
    assert _run(*command, "--to", "stunet_totalsegmentator", "--drop", "skull", "--overwrite") == 0
    for name, expected in (("a", ["liver", "spleen"]), ("b", ["liver"])):
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"out/{name}.nii.gz"))).ravel()
        assert [int(value) for value in array if value] == [stunet.value(organ) for organ in expected]


def test_a_wrong_order_is_explained(tmp_path, capsys):
    _save(tmp_path / "in/a.nii.gz", [0, 1])
    assert _run("-i", tmp_path / "in", "-o", tmp_path / "out", "--from", "nobody", "--to", "word") == 2
    assert "'nobody' is none" in capsys.readouterr().err


def test_what_cannot_work_is_said_once_before_any_file(tmp_path, capsys):
    _save(tmp_path / "in/a.nii.gz", [0, 1])
    (tmp_path / "file").write_text("mine")
    command = ("-i", tmp_path / "in", "--from", "totalsegmentator_v2", "--to", "word", "-np", 1)
    assert _run(*command, "-o", tmp_path / "out", "--drop", "leg", "skull") == 2
    error = capsys.readouterr().err
    assert "leg is none of them" in error
    assert "Remapping" not in error
    assert not (tmp_path / "out").exists()
    assert _run(*command, "-o", tmp_path / "file") == 2
    assert "Remapping" not in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"
