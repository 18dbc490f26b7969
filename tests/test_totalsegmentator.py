"""The published package TotalSegmentator, unchanged, on our sliding window and decisions.

``.ci/run`` runs this in an environment with TotalSegmentator. The weights are random and the networks narrow; their
plans are written as its own are, without an ``architecture``. A configuration of its own keeps it from calling home.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

pytest.importorskip("totalsegmentator", reason="the package TotalSegmentator is not installed")
pytestmark = [pytest.mark.totalsegmentator, pytest.mark.system, pytest.mark.slow]

ON = "nnunetv2_ext: nnU-Net's predictor works in mode accurate"
#: How plans said what they are of before nnU-Net 2.4.
OLD_ARCHITECTURE = {
    "UNet_class_name": "PlainConvUNet",
    "UNet_base_num_features": 6,
    "unet_max_num_features": 12,
    "n_conv_per_stage_encoder": [1, 1],
    "n_conv_per_stage_decoder": [1],
    "num_pool_per_axis": [1, 1, 1],
    "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2]],
    "conv_kernel_sizes": [[3, 3, 3], [3, 3, 3]],
}
#: Calls TotalSegmentator's Python API; with "full", without its own resampling of cropped logits.
PROGRAM = """
import sys
from pathlib import Path
import nibabel, numpy
import totalsegmentator.nnunet as nnunet
from totalsegmentator.python_api import totalsegmentator
if __name__ == "__main__":
    if "full" in sys.argv:
        takes = nnunet.supports_keyword_argument
        nnunet.supports_keyword_argument = lambda f, name: name != "use_cropped_logits_resampling" and takes(f, name)
    result = totalsegmentator(
        nibabel.load(sys.argv[1]), ml=True, fast=True, device="cpu", quiet=True, nr_thr_saving=1,
        higher_order_resampling="ho" in sys.argv,
    )
    nibabel.save(result, sys.argv[2])
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory, make_model_folder):
    """``TOTALSEG_WEIGHTS_PATH`` with the models of the tasks "total" (five) and "total --fast" (one)."""
    from totalsegmentator.map_tasks_config import TASK_ID_WEIGHTS_CONFIGS
    from totalsegmentator.map_to_binary import class_map, class_map_5_parts, map_taskid_to_partname_ct

    root = tmp_path_factory.mktemp("weights")
    tasks = {task: class_map_5_parts[map_taskid_to_partname_ct[task]] for task in (291, 292, 293, 294, 295)}
    for task, classes in {**tasks, 297: class_map["total"]}.items():
        trainer = "nnUNetTrainer_4000epochs_NoMirroring" if task == 297 else "nnUNetTrainerNoMirroring"
        folder = root / TASK_ID_WEIGHTS_CONFIGS[task]["foldername"] / f"{trainer}__nnUNetPlans__3d_fullres"
        labels = {"background": 0, **{name: value for value, name in classes.items()}}
        spacing = (3.0, 3.0, 3.0) if task == 297 else (1.5, 1.5, 1.5)
        make_model_folder(folder, dataset={"labels": labels}, spacing=spacing, patch_size=(16, 16, 16))
        plans = json.loads((folder / "plans.json").read_text())
        del plans["configurations"]["3d_fullres"]["architecture"]
        plans["configurations"]["3d_fullres"].update(OLD_ARCHITECTURE)
        (folder / "plans.json").write_text(json.dumps(plans))
    return root


@pytest.fixture
def environment(weights, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    settings = {"totalseg_id": "test", "send_usage_stats": False, "prediction_counter": 0}
    (home / "config.json").write_text(json.dumps(settings))
    return {**os.environ, "TOTALSEG_WEIGHTS_PATH": str(weights), "TOTALSEG_HOME_DIR": str(home)}


@pytest.fixture
def scan(tmp_path):
    """A CT of 2.2 mm, stored from left to right, as TotalSegmentator turns it."""
    voxels = np.random.default_rng(0).normal(size=(30, 26, 24))
    voxels = np.cumsum(np.cumsum(voxels, 0), 1) * 20
    nibabel.save(nibabel.Nifti1Image(voxels.astype(np.int16), np.diag([-2.2, -2.2, 2.5, 1])), tmp_path / "ct.nii.gz")
    return tmp_path / "ct.nii.gz"


def run(command, environment, mode=None):
    variables = {key: value for key, value in environment.items() if key != "nnUNetv2_ext_mode"}
    variables |= {} if mode is None else {"nnUNetv2_ext_mode": mode}
    finished = subprocess.run(
        [sys.executable, *map(str, command)], env=variables, capture_output=True, encoding="utf-8", timeout=600
    )
    output = finished.stdout + finished.stderr
    assert finished.returncode == 0, output
    assert (ON in output) == (mode == "accurate")
    return output


def labels_of(file):
    return np.asanyarray(nibabel.Nifti1Image.from_filename(file).dataobj)


@pytest.mark.parametrize("fast", [True, False], ids=["one model", "five models"])
def test_its_command_writes_the_same_labels(fast, environment, scan, tmp_path):
    command = Path(sys.executable).with_name("TotalSegmentator")
    arguments = [command, "-i", scan, "--ml", "-d", "cpu", "--nr_thr_saving", "1", *(["--fast"] if fast else [])]
    run([*arguments, "-o", tmp_path / "stock.nii.gz"], environment)
    run([*arguments, "-o", tmp_path / "ours.nii.gz"], environment, "accurate")
    stock, ours = labels_of(tmp_path / "stock.nii.gz"), labels_of(tmp_path / "ours.nii.gz")
    assert len(np.unique(stock)) > 10
    assert np.array_equal(stock, ours)


def test_its_api_with_higher_order_resampling_equals_nnunets_full_resampling(environment, scan, tmp_path):
    """TotalSegmentator's own resampling of cropped logits keeps away: ours takes its keyword, and needs no crop."""
    (tmp_path / "program.py").write_text(PROGRAM)
    maps = {}
    for name, words, mode in (
        ("full", ["ho", "full"], None),
        ("cropped", ["ho"], None),
        ("ours", ["ho"], "accurate"),
    ):
        run([tmp_path / "program.py", scan, tmp_path / f"{name}.nii.gz", *words], environment, mode)
        maps[name] = labels_of(tmp_path / f"{name}.nii.gz")
    assert len(np.unique(maps["full"])) > 10
    assert np.array_equal(maps["ours"], maps["full"])
    differing = int((maps["ours"] != maps["cropped"]).sum())
    assert differing <= 0.01 * maps["ours"].size, f"{differing} voxels differ from the resampling of cropped logits"
