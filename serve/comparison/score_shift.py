"""How far two models' scores lie apart, over a stream of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# The histogram's bins are this wide, so that its quantiles are right within half of it.
RESOLUTION = 1e-4


@dataclass(frozen=True)
class Shift:
    """Absolute differences of scores; quantiles are by nearest rank.

    Attributes:
        measure: what is measured in each row.
        rows: with a measure.
    """

    measure: str
    rows: int
    mean: float
    median: float
    p95: float
    p99: float
    maximum: float


class ShiftHistogram:
    """Counts differences between 0 and 1, each rounded to `RESOLUTION`; mean and maximum stay exact."""

    def __init__(self, measure: str):
        self._measure = measure
        self._counts = [0] * (round(1 / RESOLUTION) + 1)
        self._rows = 0
        self._total = 0.0
        self._maximum = 0.0

    def add(self, value: float) -> None:
        """Counts one row's difference."""
        self._counts[round(value / RESOLUTION)] += 1
        self._rows += 1
        self._total += value
        self._maximum = max(self._maximum, value)

    def result(self) -> Shift | None:
        """None where no row was counted."""
        if not self._rows:
            return None
        below = np.cumsum(self._counts)
        return shift_of(
            self._measure,
            self._rows,
            self._total / self._rows,
            self._maximum,
            lambda rank: float(np.searchsorted(below, rank)) * RESOLUTION,
            self._rows,
        )


def shift_of(
    measure: str, rows: int, mean: float, maximum: float, value_at: Callable[[int], float], ranked: int
) -> Shift:
    """A `Shift` whose quantiles come from `value_at(rank)`, ranks from 1 to `ranked` in ascending order."""
    # Whole numbers, since 0.95 × rows may round up past a rank.
    median, p95, p99 = (value_at(-(-percent * ranked // 100)) for percent in (50, 95, 99))
    return Shift(measure, rows, mean, median, p95, p99, maximum)
