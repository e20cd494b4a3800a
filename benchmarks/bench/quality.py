"""How well the models answer: each against the labels, with intervals over the rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench.contestants import TEACHER
from benchmarks.bench.estimates import Estimate
from common.labels import REGRESSION, Task
from common.metrics import LOWER_IS_BETTER, available_metrics, evaluate
from common.resampled_metrics import answers_of, resampled_metric
from common.statistics import CONFIDENCE, RESAMPLES, draw_examples
from serve.comparison.label_comparison import wilson_interval

# Counts of drawn rows that are held at a time, and in all: for more rows there are fewer resamples.
_COUNTS_AT_ONCE = 4_000_000
_COUNTS = 100_000_000
_LEAST_RESAMPLES = 200
# The least that metrics can be, where it is not 0.
_LEAST = {"matthews": -1.0}


def measure_quality(
    tasks: Mapping[str, Task],
    scores: Mapping[str, NDArray[np.floating]],
    targets: NDArray[Any],
    metric: str | None,
    seed: int,
) -> dict[str, Any]:
    """Every metric that fits the task, of all models, with percentile bootstrap intervals over the rows.

    All models are measured on the same resamples, so the interval of a retention is that of a paired comparison.

    Args:
        tasks: by model; they differ at most in their thresholds.
        scores: by model, `[rows, labels]`; rows of NaN have no answer and count for none of the models.
        targets: what `Task.targets` gives.
        metric: the one to name first; the task's default where it is None or does not fit.

    Returns:
        The `quality` part of `results.json`. A retention is a model's value of `metric` over the teacher's; None
        for the teacher itself, for an error measure, and where the teacher's is not above 0.
    """
    answered = np.logical_and.reduce([~np.isnan(each).any(axis=1) for each in scores.values()])
    targets, scores = targets[answered], {id: each[answered] for id, each in scores.items()}
    names = available_metrics(tasks[TEACHER])
    metric = metric if metric in names else names[0]
    if not len(targets):
        return {"metric": metric, "rows": 0, "models": {}}
    values = {id: evaluate(tasks[id], scores[id], targets) for id in tasks}
    resampled = _resample(tasks, scores, targets, names, seed)
    # Where no resample differs, as where all rows are right, the bootstrap is sure of what so few rows cannot tell.
    # Of numbers there is no such share.
    unseen = None if tasks[TEACHER].problem_type == REGRESSION else wilson_interval(0, len(targets)).high
    models = {}
    for id in tasks:
        metrics = {
            name: _estimate(values[id][name], resampled[id][name], unseen, (_LEAST.get(name, 0.0), 1.0)).as_dict()
            for name in names
        }
        retention = None
        base, drawn = values[TEACHER][metric], resampled[TEACHER][metric]
        if id != TEACHER and metric not in LOWER_IS_BETTER and base > 0:
            kept = np.divide(resampled[id][metric], drawn, out=np.full(len(drawn), np.nan), where=drawn > 0)
            room = unseen and unseen / base
            retention = _estimate(values[id][metric] / base, kept[~np.isnan(kept)], room, (0.0, np.inf)).as_dict()
        models[id] = {"metrics": metrics, "retention": retention}
    return {"metric": metric, "rows": len(targets), "models": models}


def _resample(
    tasks: Mapping[str, Task],
    scores: Mapping[str, NDArray[np.floating]],
    targets: NDArray[Any],
    names: tuple[str, ...],
    seed: int,
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Each model's metrics on each resample, by model and metric: `[resamples]` each."""
    parts: dict[str, dict[str, list[NDArray[np.float64]]]] = {id: {name: [] for name in names} for id in tasks}
    answers = {id: answers_of(task, scores[id]) for id, task in tasks.items()}
    for counts in _draws(len(targets), seed):
        for id, task in tasks.items():
            for name in names:
                parts[id][name].append(resampled_metric(task, name, answers[id], targets, counts))
    return {id: {name: np.concatenate(each) for name, each in metrics.items()} for id, metrics in parts.items()}


def _draws(rows: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each resample has each row, some resamples at a time."""
    left = min(RESAMPLES, max(_LEAST_RESAMPLES, _COUNTS // rows))
    part = 0
    while left > 0:
        some = min(left, max(1, _COUNTS_AT_ONCE // rows))
        # Each part draws from a stream of its own.
        yield draw_examples(rows, some, seed + part)
        left, part = left - some, part + 1


def _estimate(
    value: float, resampled: NDArray[np.float64], unseen: float | None, limits: tuple[float, float]
) -> Estimate:
    """
    Args:
        unseen: how far, within `limits`, the value may be off where no resample differs from another; None for no
            bounds there.
    """
    if not len(resampled):
        return Estimate(value)
    if np.ptp(resampled) == 0:
        if unseen is None:
            return Estimate(value)
        return Estimate(value, max(limits[0], value - unseen), min(limits[1], value + unseen))
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(low), float(high))
