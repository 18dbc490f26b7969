"""Several processes share the cases of a run, one per device: each takes the next case when it is free.

A process holds one predictor and takes one case after the other through all stages. What a library crashes on costs
one case; the process that follows reads the model anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_ext.images.reading import Case
from nnunetv2_ext.inference.model.folder import read_model
from nnunetv2_ext.inference.parts import PredictorSettings, find_devices
from nnunetv2_ext.inference.pipeline import Failure, Outcome
from nnunetv2_ext.inference.predictor import Predictor
from nnunetv2_ext.inference.reporting.report import StageClock
from nnunetv2_ext.inference.results import Results
from nnunetv2_ext.inference.stages import CaseStages
from nnunetv2_ext.utilities.executors import worker_number
from nnunetv2_ext.utilities.parallel import parallel_map

if TYPE_CHECKING:
    from nnunetv2_ext.inference.prediction_run import PredictionOptions


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

    def __call__(self, item: _Item) -> tuple[list[Failure[Case]], dict[str, dict[str, float]]]:
        """The failure of the case, if any, and what its stages took."""
        predictor = _predictor_here(self)
        results = Results(predictor, self.target, [item.case], self.options)
        with StageClock() as clock:
            outcome = CaseStages(predictor, results, self.options, clock).run([item.case])
        return outcome.failures, clock.totals()


@cache
def _predictor_here(share: _Share) -> Predictor:
    model = read_model(share.model_folder, share.folds, share.checkpoint_name)
    return Predictor(model, replace(share.settings, device=share.devices[worker_number()]))


def share_cases(
    predictor: Predictor, results: Results, options: PredictionOptions, cases: Sequence[Case], clock: StageClock
) -> Outcome[Case]:
    """Predicts cases in as many processes as ``options.num_gpus`` says.

    Args:
        predictor: Is read anew in every process; this one computes nothing.
        results: Where files go.
        options: What to write.
        cases: What to predict.
        clock: Is told what the processes measure.

    Returns:
        Which cases succeeded and which failed.

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
    outcome: Outcome[Case] = Outcome()
    for shared in parallel_map(
        share,
        [_Item(case) for case in cases],
        processes=len(share.devices),
        description="Predicting",
        progress=options.progress_bar,
    ):
        case = shared.item.case
        if shared.result is None:
            outcome.failures.append(Failure(case, "predicting", shared.error or ""))
            continue
        failures, stages = shared.result
        clock.add(case.identifier, stages)
        outcome.failures += failures
        if not failures:
            outcome.done.append(case)
    return outcome
