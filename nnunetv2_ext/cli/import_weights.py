"""``nnUNetv2_ext_import_weights``: a model folder of nnU-Net v2 from published weights."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence

from nnunetv2_ext.cli._command import add_orientation_argument, make_parser, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; see `nnunetv2_ext.checkpoints.model_folder`."""
    parser = make_parser(
        "nnUNetv2_ext_import_weights",
        "Turn a checkpoint (STU-Net, MultiTalent, MONAI bundle, MedNeXt, SuPreM, CT-FM, VISTA3D, nnU-Net v1 or v2, "
        "safetensors) into a model folder "
        "with which nnUNetv2_predict works. Nothing in the file is executed.",
    )
    parser.add_argument("file", metavar="FILE", help="checkpoint file, or a folder that holds one")
    parser.add_argument(
        "-d", dest="dataset", required=True, metavar="DATASET_NAME", help="name of the model: DatasetXXX_Name"
    )
    parser.add_argument("-c", dest="configuration", help="configuration of the plans; default: the checkpoint's")
    parser.add_argument("-f", dest="fold", default="0", help="fold that the weights become: a number or 'all'")
    parser.add_argument("-tr", dest="trainer", help="trainer that builds the network; default: the fitting one")
    parser.add_argument("-results", metavar="DIR", help="results folder; default: $nnUNet_results")
    parser.add_argument(
        "--plans",
        metavar="TEMPLATE",
        help="plan template or plans file; default: the plans beside FILE, else those published with the format",
    )
    parser.add_argument(
        "--labels",
        metavar="ORDER_NAME_OR_JSON",
        help="class names: a label order (nnUNetv2_ext_info label_orders lists them) or a dataset.json",
    )
    parser.add_argument(
        "--head",
        metavar="ID",
        help="of MultiTalent for nnU-Net v2, import the network of this dataset alone, which stock nnU-Net can predict "
        "with and which can be exported; default: all heads",
    )
    add_orientation_argument(
        parser, "what x, y and z of the training's images ran towards, where you know it: predictions turn scans so"
    )
    parser.add_argument("--source", metavar="URL", help="where FILE was published, for provenance.json")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing model folder")
    return run_command(parser, _run, argv)


def _run(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from nnunetv2_ext.utilities.errors import UserError
    from nnunetv2_ext.utilities.names import printable
    from nnunetv2_ext.utilities.paths import nnunet_folder

    if arguments.fold != "all" and not arguments.fold.isdigit():
        raise UserError(f"Expected a number or 'all' as fold, but got {arguments.fold!r}.")
    results = Path(arguments.results) if arguments.results else nnunet_folder("nnUNet_results")

    from nnunetv2_ext.checkpoints import read_checkpoint
    from nnunetv2_ext.checkpoints.dataset_json import labels_of
    from nnunetv2_ext.checkpoints.model_folder import write_model_folder
    from nnunetv2_ext.experiment_planning.templates import load_template
    from nnunetv2_ext.labels.label_order import LabelOrder

    if arguments.trainer:
        from nnunetv2_ext.training.checks import check_trainer_name

        check_trainer_name(arguments.trainer)
    fold = arguments.fold if arguments.fold == "all" else int(arguments.fold)
    # A checkpoint file has no folds; of a model folder the fold of the same number is meant.
    folder_of_folds = Path(arguments.file).is_dir() and any(Path(arguments.file).glob("fold_*"))
    checkpoint = read_checkpoint(
        arguments.file,
        fold=fold if folder_of_folds else None,
        plans=load_template(arguments.plans) if arguments.plans else None,
        labels=labels_of(LabelOrder.read(arguments.labels)) if arguments.labels else None,
        dataset=arguments.head,
    )
    plans_name = None
    if arguments.plans and not (checkpoint.plans or {}).get("plans_name"):
        plans_name = Path(arguments.plans).name.removesuffix(".json")
    folder = write_model_folder(
        checkpoint,
        results,
        arguments.dataset,
        configuration=arguments.configuration,
        fold=fold,
        trainer=arguments.trainer,
        plans_name=plans_name,
        source=arguments.source,
        orientation=arguments.orientation,
        overwrite=arguments.overwrite,
    )
    trainer, plans, configuration = folder.name.split("__")
    print(printable(checkpoint.describe()))
    for note in (*checkpoint.notes, *checkpoint.terms()):
        print(printable(f"Note: {note}"))
    print(f"The model was written to {folder}. Predict with:")
    if arguments.results:
        print(f"export nnUNet_results={shlex.quote(str(results.resolve()))}")
    # Stock nnU-Net knows one head.
    command = "nnUNetv2_ext_predict" if "heads" in checkpoint.architecture.arguments else "nnUNetv2_predict"
    print(
        f"{command} -i INPUT_FOLDER -o OUTPUT_FOLDER -d {arguments.dataset} -tr {trainer} -p {plans} "
        f"-c {configuration} -f {fold}"
    )
