"""``nnUNetv2_ext_predict``: predict images with a trained model."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_ext.cli._command import EXIT_BATCH_HAD_FAILURES, count, make_parser, run_command
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.paths import dataset_name, nnunet_folder

# nnU-Net's default.
_FOLDS = ("0", "1", "2", "3", "4")


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "nnUNetv2_ext_predict",
        "Predicts images with a trained model of this package or of stock nnU-Net. Takes the flags of nnUNetv2_predict "
        "(-d -tr -p -c) and nnUNetv2_predict_from_modelfolder (-m).",
    )
    parser.add_argument(
        "-i",
        required=True,
        type=Path,
        metavar="INPUT",
        help="folder in nnU-Net's naming (case_0000.nii.gz), any folder of NIfTI, NRRD or MHA images, one image, a "
        "folder with DICOM series in it or below, or a CSV table with the columns id and path",
    )
    parser.add_argument(
        "-o", required=True, type=Path, metavar="OUTPUT", help="output folder; or output file, for one image"
    )
    _add_model_arguments(parser)
    _add_mode_arguments(parser)
    _add_output_arguments(parser)
    _add_batch_arguments(parser)
    return parser


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model")
    model.add_argument("-m", type=Path, metavar="MODEL_FOLDER", help="model folder, instead of -d, -tr, -p and -c")
    model.add_argument("-d", metavar="DATASET", help="dataset ID or name")
    model.add_argument("-tr", default="nnUNetTrainer", metavar="TRAINER", help="trainer")
    model.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="plans identifier")
    model.add_argument("-c", metavar="CONFIGURATION", help="configuration, such as 3d_fullres")
    model.add_argument(
        "-f", nargs="+", metavar="FOLD", help="folds to average; 0 to 4 if not given with -d, those that exist with -m"
    )
    model.add_argument("-chk", default="checkpoint_final.pth", metavar="FILE", help="name of the checkpoint")


def _add_mode_arguments(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how to predict")
    how.add_argument(
        "--mode",
        choices=("accurate", "fast", "fastest"),
        default="accurate",
        help="accurate: the result of nnUNetv2_predict; fast: no mirroring, linear resampling of the image, windows of "
        "air left out; fastest: also fewer windows, and label maps resampled by nearest neighbour",
    )
    how.add_argument("-step_size", type=float, metavar="SHARE", help="step of the windows instead of the mode's")
    how.add_argument("--disable_tta", action="store_true", help="no mirroring, whatever the mode")
    how.add_argument(
        "--sums",
        choices=("float16", "float32"),
        help="type in which overlapping windows are added up; float16 is what nnUNetv2_predict does and the default of "
        "accurate; float32 is more exact",
    )
    how.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="what the network computes in; auto is what nnUNetv2_predict does, float16 on CUDA and float32 elsewhere",
    )
    how.add_argument(
        "--orientation",
        choices=("training", "file"),
        default="training",
        help="training: turn scans as the images of the training lay, where the model records that, and label maps "
        "back; file: take voxels in the order of the file, as nnUNetv2_predict does",
    )
    how.add_argument(
        "-device",
        metavar="DEVICE",
        help="cuda, cuda:1, cpu or mps; cuda where there is such a device, else cpu, if not given",
    )
    how.add_argument(
        "-num_gpus",
        type=count,
        default=1,
        metavar="N",
        help="how many GPUs share the cases, one process each; with -device cpu, processes on the CPU",
    )
    how.add_argument(
        "--backend",
        choices=("torch", "openvino", "auto"),
        default="torch",
        help="what runs the network; openvino (CPU only) is about twice as fast and differs by up to 5e-4 in logits; "
        "auto takes it where it is installed and the device is the CPU",
    )
    how.add_argument(
        "-prev_stage_predictions",
        type=Path,
        metavar="FOLDER",
        help="label maps of a cascade's first stage; if not given, the model beside the second stage's predicts them",
    )
    how.add_argument(
        "--not_on_device", action="store_true", help="add windows up on the CPU: for GPUs of little memory"
    )


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to write")
    what.add_argument(
        "--outputs",
        choices=("merged", "per_source", "per_class"),
        help="one label map; one per source dataset of a MultiTalent model, in that source's own integers (the default "
        "of models with a head per source); or one binary mask per class",
    )
    what.add_argument(
        "--heads",
        "-target_id",
        nargs="+",
        metavar="ID",
        help="for models with a head per source (MultiTalent for nnU-Net v2): predict these only, by the ID of the "
        "dataset or the name of the source; all if not given",
    )
    what.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="predict these classes only; models with one sigmoid output per class do not compute the others",
    )
    what.add_argument(
        "--level",
        type=int,
        metavar="N",
        help="for models with a label tree: write its nodes N levels below the root instead of leaves",
    )
    what.add_argument(
        "--nodes", nargs="+", metavar="NODE", help="for models with a label tree: write these nodes, inner ones too"
    )
    what.add_argument(
        "--output_type",
        nargs="+",
        choices=("nii.gz", "nii", "nrrd", "mha", "seg.nrrd", "dicom_seg", "dicom_seg_binary", "rtstruct"),
        help="format of the label maps, or several; that of the model's dataset if not given; the last three are DICOM "
        "objects of the series that is predicted",
    )
    what.add_argument(
        "--repair", action="store_true", help="make new UIDs for DICOM objects where the series has empty ones"
    )
    what.add_argument(
        "--save_probabilities",
        action="store_true",
        help="also write probabilities (of --classes, or all) as nnUNetv2_ensemble reads them",
    )
    largest = what.add_mutually_exclusive_group()
    largest.add_argument(
        "--keep_largest", nargs="+", default=(), metavar="CLASS", help="keep the largest connected component of these"
    )
    largest.add_argument(
        "-pp_pkl_file", type=Path, metavar="FILE", help="postprocessing.pkl of nnUNetv2_determine_postprocessing"
    )
    what.add_argument("--statistics", action="store_true", help="volume, mean and sd of HU per class, as JSON and CSV")
    what.add_argument("--preview", action="store_true", help="a picture with coloured overlays per case")
    what.add_argument("--report", action="store_true", help="versions, model, seconds and memory per stage as JSON")


def _add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    run = parser.add_argument_group("how to run over many cases")
    existing = run.add_mutually_exclusive_group()
    existing.add_argument("--continue_prediction", action="store_true", help="keep complete results of an earlier run")
    existing.add_argument("--overwrite", action="store_true", help="replace results of an earlier run")
    for flag, work in (("npp", "read and resample images"), ("nps", "write results")):
        run.add_argument(
            f"-{flag}",
            type=count,
            default=os.environ.get(f"nnUNet_{flag}", "3"),
            metavar="N",
            help=f"threads that {work}; nnUNet_{flag} in the environment sets another default",
        )
    run.add_argument(
        "--pseudonyms",
        type=Path,
        metavar="FILE",
        help="number the cases; FILE, a CSV table outside OUTPUT that is kept from run to run, says who is who",
    )
    run.add_argument("-num_parts", type=int, default=1, metavar="N", help="how many runs share the cases")
    run.add_argument("-part_id", type=int, default=0, metavar="N", help="which of these runs this is, from 0")
    run.add_argument("--disable_progress_bar", action="store_true", help="no progress bar")


def _model_folder(arguments: argparse.Namespace) -> Path:
    if arguments.m is not None:
        if arguments.d is not None:
            raise UserError("Expected either -m or -d, but got both; -m names the model folder itself.")
        return Path(arguments.m)
    if arguments.d is None or arguments.c is None:
        raise UserError("Expected a model: give -d and -c (with -tr and -p if they are not nnU-Net's), or -m.")
    results = nnunet_folder("nnUNet_results")
    return results / dataset_name(arguments.d) / f"{arguments.tr}__{arguments.p}__{arguments.c}"


def _require_inputs(model_folder: Path, images: Path) -> None:
    """Tells of a mistyped path before torch is imported, which takes seconds."""
    if not model_folder.is_dir():
        raise UserError(f"Expected a model folder at {model_folder}, but there is none.")
    if not images.exists():
        raise UserError(f"Expected images in {images}, but it does not exist.")


def _run(arguments: argparse.Namespace) -> int:
    folder = _model_folder(arguments)
    _require_inputs(folder, arguments.i)
    if arguments.pseudonyms is not None and arguments.o.resolve() in arguments.pseudonyms.resolve().parents:
        raise UserError(f"Expected the table of --pseudonyms outside the results, but got {arguments.pseudonyms}.")
    from nnunetv2_ext.inference.prediction_run import PredictionOptions
    from nnunetv2_ext.inference.predictor import Predictor

    predictor = Predictor.from_model_folder(
        folder,
        # As the two commands of nnU-Net: one has five folds, the other takes those that there are.
        folds=arguments.f or (_FOLDS if arguments.m is None else None),
        checkpoint_name=arguments.chk,
        mode=arguments.mode,
        step_size=arguments.step_size,
        mirroring=False if arguments.disable_tta else None,
        sums=arguments.sums,
        precision=arguments.precision,
        device=arguments.device,
        backend=arguments.backend,
        outputs=arguments.outputs,
        heads=arguments.heads,
        level=arguments.level,
        nodes=arguments.nodes,
        classes=arguments.classes,
        on_device=not arguments.not_on_device,
        keep_largest=arguments.pp_pkl_file or arguments.keep_largest,
        orientation=arguments.orientation,
    )
    options = PredictionOptions(
        output_type=arguments.output_type,
        repair=arguments.repair,
        statistics=arguments.statistics,
        preview=arguments.preview,
        report=arguments.report,
        save_probabilities=arguments.save_probabilities,
        continue_prediction=arguments.continue_prediction,
        overwrite=arguments.overwrite,
        pseudonyms=arguments.pseudonyms,
        previous_stage=arguments.prev_stage_predictions,
        preparing_workers=arguments.npp,
        finishing_workers=arguments.nps,
        num_gpus=arguments.num_gpus,
        num_parts=arguments.num_parts,
        part_id=arguments.part_id,
        progress_bar=not (arguments.quiet or arguments.disable_progress_bar),
    )
    outcome = predictor.predict_folder(arguments.i, arguments.o, options)
    return EXIT_BATCH_HAD_FAILURES if outcome.failures else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(_parser(), _run, argv)
