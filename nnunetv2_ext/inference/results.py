"""The files of a prediction run: where they go, what is there already, and what may be kept or replaced."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2_ext.images.files import IMAGE_ENDINGS, PICTURES, image_ending
from nnunetv2_ext.images.label_maps import DICOM_TYPES, is_complete, labels_json
from nnunetv2_ext.images.reading import Case
from nnunetv2_ext.inference.deciding.outputs import OutputMap
from nnunetv2_ext.inference.journal import Journal
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json, require_writable, write_json
from nnunetv2_ext.utilities.folders import refuse_overlap
from nnunetv2_ext.utilities.names import file_name

if TYPE_CHECKING:
    from nnunetv2_ext.inference.prediction_run import PredictionOptions
    from nnunetv2_ext.inference.predictor import Predictor

RECORD_FILE = "prediction.json"


class Results:
    """What a run writes.

    Args:
        predictor: The model.
        target: The output folder; or the output file, for one image and merged outputs.
        cases: All cases of the input, those of other parts of the run included.
        options: How to run.

    Attributes:
        folder: The output folder.
        file: The one output file, where there is no folder of them.
        endings: Type of the label maps -> ending of their files, as ``--output_type`` asks for them.

    Raises:
        UserError: The target suits neither the cases nor the options, or holds a dataset or a model.
    """

    def __init__(self, predictor: Predictor, target: Path, cases: Sequence[Case], options: PredictionOptions) -> None:
        self._predictor, self._options = predictor, options
        types = options.output_types or (predictor.model.file_ending.lstrip("."),)
        self.endings = {kind: DICOM_TYPES.get(kind, f".{kind}") for kind in types}
        self._check_dicom(cases)
        self.folder, self.file = target, None
        ending = image_ending(target, [".seg.nrrd", *self.endings.values()])
        if ending is not None and not target.is_dir():
            self.folder, self.file = target.parent, target
            if len(cases) != 1 or predictor.plan.kind != "merged":
                raise UserError(
                    f"Expected a folder as the output of {len(cases)} cases with {predictor.plan.kind} label maps, but "
                    f"got the file {target}."
                )
            if not options.output_types:
                self.endings = {ending.lstrip("."): ending}
            elif list(self.endings.values()) != [ending]:
                raise UserError(
                    f"Expected an output that ends with {', '.join(self.endings.values())}, which --output_type asks "
                    f"for, but got {target}; leave --output_type out, or name a folder."
                )
        elif target.suffix.lower() in (*PICTURES, ".jpg", ".jpeg", ".gz", ".dcm", ".npz") and not target.is_dir():
            endings = dict.fromkeys((*IMAGE_ENDINGS, ".seg.nrrd", *self.endings.values()))
            raise UserError(
                f"Expected a folder, or a file that ends with one of {', '.join(endings)}, as the output, but got "
                f"{target}."
            )

        self._journal = Journal(self.folder, (options.part_id, options.num_parts), predictor.model)

    @property
    def target(self) -> Path:
        """The output file or folder."""
        return self.file or self.folder

    @property
    def dicom_only(self) -> bool:
        """Whether nothing but DICOM objects is asked for."""
        return self.endings.keys() <= DICOM_TYPES.keys()

    def _check_dicom(self, cases: Sequence[Case]) -> None:
        kinds = [kind for kind in self.endings if kind in DICOM_TYPES]
        others = [case.files[0] for case in cases if not case.dicom]
        if kinds and others:
            raise UserError(
                f"Expected DICOM series as input for --output_type {' '.join(kinds)}, but got {others[0]}; write "
                "another type, which nnUNetv2_ext_to_dicom turns into an object of its series."
            )

    def maps_of(self, case: Case) -> list[tuple[OutputMap, dict[str, Path]]]:
        """Where the label maps of a case go: each with its files by their types."""
        plan = self._predictor.plan
        if self.file is not None:
            return [(plan.maps[0], dict.fromkeys(self.endings, self.file))]
        return [
            (
                output,
                {
                    kind: self.folder / plan.path_of(case.identifier, output, ending)
                    for kind, ending in self.endings.items()
                },
            )
            for output in plan.maps
        ]

    def map_files(self, case: Case) -> list[Path]:
        """The files of all label maps of a case."""
        return [file for _, files in self.maps_of(case) for file in files.values()]

    def statistics_of(self, case: Case) -> Path:
        """Where the figures of a case go."""
        return self.folder / "statistics" / f"{case.identifier}.json"

    def preview_of(self, case: Case, output: OutputMap) -> Path:
        """Where the picture of a label map goes."""
        return self.folder / "previews" / output.name / f"{case.identifier}.png"

    def probabilities_of(self, case: Case) -> tuple[Path, Path]:
        """Where the probabilities of a case go, and what nnU-Net wants to know of the image."""
        stem = case.identifier if self.file is None else self._stem(self.file)
        return self.folder / f"{stem}.npz", self.folder / f"{stem}.pkl"

    def _stem(self, file: Path) -> str:
        return file.name.removesuffix(*self.endings.values())

    def prepare_folder(self, source: Path, cases: Sequence[Case]) -> None:
        """Checks that results may go where they are to go.

        Raises:
            UserError: They would replace images, lie among them, or in a dataset or a model; or the folder cannot be
                written.
        """
        inputs = {os.path.realpath(file) for case in cases for file in case.files}
        for case in cases:
            for file in self.map_files(case):
                if os.path.realpath(file) in inputs:
                    raise UserError(
                        f"The result of {case.identifier} would replace the image {file}; choose another -o."
                    )
        if source.is_dir():
            # The next prediction would take the results for images.
            refuse_overlap([source], self.folder, above=False)
        if any((self.folder / name).is_dir() for name in ("imagesTr", "labelsTr")) or any(self.folder.glob("fold_*")):
            raise UserError(f"Expected a folder for predictions, but {self.folder} holds a dataset or a model.")
        require_writable(self.folder)

    def kept(self, cases: Sequence[Case]) -> list[Case]:
        """The cases that are complete and stay as they are.

        Raises:
            UserError: There are results, which may neither be kept nor replaced.
        """
        existing = {case: [file for file in self.map_files(case) if file.exists()] for case in cases}
        files = [file for found in existing.values() for file in found]
        if not files or self._options.overwrite:
            return []
        if not self._options.continue_prediction:
            raise UserError(
                f"{len(files)} of the results exist already in {self.folder} (such as {files[0].name}); pass "
                "--continue_prediction to keep those that are complete, or --overwrite to replace them."
            )
        notes = self._journal.read()
        return [case for case in cases if existing[case] and self._is_done(case, notes.get(case.identifier))]

    def note(self, case: Case) -> None:
        """Notes that a case is finished, for the next run; a single file is looked at instead."""
        if self.file is None:
            self._journal.add(case.identifier, self.map_files(case))

    def forget(self, case: Case, *, maps: bool) -> None:
        """Removes what an earlier run wrote about a case and this one does not: with --overwrite, it is out of date.

        Args:
            case: The case.
            maps: Remove all, because the case cannot be predicted; otherwise only what is not asked for any more.
        """
        if self._options.overwrite:
            files = self.map_files(case) if maps else []
            for file in files + [file for asked, file in self._extras(case) if maps or not asked]:
                file.unlink(missing_ok=True)

    def describe(self, descriptions: Mapping[Path, Any], alone: bool) -> None:
        """Writes what says how the results came about; without --overwrite, only what is there already may be there."""
        for file, content in descriptions.items():
            if file.exists() and not (self._options.overwrite and alone) and read_json(file) != content:
                raise UserError(
                    f"Expected {self.folder} to hold results of the same model and options, but {file.name} there says "
                    "otherwise; choose another -o or, when no other run writes there, pass --overwrite."
                )
        for file, content in descriptions.items():
            write_json(content, file)

    def descriptions(self, first_stage: Predictor | None = None) -> dict[Path, Any]:
        """File -> what it says about the results: the model, its classes, and what decides about voxels.

        Args:
            first_stage: What predicts the first stage of a cascade in the same run.
        """
        plan, model = self._predictor.plan, self._predictor.model
        if self.file is not None:
            return {self.folder / f"{self._stem(self.file)}_labels.json": labels_json(plan.maps[0].names)}
        contents: dict[str, Any] = {}
        if plan.kind == "merged":
            # What nnU-Net's own tools (ensembling, postprocessing, evaluation) expect beside predictions.
            contents = {"dataset.json": model.dataset_json, "plans.json": model.plans.plans}
            contents["labels.json"] = labels_json(plan.maps[0].names)
        if plan.kind == "per_source":
            contents = {f"{file_name(output.name)}/labels.json": labels_json(output.names) for output in plan.maps}
        if plan.kind == "per_class":
            ending = next(iter(self.endings.values()))
            files = {output.name: str(plan.path_of("<case>", output, ending)) for output in plan.maps}
            labels = {"background": 0, "<the class of the file>": 1}
            contents["labels.json"] = {"labels": labels, "files": files}
        contents[RECORD_FILE] = {
            "checkpoints": model.sha256,
            "format": ", ".join(self.endings.values()),
            **self.settings(),
        }
        if first_stage is not None:
            contents[RECORD_FILE]["checkpoints_of_first_stage"] = first_stage.model.sha256
        # As they are read again: JSON knows neither tuples nor integers as names.
        return {self.folder / name: json.loads(json.dumps(content)) for name, content in contents.items()}

    def settings(self) -> dict[str, Any]:
        """What decides about voxels."""
        predictor = self._predictor
        return {
            "mode": dataclasses.asdict(predictor.mode),
            "precision": predictor.settings.precision,
            "orientation": predictor.settings.orientation,
            "outputs": predictor.plan.kind,
            "keep_largest": dict(predictor.postprocessing.steps),
            "classes": sorted({name for output in predictor.plan.maps for name in output.names.values()}),
        }

    def _extras(self, case: Case) -> list[tuple[bool, Path]]:
        """Files beside the label maps of a case, and whether they are asked for."""
        options = self._options
        return [
            (options.statistics, self.statistics_of(case)),
            *((options.preview, self.preview_of(case, output)) for output, _ in self.maps_of(case)),
            *((options.save_probabilities, file) for file in self.probabilities_of(case)),
        ]

    def _is_done(self, case: Case, noted: Any) -> bool:
        if not all(file.is_file() for asked, file in self._extras(case) if asked):
            return False
        files = self.map_files(case)
        verdict = self._journal.judge(noted, files)
        return all(map(is_complete, files)) if verdict is None else verdict
