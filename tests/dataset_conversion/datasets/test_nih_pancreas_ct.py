"""NIH Pancreas-CT."""

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_ext.cli.convert_dataset import main

LABEL = "TCIA_pancreas_labels-02-05-2017/label0001.nii.gz"


@pytest.fixture
def pancreas(miniature):
    """One patient, whose label map is written by the test; returns the label map."""
    label = miniature.label("nih_pancreas_ct")
    miniature.dicom("Pancreas-CT/PANCREAS_0001/11-24-2015-study/series", miniature.ct(label))
    return label


def test_converts_the_published_layout(pancreas, miniature, assert_converts):
    # As published: the axes are those of the header, the position is not.
    miniature.save(LABEL, pancreas, axes="LAS", origin=(0, 0, 0))
    assert_converts("nih_pancreas_ct", training=1)


def _convert(miniature, nnunet_folders, capsys, *arguments):
    code = main(["nih_pancreas_ct", "-i", str(miniature.root), "-d", "7", "-np", "1", *arguments])
    file = nnunet_folders / "nnUNet_raw" / "Dataset007_NIH_PancreasCT" / "labelsTr" / "PANCREAS_0001.nii.gz"
    output = capsys.readouterr()
    return code, output.out + output.err, sitk.GetArrayFromImage(sitk.ReadImage(str(file))) if file.exists() else None


def test_a_label_map_that_lies_front_to_back_is_turned(pancreas, miniature, nnunet_folders, capsys):
    miniature.save(LABEL, pancreas[:, ::-1], axes="LAS", origin=(0, 0, 0))
    code, output, label = _convert(miniature, nnunet_folders, capsys)
    np.testing.assert_array_equal(label, pancreas)
    assert code == 0
    assert "turned front to back" in output


def test_a_label_map_that_makes_sense_neither_way_is_refused(pancreas, miniature, nnunet_folders, capsys):
    miniature.save(LABEL, np.roll(pancreas, 5, axis=0), origin=(0, 0, 0))
    code, output, label = _convert(miniature, nnunet_folders, capsys)
    assert code == 2
    assert label is None
    assert "Expected pancreas with a mean of 20 to 140 HU, but it has" in output
    assert _convert(miniature, nnunet_folders, capsys, "--accept", "implausible")[0] == 0
