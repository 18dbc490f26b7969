"""Our sliding window and decisions inside nnU-Net's own ``nnUNetPredictor``, for every tool that is built on it.

`autoload` calls `install` when nnU-Net's module was imported and somebody asked for a mode: ``nnUNetv2_predict --mode
fast``, or ``nnUNetv2_ext_mode=fast`` in the environment. What the class then does has stock's arguments, files and
return values. Its own ``predict_from_files`` still sorts inputs and outputs and writes its JSON files; replaced are the
iterators that preprocess (threads instead of processes) and the loop that predicts and exports.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunetv2_ext.inference.model.folder import Model
from nnunetv2_ext.inference.modes import MODES, Mode
from nnunetv2_ext.inference.preparing.nnunet import NnunetPreprocessing
from nnunetv2_ext.inference.preprocessed import PreprocessedCases, sharing_weights
from nnunetv2_ext.utilities.executors import ThisProcess
from nnunetv2_ext.utilities.files import atomic_path

_logger = logging.getLogger(__name__)

#: An element of nnU-Net's data iterators: ``data``, ``data_properties`` and ``ofile``.
Item = Mapping[str, Any]


def install(predictor_class: type, mode: str, command_line: Sequence[str] | None = None) -> None:
    """Gives nnU-Net's class the methods below; a second call changes nothing.

    Args:
        predictor_class: ``nnUNetPredictor``.
        mode: One of `MODES`.
        command_line: The arguments of a stock command. There the mode also decides on mirroring and step size, unless
            they were typed; in the class the caller's hold.

    Raises:
        SystemExit: There is no such mode.
    """
    if mode not in MODES:
        sys.stderr.write(f"Expected one of {', '.join(MODES)} as the mode, but got {mode!r}.\n")
        raise SystemExit(2)
    changed: Any = predictor_class
    if "nnunetv2_ext_stock" in vars(changed):
        return
    changed.nnunetv2_ext_stock = {method.__name__: getattr(changed, method.__name__) for method in _METHODS}
    changed.nnunetv2_ext_mode = MODES[mode]
    for method in _METHODS:
        setattr(changed, method.__name__, method)
    if command_line is not None:
        changed.__init__ = _with_the_modes_options(changed.__init__, MODES[mode], command_line)
    sys.stderr.write(f"nnunetv2_ext: nnU-Net's predictor works in mode {mode}.\n")


def _with_the_modes_options(initialise: Callable[..., None], mode: Mode, command_line: Sequence[str]) -> Any:
    def typed(flag: str) -> bool:
        # argparse takes unique beginnings, too.
        return any(len(word) > 2 and flag.startswith(word.partition("=")[0]) for word in command_line)

    @wraps(initialise)
    def with_the_modes_options(self: Any, *arguments: Any, **options: Any) -> None:
        initialise(self, *arguments, **options)
        if not typed("-step_size"):
            self.tile_step_size = mode.step_size
        if not typed("--disable_tta"):
            self.use_mirroring = mode.mirroring

    return with_the_modes_options


def _model_of(predictor: Any, networks: list[torch.nn.Module]) -> Model:
    """What a predictor of nnU-Net was initialised with."""
    return Model(
        folder=Path(),
        checkpoints=[],
        plans=predictor.plans_manager,
        configuration=predictor.configuration_manager,
        dataset_json=predictor.dataset_json,
        labels=predictor.label_manager,
        networks=networks,
        mirror_axes=predictor.allowed_mirroring_axes,
    )


def _mode_of(predictor: Any) -> Mode:
    """The mode; what the caller set of it holds."""
    mode: Mode = predictor.nnunetv2_ext_mode
    return replace(mode, step_size=predictor.tile_step_size, mirroring=predictor.use_mirroring)


def _segmentation_of(predictor: Any) -> PreprocessedCases:
    network = predictor.network
    network = getattr(network, "module", network)  # of DistributedDataParallel
    network = getattr(network, "_orig_mod", network)  # `WindowNetwork` compiles where nnUNet_compile asks for it
    networks = [
        sharing_weights(network, parameters) for parameters in predictor.list_of_parameters or [network.state_dict()]
    ]
    return PreprocessedCases(
        _model_of(predictor, networks),
        _mode_of(predictor),
        predictor.device,
        on_device=predictor.perform_everything_on_device,
    )


def _what_ours_lacks(predictor: Any, save_probabilities: bool) -> str | None:
    if save_probabilities:
        return "probabilities are asked for"
    if not predictor.use_gaussian:
        return "windows are to be added up without weights"
    if type(predictor.label_manager) is not LabelManager:
        return f"labels are decided by {type(predictor.label_manager).__name__}"
    return None


def _predict_from_files(predictor: Any, method: str, *arguments: Any, **options: Any) -> Any:
    # Stock looks up its own arguments by the signature of this name, to write them to a file.
    predictor.predict_from_files = partial(predictor.nnunetv2_ext_stock[method], predictor)
    try:
        return predictor.nnunetv2_ext_stock["predict_from_files"](predictor, *arguments, **options)
    finally:
        del predictor.predict_from_files


def predict_from_files(
    self: Any,
    list_of_lists_or_source_folder: str | list[list[str]],
    output_folder_or_list_of_truncated_output_files: str | list[str] | None,
    *arguments: Any,
    use_cropped_logits_resampling: bool = False,
    **options: Any,
) -> Any:
    """Stock's method; ``use_cropped_logits_resampling`` keeps TotalSegmentator's own patch away and is ignored."""
    places = list_of_lists_or_source_folder, output_folder_or_list_of_truncated_output_files
    return _predict_from_files(self, "predict_from_files", *places, *arguments, **options)


def predict_from_files_sequential(
    self: Any,
    list_of_lists_or_source_folder: str | list[list[str]],
    output_folder_or_list_of_truncated_output_files: str | list[str] | None,
    save_probabilities: bool = False,
    overwrite: bool = True,
    folder_with_segs_from_prev_stage: str | None = None,
) -> Any:
    """As stock's method: one case after the other, in the calling thread."""
    results = _predict_from_files(
        self,
        "predict_from_files_sequential",
        list_of_lists_or_source_folder,
        output_folder_or_list_of_truncated_output_files,
        save_probabilities,
        overwrite,
        num_processes_preprocessing=0,
        num_processes_segmentation_export=0,
        folder_with_segs_from_prev_stage=folder_with_segs_from_prev_stage,
    )
    return None if results is None else [result for result in results if result is not None]


def predict_single_npy_array(
    self: Any,
    input_image: np.ndarray,
    image_properties: dict[str, Any],
    segmentation_previous_stage: np.ndarray | None = None,
    output_file_truncated: str | None = None,
    save_or_return_probabilities: bool = False,
) -> Any:
    """As stock's method."""
    items = self.get_data_iterator_from_raw_npy_data(
        [input_image], [segmentation_previous_stage], [image_properties], [output_file_truncated], 0
    )
    (result,) = self.predict_from_data_iterator(items, save_or_return_probabilities, 0)
    return result


def predict_from_data_iterator(
    self: Any,
    data_iterator: Iterable[Item],
    save_probabilities: bool = False,
    num_processes_segmentation_export: int = 3,
) -> list[Any]:
    """As stock's method, without a process that exports: nothing large is left to do."""
    lacking = _what_ours_lacks(self, save_probabilities)
    if lacking is not None:
        _logger.warning("nnU-Net's own prediction is used, because %s.", lacking)
        stock = self.nnunetv2_ext_stock["predict_from_data_iterator"]
        return stock(self, data_iterator, save_probabilities, max(1, num_processes_segmentation_export))
    segmentation = _segmentation_of(self)
    writer = self.plans_manager.image_reader_writer_class()
    results: list[Any] = []
    for item in data_iterator:
        data = item["data"]
        if isinstance(data, str):  # how large arrays travel between stock's processes
            file, data = data, torch.from_numpy(np.load(data))
            os.remove(file)
        labels = segmentation(data, item["data_properties"], show_progress=self.allow_tqdm)
        if item["ofile"] is None:
            results.append(labels)
            continue
        with atomic_path(item["ofile"] + self.dataset_json["file_ending"]) as temporary:
            writer.write_seg(labels, str(temporary), item["data_properties"])
        results.append(None)
    return results


def _internal_get_data_iterator_from_lists_of_filenames(
    self: Any,
    input_list_of_lists: list[list[str]],
    seg_from_prev_stage_files: Sequence[str | None] | None,
    output_filenames_truncated: Sequence[str | None] | None,
    num_processes: int,
) -> Iterator[Item]:
    """As stock's method, in threads."""
    every = [None] * len(input_list_of_lists)
    jobs = zip(
        output_filenames_truncated or every, input_list_of_lists, seg_from_prev_stage_files or every, strict=True
    )
    return _items(self, "run_case", jobs, num_processes)


def get_data_iterator_from_raw_npy_data(
    self: Any,
    image_or_list_of_images: np.ndarray | list[np.ndarray],
    segs_from_prev_stage_or_list_of_segs_from_prev_stage: Any,
    properties_or_list_of_properties: Any,
    truncated_ofname: str | Sequence[str | None] | None,
    num_processes: int = 3,
) -> Iterator[Item]:
    """As stock's method, in threads."""
    images, previous, properties, targets = (
        list(values) if isinstance(values, list | tuple) else [values]
        for values in (
            image_or_list_of_images,
            segs_from_prev_stage_or_list_of_segs_from_prev_stage,
            properties_or_list_of_properties,
            truncated_ofname,
        )
    )
    # One None stands for all of them.
    previous, targets = (values * len(images) if values == [None] else values for values in (previous, targets))
    # The preprocessor writes into the properties; in stock's processes that is a copy.
    jobs = zip(targets, images, previous, map(dict, properties), strict=True)
    return _items(self, "run_case_npy", jobs, num_processes)


def _items(predictor: Any, method: str, jobs: Iterable[tuple[Any, ...]], threads: int) -> Iterator[Item]:
    preprocessing = NnunetPreprocessing(_model_of(predictor, []), _mode_of(predictor))

    def prepare(target: str | None, *case: Any) -> Item:
        data, properties = preprocessing.run(method, *case)
        return {"data": torch.from_numpy(data), "data_properties": properties, "ofile": target}

    return _in_threads(prepare, jobs, threads)


def _in_threads(prepare: Callable[..., Item], jobs: Iterable[tuple[Any, ...]], threads: int) -> Iterator[Item]:
    """Results in the order of the jobs, at most one per thread ahead."""
    ahead: deque[Future[Item]] = deque()
    with ThreadPoolExecutor(threads) if threads > 0 else ThisProcess() as pool:
        try:
            for job in jobs:
                ahead.append(pool.submit(prepare, *job))
                if len(ahead) > max(threads, 0):
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_METHODS = (
    predict_from_files,
    predict_from_files_sequential,
    predict_single_npy_array,
    predict_from_data_iterator,
    _internal_get_data_iterator_from_lists_of_filenames,
    get_data_iterator_from_raw_npy_data,
)
