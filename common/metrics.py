"""Metrics by task, from scikit-learn and scipy, which are imported when a metric is computed and not before."""

from __future__ import annotations

import base64
import warnings
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task

# The first metric of each kind is its default.
METRICS = {
    SINGLE_LABEL: ("accuracy", "macro-f1", "f1", "f1-accuracy", "matthews"),
    MULTI_LABEL: ("micro-f1", "macro-f1", "exact-match"),
    REGRESSION: ("pearson-spearman", "pearson", "spearman", "mse"),
}
LOWER_IS_BETTER = frozenset({"mse"})


def available_metrics(task: Task) -> tuple[str, ...]:
    """The metrics that fit a task; plain F1 needs two labels, of which the second counts as positive."""
    names = METRICS[task.problem_type]
    if task.problem_type == SINGLE_LABEL and len(task.labels) != 2:
        return tuple(name for name in names if name not in ("f1", "f1-accuracy"))
    return names


def choose_metric(task: Task, name: str | None) -> str:
    """`name` if it measures this kind of task, else the kind's default.

    Raises:
        InputError: a metric of another kind of task, or F1 of a task of more than two labels.
    """
    names = available_metrics(task)
    if name is None:
        return names[0]
    if name not in names:
        raise InputError(f"the metric '{name}' does not fit this task; choose one of {', '.join(names)}")
    return name


def evaluate(task: Task, scores: NDArray[np.floating], targets: NDArray[Any]) -> dict[str, float]:
    """Every metric that fits the task.

    Args:
        scores: `[rows, labels]`, what `common.labels.activate` gives.
        targets: what `Task.targets` gives.
    """
    tally = Tally(task)
    tally.add(scores, targets)
    return tally.metrics()


class Tally:
    """Counts answers as they come, so that metrics need no memory a row (but for regression: 8 bytes a row).

    For one label, rows are counted by (target, answer), and the counts weigh those pairs when the metric is computed;
    for several, by label: rows that have it, that are answered with it, and both.
    """

    def __init__(self, task: Task):
        self._task = task
        self._pairs: Counter[tuple[int, int]] = Counter()
        # A line for each label, and one for all rows and, in its last place, the wholly right ones.
        self._labels = np.zeros((len(task.labels) + 1, 3), np.int64)
        self._numbers: list[NDArray[np.float32]] = []
        self.rows = 0

    def add(self, scores: NDArray[np.floating], targets: NDArray[Any]) -> None:
        """Counts some rows; the arguments are those of `evaluate`."""
        self.rows += len(scores)
        if self._task.problem_type == REGRESSION:
            self._numbers.append(np.stack([targets, scores[:, 0]]).astype(np.float32))
        elif self._task.problem_type == SINGLE_LABEL:
            self._pairs.update(zip(targets.tolist(), scores.argmax(axis=-1).tolist(), strict=True))
        else:
            right, chosen = targets > 0, self._task.holds(scores)
            self._labels[:-1] += np.stack([right.sum(0), chosen.sum(0), (right & chosen).sum(0)], axis=1)
            self._labels[-1] += (len(scores), 0, (right == chosen).all(axis=1).sum())

    def state(self) -> Any:
        """What was counted, as JSON can hold it."""
        if self._task.problem_type == REGRESSION:
            numbers = np.concatenate(self._numbers, axis=1) if self._numbers else np.zeros((2, 0), np.float32)
            return base64.b64encode(numbers.tobytes()).decode()
        if self._task.problem_type == SINGLE_LABEL:
            return [[target, answer, count] for (target, answer), count in self._pairs.items()]
        return self._labels.tolist()

    def merge(self, state: Any) -> None:
        """Adds what another tally of the same task has counted, by its `state`."""
        if self._task.problem_type == REGRESSION:
            numbers = np.frombuffer(base64.b64decode(state), np.float32).reshape(2, -1)
            self._numbers.append(numbers)
            self.rows += numbers.shape[1]
        elif self._task.problem_type == SINGLE_LABEL:
            self._pairs.update({(target, answer): count for target, answer, count in state})
            self.rows += sum(count for _, _, count in state)
        else:
            counts = np.asarray(state, np.int64)
            self._labels += counts
            self.rows += int(counts[-1, 0])

    def metrics(self) -> dict[str, float]:
        """Every metric that fits the task, over the rows counted so far (at least one)."""
        if self._task.problem_type == REGRESSION:
            targets, predicted = np.concatenate(self._numbers, axis=1)
            return {name: _measure_number(name, predicted, targets) for name in available_metrics(self._task)}
        if self._task.problem_type == MULTI_LABEL:
            return {name: _measure_counts(name, self._labels) for name in available_metrics(self._task)}
        pairs = list(self._pairs)
        targets = np.array([target for target, _ in pairs])
        predicted = np.array([answer for _, answer in pairs])
        weights = np.array([self._pairs[pair] for pair in pairs])
        with warnings.catch_warnings():
            # scikit-learn warns where only one label occurs; what it then answers is what we want.
            warnings.simplefilter("ignore")
            return {name: _measure_labels(name, predicted, targets, weights) for name in available_metrics(self._task)}


def _measure_counts(name: str, counts: NDArray[np.int64]) -> float:
    """A metric of rows of several labels; F1 of a label that is neither asked for nor answered counts as 0."""
    right, chosen, both = counts[:-1].T
    match name:
        case "exact-match":
            return float(counts[-1, 2] / counts[-1, 0])
        case "micro-f1":
            return float(2 * both.sum() / max(right.sum() + chosen.sum(), 1))
        case _:
            return float(np.mean(2 * both / np.maximum(right + chosen, 1)))


def _measure_labels(
    name: str, predicted: NDArray[np.int64], targets: NDArray[np.int64], weights: NDArray[np.int64]
) -> float:
    from sklearn import metrics

    match name:
        case "accuracy":
            return float(metrics.accuracy_score(targets, predicted, sample_weight=weights))
        case "matthews":
            return float(metrics.matthews_corrcoef(targets, predicted, sample_weight=weights))
        case "f1":
            return float(metrics.f1_score(targets, predicted, sample_weight=weights, zero_division=0.0))
        case "f1-accuracy":
            # GLUE's summary of MRPC and QQP: the mean of the two.
            parts = [_measure_labels(part, predicted, targets, weights) for part in ("f1", "accuracy")]
            return sum(parts) / 2
        case _:
            # Only labels that occur in targets or answers count, as scikit-learn has it.
            return float(
                metrics.f1_score(targets, predicted, average="macro", sample_weight=weights, zero_division=0.0)
            )


def _measure_number(name: str, predicted: NDArray[np.float32], targets: NDArray[np.float32]) -> float:
    from scipy import stats

    if name == "mse":
        return float(np.mean((predicted.astype(np.float64) - targets) ** 2))
    # A correlation with a constant is undefined; it counts as none.
    if len(targets) < 2 or np.ptp(predicted) == 0 or np.ptp(targets) == 0:
        return 0.0
    with warnings.catch_warnings():
        # scipy warns of numbers that lie close together beside their size.
        warnings.simplefilter("ignore")
        pearson = float(stats.pearsonr(predicted.astype(np.float64), targets.astype(np.float64)).statistic)
        spearman = float(stats.spearmanr(predicted, targets).statistic)
    return {"pearson": pearson, "spearman": spearman, "pearson-spearman": (pearson + spearman) / 2}[name]
