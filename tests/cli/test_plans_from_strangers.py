"""Plans that name anything but networks and nnU-Net's own parts: no command imports or calls it."""

from __future__ import annotations

import json
import re
import shutil
import traceback

import pytest

from nnunetv2_ext.cli import export, finetune, import_weights, plan, predict, train

OS = "torch.nn.parallel.distributed.os"
#: Where to write what into the plans; ``"payload"`` is replaced by a shell command that would leave a file.
HOSTILE = {
    "nonlin": {"nonlin": f"{OS}.system", "nonlin_kwargs": {"command": "payload"}},
    "unlisted operation": {"conv_op": "this.is.imported", "_kw_requires_import": ["norm_op", "dropout_op", "nonlin"]},
    "no layer": {"conv_op": "torch.nn.Module"},
    "wrapper": {"nonlin": "torch.nn.parallel.DistributedDataParallel"},
    "builtin": {"dropout_op": "eval", "dropout_op_kwargs": {}},
    "network": {"network_class_name": f"{OS}.system"},
    "function": {"nonlin": "torch.nn.functional.relu"},
    "other package": {"network_class_name": "subprocess.Popen"},
    "normaliser": {"normalization_schemes": ["number"]},
    "resampling": {"resampling_fn_data": "map_coordinates"},
    "preprocessor": {"preprocessor_name": "multiprocessing"},
    "label manager": {"label_manager": "recursive_find_python_class"},
    "planner": {"experiment_planner_used": "save_json"},
    "reader": {"image_reader_writer": "traceback"},
    "no name": {"preprocessor_name": "../../evil"},
}


@pytest.fixture(params=HOSTILE)
def hostile(request, tmp_path):
    """Changes plans; asserts in the end that nothing was executed."""
    change = json.loads(json.dumps(HOSTILE[request.param]).replace("payload", f"touch {tmp_path / 'executed'}"))

    def apply(plans):
        for configuration in plans["configurations"].values():
            architecture = configuration.get("architecture", {"arch_kwargs": {}})
            for key, value in change.items():
                sections = (plans, configuration, architecture, architecture["arch_kwargs"])
                next(section for section in sections if key in section)[key] = value
        return plans

    yield apply
    assert not (tmp_path / "executed").exists()


@pytest.fixture
def hostile_model(hostile, softmax_model, tmp_path):
    folder = shutil.copytree(softmax_model, tmp_path / softmax_model.name)
    (folder / "plans.json").write_text(json.dumps(hostile(json.loads((folder / "plans.json").read_text()))))
    return folder


def refuses(main, *arguments, capsys):
    try:
        code = main([str(argument) for argument in arguments])
    except Exception:
        pytest.fail(traceback.format_exc(limit=-2))
    error = capsys.readouterr().err
    assert code == 2
    assert re.search("Expected (a network class|a layer of PyTorch|the name of something in nnunetv2)", error)
    assert "Traceback" not in error


def test_predict(hostile_model, ct_file, tmp_path, capsys):
    refuses(
        predict.main,
        "-i",
        ct_file.parent,
        "-o",
        tmp_path / "out",
        "-m",
        hostile_model,
        "-f",
        "0",
        "-device",
        "cpu",
        capsys=capsys,
    )


def test_export(hostile_model, tmp_path, capsys):
    refuses(export.main, "-m", hostile_model, "-o", tmp_path / "n.ts", "--format", "torchscript", capsys=capsys)
    assert not (tmp_path / "n.ts").exists()


def test_import_weights(hostile_model, nnunet_folders, capsys):
    refuses(import_weights.main, hostile_model, "-d", "Dataset101_Tiny", capsys=capsys)
    assert not any((nnunet_folders / "nnUNet_results").iterdir())


def test_plan(hostile_model, tiny_dataset, capsys):
    refuses(plan.main, "-d", "7", "-t", hostile_model / "plans.json", "--name", "mine", capsys=capsys)


def test_finetune(hostile_model, tiny_dataset, capsys):
    refuses(
        finetune.main, "7", "3d_fullres", "0", "-device", "cpu", "-pretrained_weights", hostile_model, capsys=capsys
    )


@pytest.mark.parametrize("trainer", ["nnUNetTrainer", "nnUNetTrainerBN", "FineTuneTrainer", "STUNetTrainer_small"])
def test_train(hostile, tiny_dataset, tmp_path, trainer, capsys):
    file = tmp_path / "nnUNet_preprocessed" / tiny_dataset / "nnUNetPlans.json"
    file.write_text(json.dumps(hostile(json.loads(file.read_text()))))
    few = ["--num_epochs", "1", "--iterations_per_epoch", "1", "--val_iterations_per_epoch", "1"]
    arguments = ["7", "3d_fullres", "0", "-tr", trainer, "-device", "cpu"]
    refuses(train.main, *arguments, *few, capsys=capsys)


@pytest.mark.parametrize("trainer", ["FineTuneTrainer", "STUNetTrainer_small"])
def test_our_trainers_in_stock_commands(hostile, tiny_dataset, tmp_path, trainer):
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    from nnunetv2_ext.utilities.errors import UserError

    file = tmp_path / "nnUNet_preprocessed" / tiny_dataset / "nnUNetPlans.json"
    file.write_text(json.dumps(hostile(json.loads(file.read_text()))))
    with pytest.raises(UserError, match="Expected"):
        get_trainer_from_args("7", "3d_fullres", 0, trainer, device=torch.device("cpu")).initialize()


def test_our_trainers_in_stock_prediction(hostile_model, tmp_path):
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    from nnunetv2_ext.utilities.errors import UserError

    file = hostile_model / "fold_0" / "checkpoint_final.pth"
    content = torch.load(file, weights_only=True)
    torch.save({**content, "trainer_name": "FineTuneTrainer"}, file)
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    # nnU-Net itself fails on what is no label manager, before it asks the trainer for its network.
    with pytest.raises((UserError, TypeError), match=r"Expected|label_dict"):
        predictor.initialize_from_trained_model_folder(str(hostile_model), (0,))
