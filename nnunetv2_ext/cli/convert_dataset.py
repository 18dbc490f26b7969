"""``nnUNetv2_ext_convert_dataset``: a published dataset becomes an nnU-Net raw dataset."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_ext.cli._command import (
    EXIT_BATCH_HAD_FAILURES,
    add_group_argument,
    add_orientation_argument,
    count,
    make_parser,
    print_table,
    run_command,
)
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.names import printable


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    from nnunetv2_ext.dataset_conversion.findings import ACCEPTABLE

    parser = make_parser(
        "nnUNetv2_ext_convert_dataset",
        "Turns a published dataset, or any folder of images with label maps or masks, into an nnU-Net raw dataset. "
        "Every case is checked; odd ones are listed in conversion_report.json. An interrupted conversion goes on "
        "where it stopped when the same command is run again.",
    )
    parser.add_argument("dataset", nargs="?", metavar="NAME", help="which dataset, see --list")
    parser.add_argument("-i", "--input", type=Path, metavar="SOURCE", help="folder (or datalist) of the dataset")
    parser.add_argument("-d", "--dataset_id", type=int, metavar="ID", help="ID of the nnU-Net dataset, 1 to 999")
    parser.add_argument("-n", "--dataset_name", help="name of the nnU-Net dataset; the dataset's own by default")
    parser.add_argument(
        "-np", "--num_processes", type=count, help="cases converted at a time; nnU-Net's default if unset"
    )
    parser.add_argument("--list", action="store_true", help="list the datasets; with NAME, the layout it expects")
    parser.add_argument("--dry_run", action="store_true", help="only look for the cases and say what was found")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an existing dataset of this name by the complete new one",
    )
    parser.add_argument("--copy_images", action="store_true", help="copy images instead of linking them")
    parser.add_argument("--resample_labels", action="store_true", help="resample labels whose grid is not the image's")
    parser.add_argument("--strict", action="store_true", help="treat warnings as errors")
    parser.add_argument(
        "--accept",
        nargs="+",
        default=[],
        choices=ACCEPTABLE,
        metavar="FINDING",
        help=f"convert cases with these findings all the same: {', '.join(ACCEPTABLE)}",
    )
    parser.add_argument(
        "--regions", action="store_true", help="write organ-with-tumour classes where the field uses them"
    )
    add_orientation_argument(
        parser, "turn all images and label maps so that x, y and z run towards right, anterior, superior (or LPS, ...)"
    )
    add_group_argument(parser)
    parser.add_argument("--overlaps", choices=("regions", "last"), help="overlapping masks: regions, or the last wins")
    parser.add_argument("--order", help="generic layouts: label order (name, JSON file or dataset.json)")
    parser.add_argument("--image", help="generic layouts: where images are, as in 'images/{case}.nii.gz'")
    parser.add_argument("--label", help="generic layouts: where labels are, as in '{case}/masks/{class}.nii.gz'")
    parser.add_argument("--test_image", help="generic layouts: where the images of a test set are")
    parser.add_argument("--test_label", help="generic layouts: where their labels are, if there are any")
    parser.add_argument(
        "--channels", nargs="+", metavar="CHANNEL", help="generic layouts: channel names, CT by default"
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="CLASS",
        help="dicom: the structures to convert, as in 'heart' or 'lung_left=Lung_L' for a structure of another name",
    )
    return run_command(parser, _run, argv)


def _run(arguments: argparse.Namespace) -> int:
    from nnunetv2_ext.dataset_conversion.converter import ConversionOptions
    from nnunetv2_ext.dataset_conversion.registry import datasets, description, find_dataset

    if arguments.list:
        if arguments.dataset:
            print(description(find_dataset(arguments.dataset)))
        else:
            print_table((name, entry.about) for name, entry in datasets().items())
        return 0
    if not arguments.dataset or not arguments.input:
        raise UserError("Expected the NAME of a dataset and its folder with -i; see --list for the names.")
    options = ConversionOptions(
        order=arguments.order,
        image=arguments.image,
        label=arguments.label,
        test_image=arguments.test_image,
        test_label=arguments.test_label,
        channel_names=tuple(arguments.channels) if arguments.channels else None,
        classes=tuple(arguments.classes) if arguments.classes else None,
        resample_labels=arguments.resample_labels,
        strict=arguments.strict,
        accept=tuple(arguments.accept),
        copy_images=arguments.copy_images,
        regions=arguments.regions,
        overlaps=arguments.overlaps,
        group=arguments.group,
        orientation=arguments.orientation,
    )
    converter = find_dataset(arguments.dataset).open(arguments.input, options)
    if arguments.dry_run:
        from nnunetv2_ext.dataset_conversion.summary import describe_cases

        print(printable(describe_cases(converter)))
        return EXIT_BATCH_HAD_FAILURES if any(case.problem for case in converter.cases()) else 0
    if arguments.dataset_id is None:
        raise UserError("Expected the ID of the nnU-Net dataset with -d, for example -d 101.")
    from nnunetv2_ext.dataset_conversion.raw_dataset import convert_dataset
    from nnunetv2_ext.dataset_conversion.summary import describe_result
    from nnunetv2_ext.utilities.parallel import default_processes
    from nnunetv2_ext.utilities.paths import nnunet_folder, parse_new_dataset_name

    name = parse_new_dataset_name(arguments.dataset_id, arguments.dataset_name or converter.entry.title)
    result = convert_dataset(
        converter,
        nnunet_folder("nnUNet_raw") / name,
        num_processes=arguments.num_processes or default_processes(),
        overwrite=arguments.overwrite,
        progress=not arguments.quiet,
    )
    if not arguments.quiet or result.failed:
        print(printable(describe_result(converter, result)))
    return EXIT_BATCH_HAD_FAILURES if result.failed else 0
