"""``nnUNetv2_ext_to_dicom``: a label map as a DICOM object of the series that it was made for."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_ext.cli._command import make_parser, run_command

logger = logging.getLogger("nnunetv2_ext.to_dicom")

#: DICOM's label maps have pixels of 16 bits.
MOST_LABELS = 65535


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = make_parser(
        "nnUNetv2_ext_to_dicom",
        "Writes a label map as a DICOM segmentation (SEG) or structure set (RTSTRUCT) of the series that it was made "
        "for. Research use only; not a medical device.",
    )
    parser.add_argument("label_map", type=Path, help="label map on the voxels of the series, its axes in any order")
    parser.add_argument("-series", type=Path, required=True, metavar="FOLDER", help="folder with the DICOM series")
    parser.add_argument("-o", type=Path, required=True, metavar="FILE", help="what to write")
    parser.add_argument(
        "--output_type",
        choices=("dicom_seg", "dicom_seg_binary", "rtstruct"),
        default="dicom_seg",
        help="dicom_seg: a label map (LABELMAP), small and young; dicom_seg_binary: a mask per class (BINARY), which "
        "older programs read; rtstruct: contours",
    )
    parser.add_argument("--order", metavar="ORDER", help="what the integers mean; default: what the label map says")
    parser.add_argument("--algorithm", default="not stated", metavar="NAME", help="what made the label map")
    parser.add_argument("--algorithm_version", default="not stated", metavar="VERSION", help="its version")
    parser.add_argument("--repair", action="store_true", help="make new UIDs where the series has empty ones")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    return run_command(parser, _run, argv)


def _run(arguments: argparse.Namespace) -> None:
    from nnunetv2_ext.images.dicom_source import Algorithm, on_source, only_series, read_source
    from nnunetv2_ext.images.label_maps import write_dicom
    from nnunetv2_ext.images.reading import read_slices, read_volume
    from nnunetv2_ext.images.segments import segments_of
    from nnunetv2_ext.labels.label_order import as_integers
    from nnunetv2_ext.labels.order_of_files import order_of
    from nnunetv2_ext.utilities.errors import UserError
    from nnunetv2_ext.utilities.files import refuse_existing
    from nnunetv2_ext.utilities.folders import refuse_overlap
    from nnunetv2_ext.utilities.locks import output_lock

    file, target = arguments.label_map, arguments.o
    # The next reader would take the object for a slice.
    refuse_overlap([arguments.series, file], target)
    refuse_existing(target, arguments.overwrite)
    order = order_of([file], arguments.order)
    if order is None:
        raise UserError(f"Expected names of the integers in {file} or beside it, but found none; pass --order.")
    labels = read_volume(file)
    files = only_series(arguments.series)
    source = read_source(files, read_slices(files).grid, repair=arguments.repair)
    array = on_source(labels, source, file).array
    names = {value: "+".join(sorted(classes)) for value, classes in order.classes_of_value.items()}
    try:
        array = as_integers(array)
        if not 0 <= array.min() <= array.max() <= MOST_LABELS:
            raise UserError(f"Expected labels from 0 to {MOST_LABELS}, but found {array.min()} to {array.max()}.")
        if order.ignore_label is not None:
            array = array * (array != order.ignore_label)
        found = segments_of(array, names, order.codes)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    algorithm = Algorithm(arguments.algorithm, arguments.algorithm_version)
    with output_lock(target):
        refuse_existing(target, arguments.overwrite)
        write_dicom(array, found, source, target, arguments.output_type, algorithm)
    logger.info("Wrote %s (%.1f MB).", target, target.stat().st_size / 1e6)
