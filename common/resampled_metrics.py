"""Metrics of many resamples of the same answers at once, for the bootstrap: those of `common.metrics`, in arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task


def answers_of(task: Task, scores: NDArray[np.floating]) -> NDArray[Any]:
    """What each row is answered: int64 `[rows]` for one label, bool `[rows, labels]` for several, else the number.

    Args:
        scores: `[rows, labels]`, what `common.labels.activate` gives.
    """
    if task.problem_type == SINGLE_LABEL:
        return scores.argmax(axis=-1)
    return task.holds(scores) if task.problem_type == MULTI_LABEL else scores[:, 0]


def resampled_metric(
    task: Task, name: str, answers: NDArray[Any], targets: NDArray[Any], counts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """One metric on each resample: `[resamples]`.

    Args:
        name: one of `common.metrics.available_metrics(task)`.
        answers: what `answers_of` gives.
        targets: what `Task.targets` gives.
        counts: how often each resample has each row, `[resamples, rows]`, rows that sum to the number of rows.
    """
    if task.problem_type == REGRESSION:
        return _of_numbers(name, answers, targets, counts)
    if task.problem_type == SINGLE_LABEL:
        labels = np.arange(len(task.labels))
        answers, targets = answers[:, None] == labels, targets[:, None] == labels
    return _of_labels(name, answers > 0, targets > 0, counts, several=task.problem_type == MULTI_LABEL)


def _of_labels(
    name: str, answered: NDArray[np.bool_], target: NDArray[np.bool_], counts: NDArray[np.float64], *, several: bool
) -> NDArray[np.float64]:
    """`answered` and `target`: `[rows, labels]`, which labels were given and which are right."""
    rows = counts.sum(axis=1)
    if name in ("accuracy", "exact-match"):
        return _ratio(counts @ (answered == target).all(axis=1), rows)
    if name == "f1-accuracy":
        parts = [_of_labels(part, answered, target, counts, several=several) for part in ("f1", "accuracy")]
        return (parts[0] + parts[1]) / 2
    # [resamples, labels] each.
    hits, given, right = (counts @ part.astype(np.float64) for part in (answered & target, answered, target))
    if name == "f1":
        return _ratio(2 * hits[:, 1], given[:, 1] + right[:, 1])
    if name == "micro-f1":
        return _ratio(2 * hits.sum(axis=1), (given + right).sum(axis=1))
    if name == "macro-f1":
        # As scikit-learn has it: of one label, only those that occur in the resample count.
        occurring = np.ones_like(given, bool) if several else given + right > 0
        return _ratio(_ratio(2 * hits, given + right).sum(axis=1), occurring.sum(axis=1))
    # Matthews' coefficient of several classes (Gorodkin 2004).
    covariance = rows * hits.sum(axis=1) - (given * right).sum(axis=1)
    spreads = [rows**2 - (part**2).sum(axis=1) for part in (given, right)]
    return _ratio(covariance, np.sqrt(spreads[0] * spreads[1]))


def _of_numbers(
    name: str, predicted: NDArray[Any], targets: NDArray[Any], counts: NDArray[np.float64]
) -> NDArray[np.float64]:
    from scipy import stats

    predicted, targets = predicted.astype(np.float64), targets.astype(np.float64)
    if name == "mse":
        return _ratio(counts @ (predicted - targets) ** 2, counts.sum(axis=1))
    rows = np.tile(np.arange(len(targets)), len(counts))
    drawn = np.repeat(rows, counts.astype(np.int64).ravel()).reshape(len(counts), -1)
    pearson = _correlation(predicted[drawn], targets[drawn])
    if name == "pearson":
        return pearson
    spearman = _correlation(*(stats.rankdata(values[drawn], axis=1) for values in (predicted, targets)))
    return spearman if name == "spearman" else (pearson + spearman) / 2


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Row by row; a correlation with a constant counts as none."""
    first, second = (values - values.mean(axis=1, keepdims=True) for values in (first, second))
    spreads = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    return _ratio((first * second).sum(axis=1), spreads)


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[Any]) -> NDArray[np.float64]:
    """The quotient, and 0 where the denominator is 0."""
    result: NDArray[np.float64] = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
    return result
