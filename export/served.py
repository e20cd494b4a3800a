"""A graph's logits as its bundle serves them, and how far two such answers are apart."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from common.labels import MULTI_LABEL, REGRESSION, Task, activate
from export.proofs import Calibration


@dataclass(frozen=True)
class Served:
    """How logits become scores and labels.

    Attributes:
        task: with the thresholds that decide which labels hold.
        temperature: divides the logits.
    """

    task: Task
    temperature: float = 1.0

    @classmethod
    def by(cls, task: Task, calibration: Calibration | None) -> Served:
        """As a bundle with this calibration serves them."""
        if calibration is None:
            return cls(task)
        return cls(replace(task, thresholds=tuple(calibration.thresholds or ())), calibration.temperature)

    def scores(self, logits: NDArray[np.floating]) -> NDArray[np.float32]:
        """`[rows, labels]`, both."""
        return activate(logits, self.task.problem_type, self.temperature)

    def labels(self, logits: NDArray[np.floating]) -> NDArray[np.int64] | NDArray[np.bool_]:
        """The answer as it is shown: the best label, the set of labels that hold, or nothing for a number."""
        if self.task.problem_type == REGRESSION:
            return np.zeros(len(logits), np.int64)
        if self.task.problem_type == MULTI_LABEL:
            return self.task.holds(self.scores(logits))
        best: NDArray[np.int64] = logits.argmax(axis=-1)
        return best

    def flips(self, one: NDArray[np.floating], other: NDArray[np.floating]) -> int:
        """Rows whose labels differ."""
        return differing(self.labels(one), self.labels(other))

    def shift(self, one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
        """Greatest difference between scores; for a number above 1, in proportion to it."""
        first, second = self.scores(one), self.scores(other)
        scale = np.maximum(1, np.abs(first)) if self.task.problem_type == REGRESSION else 1
        return float((np.abs(first - second) / scale).max())


def differing(one: NDArray[np.int64] | NDArray[np.bool_], other: NDArray[np.int64] | NDArray[np.bool_]) -> int:
    """Rows of two arrays of labels that are not the same."""
    differs = one != other
    return int((differs.any(axis=-1) if differs.ndim == 2 else differs).sum())
