import shlex

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_ext.cli.remap_labels import main
from nnunetv2_ext.dataset_conversion.remapping import remap_files
from nnunetv2_ext.labels import LabelOrder
from nnunetv2_ext.utilities.errors import UserError


@pytest.fixture
def label_maps(miniature):
    order = LabelOrder.read("totalsegmentator_v2")
    names = [name for name in order.labels if LabelOrder.read("totalsegmentator_v1").find(name)]
    small = order.subset(names)
    miniature.save("labels/a.nii.gz", miniature.label(small), axes="RAS")
    miniature.save("labels/b.nrrd", miniature.label(small))
    return miniature.root / "labels"


def _remap(source, output, **keywords):
    return remap_files(source, output, source="totalsegmentator_v2", progress=False, **keywords)


def test_a_folder_there_and_back(label_maps, tmp_path):
    assert _remap(label_maps, tmp_path / "v1", target="totalsegmentator_v1") == {}
    assert sorted(path.name for path in (tmp_path / "v1").iterdir()) == ["a.nii.gz", "b.nii.gz"]
    back = remap_files(
        tmp_path / "v1", tmp_path / "v2", source="totalsegmentator_v1", target="totalsegmentator_v2", progress=False
    )
    assert back == {}
    for name in ("a", "b"):
        old = sitk.ReadImage(str(next(label_maps.glob(f"{name}.*"))))
        new = sitk.ReadImage(str(tmp_path / f"v2/{name}.nii.gz"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(new), sitk.GetArrayFromImage(old))
        np.testing.assert_allclose(new.GetOrigin(), old.GetOrigin(), atol=1e-4)
        np.testing.assert_allclose(new.GetDirection(), old.GetDirection(), atol=1e-6)


def test_losses_are_listed_and_the_rest_written(label_maps, tmp_path, miniature):
    miniature.save("labels/c.nii.gz", miniature.label("totalsegmentator_v2"))
    (label_maps / "d.nii.gz").write_bytes(b"nothing")
    failed = _remap(label_maps, tmp_path / "out", target="totalsegmentator_v1")
    assert set(failed) == {"c.nii.gz", "d.nii.gz"}
    assert "cannot express" in failed["c.nii.gz"]
    assert len(list((tmp_path / "out").iterdir())) == 2
    again = _remap(label_maps, tmp_path / "out", target="totalsegmentator_v1", drop="all")
    assert set(again) == {"a.nii.gz", "b.nrrd", "d.nii.gz"}
    assert "--overwrite" in again["a.nii.gz"]
    assert set(_remap(label_maps, tmp_path / "out", target="totalsegmentator_v1", drop="all", overwrite=True)) == {
        "d.nii.gz"
    }


def test_nothing_to_do_is_said(tmp_path, label_maps):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="found none"):
        _remap(tmp_path / "empty", tmp_path / "out", target="totalsegmentator_v1")
    with pytest.raises(UserError, match="nowhere does not exist"):
        _remap(tmp_path / "nowhere", tmp_path / "out", target="totalsegmentator_v1")
    with pytest.raises(UserError, match="overlap; choose another place"):
        _remap(label_maps, label_maps, target="totalsegmentator_v1")


def test_the_command_of_the_documentation_runs(miniature, tmp_path, code_in):
    miniature.save("LABELS/a.nii.gz", miniature.label("totalsegmentator_v2"))
    lines = [line for block in code_in("labels.md", "bash") for line in block.splitlines()]
    (line,) = (line for line in lines if line.startswith("nnUNetv2_ext_remap_labels"))
    paths = {"LABELS": str(miniature.root / "LABELS"), "OUTPUT": str(tmp_path / "OUTPUT")}
    assert main([paths.get(word, word) for word in shlex.split(line)[1:]]) == 0
    assert (tmp_path / "OUTPUT" / "a.nii.gz").is_file()
