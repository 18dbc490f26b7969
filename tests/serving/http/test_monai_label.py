"""MONAI Label's own client, as 3D Slicer's module uses it."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
from fixtures.servers import HOSTILE_CLASS

from nnunetv2_ext.images.geometry import Grid
from nnunetv2_ext.images.label_maps import write_label_map
from nnunetv2_ext.images.reading import read_volume
from nnunetv2_ext.inference import Predictor


@pytest.fixture
def monai_label(client, tmp_path):
    # Its import of cgi ends with Python 3.13.
    module = pytest.importorskip("monailabel.client.client", exc_type=ImportError)
    (tmp_path / "answers").mkdir()
    return module.MONAILabelClient(str(client.base_url), tmpdir=str(tmp_path / "answers"), client_id="tests")


@pytest.fixture
def expected(ct_file, softmax_model):
    image = Predictor.from_model_folder(softmax_model, device="cpu", mode="fast").predict(ct_file)
    return SimpleITK.GetArrayFromImage(image)


def test_its_client_keeps_a_scan_and_predicts_it(monai_label, ct_file, expected):
    info = monai_label.info()
    assert info["models"]["organs"]["type"] == "segmentation"
    assert info["models"]["organs"]["labels"] == {"liver": 1, "spleen": 2, "aorta": 3}
    assert info["labels"] == ["liver", "spleen", "aorta", HOSTILE_CLASS]
    session = monai_label.create_session(str(ct_file))["session_id"]
    assert monai_label.get_session(session)
    for _ in range(2):
        file, parameters = monai_label.infer("organs", "", {}, session_id=session)
        assert np.array_equal(read_volume(file).array, expected)
        assert parameters["label_names"] == {"liver": 1, "spleen": 2, "aorta": 3}
        assert parameters["notice"]
    monai_label.remove_session(session)
    with pytest.raises(Exception, match="404"):
        monai_label.get_session(session)
    with pytest.raises(Exception, match="404"):
        monai_label.infer("organs", "", {}, session_id=session)


def test_its_client_sends_a_scan_with_the_request(monai_label, ct_file, expected):
    file, _ = monai_label.infer("organs", "", {"device": "cpu"}, file=str(ct_file))
    assert np.array_equal(read_volume(file).array, expected)


def test_its_client_is_told_why_not(monai_label, tmp_path, ct_file):
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(ct_file.read_bytes()[:-20])
    for call in (
        lambda: monai_label.create_session(str(bad)),
        lambda: monai_label.infer("organs", "", {}, file=str(bad)),
    ):
        with pytest.raises(Exception, match=r"422.*truncated"):
            call()


def test_integers_become_those_that_slicer_takes_names_for(tmp_path):
    from nnunetv2_ext.serving.http.monai_label import renumber

    labels = np.array([[[0, 7, 3], [300, 3, 0]]], dtype=np.uint16)
    grid = Grid((3, 2, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    names = {7: "a", 3: "b", 300: "c"}
    write_label_map(labels, names, grid, tmp_path / "in.nrrd")
    renumber(tmp_path / "in.nrrd", names, tmp_path / "out.nrrd")
    assert read_volume(tmp_path / "out.nrrd").array.tolist() == [[[0, 1, 2], [3, 2, 0]]]
    assert SimpleITK.ReadImage(str(tmp_path / "out.nrrd")).GetPixelID() == SimpleITK.sitkUInt8
