"""Several processes share the cases of a run, one per device: each takes the next case when it is free.

A process holds one predictor. While its network is at work on one case, another may be read and a third one written.
What a library crashes on costs these; the process that follows reads the model anew.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_ext.images.reading import Case
from nnunetv2_ext.inference.model.folder import read_model
from nnunetv2_ext.inference.parts import PredictorSettings, find_devices
from nnunetv2_ext.inference.pipeline import Failure, Outcome
from nnunetv2_ext.inference.predictor import Predictor
from nnunetv2_ext.inference.reporting.report import StageClock
from nnunetv2_ext.inference.results import Results
from nnunetv2_ext.inference.stages import CaseStages, Predicted, Read
from nnunetv2_ext.utilities.executors import WorkerProcesses, worker_number
from nnunetv2_ext.utilities.parallel import parallel_map

if TYPE_CHECKING:
    from nnunetv2_ext.inference.prediction_run import PredictionOptions


# Of several cases in a process, the network is at work on one.
_turn = threading.Lock()


@dataclass(frozen=True)
class _Item:
    case: Case

    def __str__(self) -> str:
        return self.case.identifier


@dataclass(frozen=True)
class _Share:
    """Predicts a case in a process that may hold a predictor already; travels to it."""

    model_folder: Path
    folds: tuple[str, ...]
    checkpoint_name: str
    settings: PredictorSettings
    devices: tuple[str, ...]
    target: Path
    options: PredictionOptions

    def __call__(self, item: _Item) -> tuple[list[Failure[Case]], dict[str, dict[str, float]], list[str | None]]:
        """The failure of the case, if any, what its stages took, and how it lies."""
        with _turn:
            predictor = _predictor_here(self)
        results = Results(predictor, self.target, [item.case], self.options)
        with StageClock() as clock:
            stages = _StagesInTurn(predictor, results, self.options, clock)
            outcome = stages.run([item.case])
        return outcome.failures, clock.totals(), stages.orientations


class _StagesInTurn(CaseStages):
    def segment(self, case: Case, read: Read) -> Predicted:
        with _turn:
            return super().segment(case, read)


@cache
def _predictor_here(share: _Share) -> Predictor:
    model = read_model(share.model_folder, share.folds, share.checkpoint_name)
    return Predictor(model, replace(share.settings, device=share.devices[worker_number()]))


def share_cases(
    predictor: Predictor, results: Results, options: PredictionOptions, cases: Sequence[Case], clock: StageClock
) -> tuple[Outcome[Case], list[str | None]]:
    """Predicts cases in as many processes as ``options.num_gpus`` says.

    Args:
        predictor: Is read anew in every process; this one computes nothing.
        results: Where files go.
        options: What to write.
        cases: What to predict.
        clock: Is told what the processes measure.

    Returns:
        Which cases succeeded and which failed; how the scans lie that were read.

    Raises:
        UserError: There are fewer devices.
    """
    model = predictor.model
    share = _Share(
        model.folder,
        model.folds,
        model.checkpoints[0].name,
        predictor.settings,
        tuple(find_devices(predictor.settings.device, options.num_gpus)),
        results.target,
        replace(options, preparing_workers=0, finishing_workers=0, progress_bar=False),
    )
    at_once = 1 + min(options.preparing_workers, 1) + min(options.finishing_workers, 1)
    outcome: Outcome[Case] = Outcome()
    orientations: list[str | None] = []
    for shared in parallel_map(
        share,
        [_Item(case) for case in cases],
        processes=len(share.devices),
        description="Predicting",
        progress=options.progress_bar,
        make_executor=partial(WorkerProcesses, calls_each=at_once),
    ):
        case = shared.item.case
        if shared.result is None:
            outcome.failures.append(Failure(case, "predicting", shared.error or ""))
            continue
        failures, stages, found = shared.result
        clock.add(case.identifier, stages)
        orientations += found
        outcome.failures += failures
        if not failures:
            outcome.done.append(case)
    return outcome, orientations
