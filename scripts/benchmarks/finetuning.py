"""What transfer is worth: training steps until a narrow U-Net reaches a mean Dice of 0.8 on phantoms.

From scratch, from a pretrained network whose heads are discarded, and from it with the heads of equal classes. The
pretraining saw other patients, other spacings and other intensities (four fifths of the contrast, 60 HU brighter) and
four classes, of which the target shares two. Target: 24 cases of training, 8 of test, four classes; nnU-Net's loss and
augmentation without mirroring, AdamW at a constant rate, the same for all three; the Dice is the mean over test cases
and classes, every few steps. ``ratio`` is that of the medians over seeds, mapped heads to scratch.

Agreement: largest difference between the logits of shared classes (less that of the background) before and after the
transfer with mapped heads, which should be none.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import _measure
import numpy as np
import torch

EVERYWHERE = {"liver": ("liver", "liver_tumour"), "spleen": ("spleen",)}
PRETRAINED = {**EVERYWHERE, "aorta": ("aorta",), "spine": ("vertebrae",)}
TARGET = {**EVERYWHERE, "kidneys": ("kidneys",), "lungs": ("lungs",)}
_Part = Literal["all", "backbone", "encoder"]
STARTS: dict[str, _Part | None] = {"scratch": None, "heads discarded": "backbone", "heads mapped": "all"}
PLANS, CONFIGURATION = "benchmark", "3d_fullres"
#: mm; what the network sees in training, and what covers every phantom (z, y, x).
SPACING, PATCH, WHOLE = 8.0, (32, 32, 40), (40, 32, 48)
#: Of all trainings. Mirroring would take from the network on which side an organ lies, and with it most of the speed.
OPTIONS: dict[str, Any] = {"optimizer": "adamw", "initial_lr": 2e-3, "mirroring": False, "num_workers": 0}


def main() -> None:
    """Prints one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cases", type=int, nargs=2, default=(24, 8), help="of training and of test")
    parser.add_argument("--pretraining_steps", type=int, default=200)
    parser.add_argument("--most_steps", type=int, default=600, help="after which a training is given up")
    parser.add_argument("--every", type=int, default=10, help="steps between two measurements")
    parser.add_argument("--dice", type=float, default=0.8)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with TemporaryDirectory() as folder:
        # Before nnU-Net is imported.
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            os.environ[name] = str(Path(folder) / name)
        os.environ |= {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1"}
        _run(Path(folder), arguments)


def _run(folder: Path, arguments: argparse.Namespace) -> None:
    from nnunetv2_ext.checkpoints import read_checkpoint
    from nnunetv2_ext.demo.phantom_datasets import Protocol

    start = time.perf_counter()
    number, held_out = arguments.cases
    before = _dataset(folder, Protocol(801, "Pretraining", PRETRAINED), number, 0, 5000, _other_scanner)
    after = _dataset(folder, Protocol(802, "Target", TARGET), number, held_out, 0)
    prepared = time.perf_counter()

    torch.manual_seed(100)
    trainer = _trainer(before, "all", 100, arguments.device)
    loader, _ = _loaders(trainer)
    for _ in range(arguments.pretraining_steps):
        trainer.train_step(next(loader))
    checkpoint = _save(trainer, before)
    pretrained = time.perf_counter()
    print(
        f"prepared in {prepared - start:.0f} s, pretrained in {pretrained - prepared:.0f} s",
        file=sys.stderr,
        flush=True,
    )

    steps: dict[str, list[int | None]] = {name: [] for name in STARTS}
    for seed in range(arguments.seeds):
        for name in STARTS:
            trainer = _trainer(after, 0, seed, arguments.device)
            if (part := STARTS[name]) is not None:
                _transfer(trainer, checkpoint, part)
            steps[name].append(_steps_to(trainer, arguments.dice, arguments.most_steps, arguments.every))
            taken = time.perf_counter() - pretrained
            print(f"seed {seed}, {name}: {steps[name][-1]} steps ({taken:.0f} s so far)", file=sys.stderr, flush=True)
    trainer = _trainer(after, 0, 0, arguments.device)
    _transfer(trainer, checkpoint, "all")
    medians = {name: _median(found) for name, found in steps.items()}
    mapped, scratch = medians["heads mapped"], medians["scratch"]
    _measure.report(
        "finetuning",
        dice=arguments.dice,
        seeds=arguments.seeds,
        cases=number,
        test_cases=held_out,
        device=arguments.device,
        threads=arguments.threads,
        steps=steps,
        median_steps=medians,
        ratio=None if mapped is None or not scratch else mapped / scratch,
        pretraining_steps=arguments.pretraining_steps,
        preparing_s=prepared - start,
        pretraining_s=pretrained - prepared,
        seconds=time.perf_counter() - start,
        agreement=_difference(read_checkpoint(checkpoint).build_network(), trainer),
    )


def _other_scanner(seed: int) -> Any:
    from nnunetv2_ext.demo.phantoms import make_phantom

    phantom = make_phantom(seed, spacings_in_plane=(3.2, 5.2), spacings_through_plane=(3.0, 6.0))
    image = np.clip(phantom.image * 0.8 + 60, -1024, 3071).astype(np.int16)
    return dataclasses.replace(phantom, image=image)


def _dataset(folder: Path, protocol: Any, number: int, held_out: int, first_seed: int, patient: Any = None) -> Path:
    """A planned and preprocessed dataset; what is held out is the validation of its only fold."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset

    from nnunetv2_ext.demo.phantom_datasets import write_raw_dataset
    from nnunetv2_ext.experiment_planning.plan_dataset import plan_dataset

    raw = folder / "nnUNet_raw"
    further: dict[str, Any] = {} if patient is None else {"patient": patient}
    everything: dict[str, Any] = {"num_training": number + held_out, "num_test": 0, "first_seed": first_seed}
    cases = write_raw_dataset(protocol, raw, **everything, **further)
    names = sorted(file.name.removesuffix(".nii.gz") for file in (cases / "labelsTr").iterdir())
    if held_out:
        splits = [{"train": names[:number], "val": names[number:]}]
        (cases / "splits_final.json").write_text(json.dumps(splits), encoding="utf-8")
    with contextlib.redirect_stdout(io.StringIO()):
        file = plan_dataset(cases.name, _template(), name=PLANS, num_processes=1, show_progress=False)
        preprocess_dataset(protocol.dataset_id, PLANS, [CONFIGURATION], [1], verbose=False, show_progress_bar=False)
    return file.parent


def _template() -> dict[str, Any]:
    stages = {
        "n_stages": 4,
        "features_per_stage": [8, 16, 32, 64],
        "kernel_sizes": [[3] * 3] * 4,
        "strides": [[1] * 3, [2] * 3, [2] * 3, [2] * 3],
        "n_conv_per_stage": [1, 1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1, 1],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": stages,
        "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
    }
    configuration = {
        "patch_size": list(PATCH),
        "batch_size": 2,
        "spacing": [SPACING] * 3,
        "normalization_schemes": ["CTNormalization"],
        "architecture": architecture,
    }
    return {"configurations": {CONFIGURATION: configuration}}


def _trainer(dataset: Path, fold: int | str, seed: int, device: str) -> Any:
    from nnunetv2_ext.training.options import TrainingOptions
    from nnunetv2_ext.training.trainers.base import ExtTrainer

    plans, dataset_json = (
        json.loads((dataset / name).read_text(encoding="utf-8")) for name in (f"{PLANS}.json", "dataset.json")
    )
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = ExtTrainer(
            {**plans, "continue_training": False}, CONFIGURATION, fold, dataset_json, torch.device(device)
        )
        trainer.print_to_log_file = lambda *_, **__: None
        TrainingOptions(**OPTIONS, seed=seed).apply(trainer)
        trainer.initialize()
    return trainer


def _loaders(trainer: Any) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        loaders = trainer.get_dataloaders()
    trainer.network.train()
    trainer.set_deep_supervision_enabled(True)
    return loaders


def _save(trainer: Any, dataset: Path) -> Path:
    """The checkpoint, with what nnU-Net leaves beside it."""
    file = Path(trainer.output_folder) / "checkpoint_final.pth"
    trainer.save_checkpoint(str(file))
    for name, source in (("plans.json", f"{PLANS}.json"), ("dataset.json", "dataset.json")):
        (file.parents[1] / name).write_bytes((dataset / source).read_bytes())
    return file


def _transfer(trainer: Any, checkpoint: Path, part: _Part) -> None:
    from nnunetv2_ext.checkpoints import read_checkpoint, transfer_weights

    labels = trainer.dataset_json["labels"]
    transfer_weights(trainer.network, read_checkpoint(checkpoint), target_classes=labels, part=part)


def _steps_to(trainer: Any, dice: float, most: int, every: int) -> int | None:
    """Steps after which the test cases reach a Dice; None where they do not."""
    loader, _ = _loaders(trainer)
    cases = [trainer.get_tr_and_val_datasets()[1].load_case(case)[:2] for case in trainer.do_split()[1]]
    for step in range(most + 1):
        if step % every == 0:
            found = _dice(trainer, cases)
            print(f"  {step} steps: Dice {found:.3f}", file=sys.stderr, flush=True)
            if found >= dice:
                return step
        trainer.train_step(next(loader))
    return None


@torch.no_grad()
def _dice(trainer: Any, cases: list[Any]) -> float:
    from nnunetv2_ext.inference.windows.sliding_window import StreamingSlidingWindow

    network = trainer.network.eval()
    trainer.set_deep_supervision_enabled(False)
    classes = len(trainer.dataset_json["labels"])
    window = StreamingSlidingWindow(network, classes, WHOLE, device=trainer.device)
    found = []
    for image, labels in cases:
        label_map = window.logits(torch.from_numpy(image[:])).argmax(0)
        truth = torch.from_numpy(labels[:])[0].to(label_map.device)
        for value in range(1, classes):
            ours, theirs = label_map == value, truth == value
            found.append(float(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())))
    network.train()
    trainer.set_deep_supervision_enabled(True)
    return statistics.fmean(found)


@torch.no_grad()
def _difference(pretrained: torch.nn.Module, trainer: Any) -> float:
    image = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    trainer.set_deep_supervision_enabled(False)
    ours, theirs = trainer.network.cpu().eval()(image), pretrained(image)
    # Liver and spleen come first on both sides.
    return float(((ours - ours[:, :1])[:, 1:3] - (theirs - theirs[:, :1])[:, 1:3]).abs().max())


def _median(found: list[int | None]) -> float | None:
    """The median, of which those that were given up are at the far end."""
    value = statistics.median([float("inf") if steps is None else steps for steps in found])
    return None if value == float("inf") else value


if __name__ == "__main__":
    main()
