"""Two models' numbers for the same rows: differences, correlation, and both against the right answers."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.labels import REGRESSION, Task
from common.metrics import evaluate
from serve.comparison.score_shift import Shift, shift_of
from serve.comparison.scored_rows import Answer

# Rows from which quantiles and correlations are; up to so many they are exact.
SAMPLE_ROWS = 100_000
DIFFERENCE = "difference of the two numbers"


@dataclass(frozen=True)
class NumberComparison:
    """Answers that are numbers.

    Attributes:
        shift: of the absolute differences; mean and maximum are of all rows.
        bias: mean of B less A, of all rows.
        sampled: rows drawn evenly, from which quantiles, correlations and metrics are: all, up to `SAMPLE_ROWS`.
        pearson, spearman: correlation of A and B; NaN where either is constant.
        labelled: sampled rows with a right answer.
        unknown_labels: rows whose label is no number.
        metrics_a, metrics_b: of the labelled rows; empty where there are none.
    """

    shift: Shift
    bias: float
    sampled: int
    pearson: float
    spearman: float
    labelled: int
    unknown_labels: int
    metrics_a: dict[str, float]
    metrics_b: dict[str, float]


class NumberCounts:
    """Counts rows one by one, and keeps an even sample of them (reservoir sampling, Vitter 1985, algorithm R).

    Args:
        seed: of the sample.
    """

    def __init__(self, seed: int = 0) -> None:
        self._task = Task(REGRESSION, ("score",))
        self._rows = 0
        self._total = 0.0
        self._signed = 0.0
        self._maximum = 0.0
        self._unknown = 0
        # A's number, B's, and the right one or NaN.
        self._sample = np.empty((SAMPLE_ROWS, 3))
        self._draws = random.Random(seed)

    def add(self, label: str | None, a: Answer, b: Answer) -> float:
        """Counts a row and returns the absolute difference of its answers.

        Args:
            label: the right answer, if there is one.
        """
        difference = abs(a.score - b.score)
        self._total += difference
        self._signed += b.score - a.score
        self._maximum = max(self._maximum, difference)
        right = self._right(label)
        place = self._rows if self._rows < SAMPLE_ROWS else self._draws.randrange(self._rows + 1)
        if place < SAMPLE_ROWS:
            self._sample[place] = a.score, b.score, right
        self._rows += 1
        return difference

    def result(self) -> NumberComparison:
        """The comparison of the rows counted so far, of which there is at least one."""
        sample = self._sample[: min(self._rows, SAMPLE_ROWS)]
        a, b, right = sample.T
        differences = np.sort(np.abs(a - b))
        shift = shift_of(
            DIFFERENCE,
            self._rows,
            self._total / self._rows,
            self._maximum,
            lambda rank: float(differences[rank - 1]),
            len(sample),
        )
        labelled = ~np.isnan(right)
        pearson, spearman = _correlations(a, b)
        return NumberComparison(
            shift=shift,
            bias=self._signed / self._rows,
            sampled=len(sample),
            pearson=pearson,
            spearman=spearman,
            labelled=int(labelled.sum()),
            unknown_labels=self._unknown,
            metrics_a=self._metrics(a[labelled], right[labelled]),
            metrics_b=self._metrics(b[labelled], right[labelled]),
        )

    def _right(self, label: str | None) -> float:
        if not label:
            return math.nan
        try:
            return float(self._task.targets([label], [""])[0])
        except InputError:
            self._unknown += 1
            return math.nan

    def _metrics(self, answers: NDArray[np.float64], right: NDArray[np.float64]) -> dict[str, float]:
        return evaluate(self._task, answers[:, None], right) if len(right) else {}


def _correlations(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float]:
    """Pearson's and Spearman's; undefined, so NaN, where either side is constant."""
    from scipy import stats

    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan, math.nan
    return float(stats.pearsonr(a, b).statistic), float(stats.spearmanr(a, b).statistic)
