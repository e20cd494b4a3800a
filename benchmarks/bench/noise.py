"""Whether the machine held still: the same work, done in every round, should take as long in all of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from benchmarks.bench.estimates import ENOUGH_ROUNDS
from benchmarks.bench.warm_up import WarmUp

STEADY, NOISY = "steady", "noisy"
# A spread above it is noise that no difference of this size would stand out from.
LIMIT = 0.1
MACHINE = "machine"
_NUMBERS = 1_000_000
_REPEATS = 5
# The width of a normal distribution's middle half, in standard deviations.
_NORMAL_QUARTILES = 1.349


class ReferenceWork:
    """Work that never changes, on one core and through its caches: what it takes tells of the machine alone."""

    def __init__(self) -> None:
        self._numbers = np.random.default_rng(0).random(_NUMBERS, np.float32)

    def __call__(self) -> float:
        """Seconds to sort a million numbers: the median of a few times."""
        seconds = []
        for _ in range(_REPEATS):
            numbers = self._numbers.copy()
            started = time.perf_counter()
            numbers.sort()
            seconds.append(time.perf_counter() - started)
        return median(seconds)


def spread(rounds: Sequence[float]) -> float:
    """How far rounds lie apart, as a share of their median: what a standard deviation is where they lie normally.

    From the quartiles, so that one or two disturbed rounds of nine, which move no median, count for nothing.
    """
    low, middle, high = np.quantile(rounds, [0.25, 0.5, 0.75])
    return float((high - low) / _NORMAL_QUARTILES / middle)


def judge_noise(rounds: Mapping[str, Sequence[float]], warm_ups: Mapping[str, WarmUp]) -> dict[str, Any]:
    """The `noise` part of `results.json`.

    Args:
        rounds: seconds of the same work by round, of each model by its id and of `MACHINE`.
        warm_ups: of each model.
    """
    spreads = {name: spread(times) for name, times in rounds.items()}
    reasons = [
        f"{_named(name)} took from {min(rounds[name]) / median(rounds[name]):.2f} to "
        f"{max(rounds[name]) / median(rounds[name]):.2f} of its usual time for the same work: "
        f"a spread of {100 * value:.0f} %"
        for name, value in spreads.items()
        if value > LIMIT
    ]
    reasons += [
        f"{name} was still getting faster after {warm_up.calls} calls to warm up"
        for name, warm_up in warm_ups.items()
        if not warm_up.settled
    ]
    count = len(rounds[MACHINE])
    if count < ENOUGH_ROUNDS:
        reasons.append(f"{count} {'round is' if count == 1 else 'rounds are'} too few for an interval")
    return {
        "verdict": NOISY if reasons else STEADY,
        "spread": float(f"{max(spreads.values()):.6g}"),
        "limit": LIMIT,
        "reasons": reasons,
        "warm_up": {name: warm_up.calls for name, warm_up in warm_ups.items()},
        "rounds": {name: [float(f"{value / median(times):.6g}") for value in times] for name, times in rounds.items()},
    }


def _named(name: str) -> str:
    return "the machine's reference work" if name == MACHINE else name
