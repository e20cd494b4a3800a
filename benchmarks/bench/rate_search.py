"""The highest rate of arrivals that a model holds: trials at one rate, the search among rates, and what it comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, combinations_with_replacement
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench.estimates import ENOUGH_ROUNDS, Estimate, quantile_interval
from benchmarks.servers.trace import OK, Fate, Trace
from common.statistics import RESAMPLES, draw_examples

# Of texts, that may take longer than the bound: what "p99 keeps it" means.
SLOW_SHARE = 0.01
# The search ends where the lowest rate that failed is at most this much above the highest that held.
PRECISION = 0.1
# Steps down until no rate is taken to hold.
STEPS_DOWN = 8
# How late the generator may be with one request of a hundred, of the bound or of a p99 over it. What it is late counts
# as latency, so that it can make a model look worse but never better.
_LAG_SHARE = 0.2


@dataclass(frozen=True)
class Trial:
    """One model at one rate.

    Attributes:
        rate: texts a second that were meant to arrive.
        round: from 0.
        trace: what became of each.
        bound: on p99, in seconds.
    """

    rate: float
    round: int
    trace: Trace
    bound: float

    @property
    def errors(self) -> int:
        """Texts without the right answer, those that found no connection included."""
        return len(self.trace.fate) - self.trace.count(OK)

    @property
    def slow(self) -> int:
        """Texts that were not answered within the bound."""
        return self.errors + int((self.trace.latency(OK) > self.bound).sum())

    @property
    def valid(self) -> bool:
        """Whether the generator kept its schedule so far that what was measured is the model."""
        return self._lag <= _LAG_SHARE * max(self.bound, self._p99)

    @property
    def held(self) -> bool:
        """Whether it is valid, every text was answered, and p99 kept the bound."""
        return self.valid and not self.errors and self._p99 <= self.bound

    @property
    def _lag(self) -> float:
        """Seconds behind its schedule that the generator was at most with 99 requests of a hundred; infinite where it
        never sent so many."""
        trace = self.trace
        lag = np.where(trace.fate == Fate.LATE, np.inf, trace.sent - trace.scheduled)
        lag = lag[~np.isnan(lag)]
        # One of the values, since nothing lies between a number and infinity.
        return float(np.percentile(lag, 99, method="inverted_cdf")) if len(lag) else 0.0

    @property
    def _p99(self) -> float:
        """Seconds; 0 where nothing was answered."""
        answered = self.trace.latency(OK)
        return float(np.percentile(answered, 99)) if len(answered) else 0.0

    def as_dict(self) -> dict[str, Any]:
        """A point of `results.json`."""
        answered = self.trace.latency(OK)
        values = np.percentile(answered * 1e3, (50, 90, 99)).tolist() if len(answered) else [None] * 3
        p50, p90, p99 = (value if value is None else float(f"{value:.6g}") for value in values)
        sent = int((~np.isnan(self.trace.sent)).sum())
        return {
            "rate": float(f"{self.rate:.6g}"),
            "round": self.round,
            "sent": sent,
            "valid": self.valid,
            "held": self.held,
            "p50_ms": p50,
            "p90_ms": p90,
            "p99_ms": p99,
            "errors": self.errors,
            "lag_p99_ms": float(f"{self._lag * 1e3:.6g}") if sent and np.isfinite(self._lag) else None,
        }


@dataclass
class Search:
    """For the highest rate that holds: steps up and down until it lies between two, then halves that (geometrically).

    Attributes:
        rate: to be tried next.
        step: factor of the steps until both sides are known.
        lowest: no rate below it is tried.
        best: the highest rate that held, as far as is known.
        limited: whether the lowest rate that failed did so because the generator could not keep its schedule.
    """

    rate: float
    step: float
    lowest: float = 0.0
    best: float | None = None
    limited: bool = False
    _failed: float | None = None
    _steps_down: int = field(default=0)

    @property
    def done(self) -> bool:
        """Whether nothing is left to try."""
        if self.best is None:
            return self._steps_down == STEPS_DOWN or self.rate < self.lowest
        return self._failed is not None and self._failed <= self.best * (1 + PRECISION) * (1 + 1e-9)

    def tell(self, held: bool, valid: bool = True) -> None:
        """What the trial at `rate` gave."""
        if held:
            self.best = self.rate
        else:
            self._failed, self.limited = self.rate, not valid
        if self.best is None:
            self._steps_down += 1
            self.rate /= self.step
        elif self._failed is None:
            self.rate *= self.step
        else:
            self.rate = (self.best * self._failed) ** 0.5


@dataclass(frozen=True)
class Capacity:
    """The rate at which one text of a hundred takes longer than the bound.

    A trial of a few hundred texts says little of their 99th percentile: slow ones come in bursts, most trials have
    none, and the highest rate that a search happens to hold errs upwards. So the share of slow texts is taken to rise
    with the rate and fitted to the trials of several rounds (isotonic regression: Barlow et al. 1972, §1.2); what they
    say is the highest rate tried where the fit is at most a hundredth. A round in which something else took the machine
    would draw the fit of all rounds down to itself, so each pair of rounds is fitted, and the answer is the median.

    Attributes:
        rate: texts a second; None where most fits are nowhere so low.
        resampled: the same of each bootstrap resample of the rounds, `[resamples]`, or the lowest rate tried where
            there is none; empty with too few rounds. Two models' come from the same resamples.
        rounds: that were drawn.
    """

    rate: float | None
    resampled: NDArray[np.float64]
    rounds: int

    @classmethod
    def of(cls, trials: Sequence[Trial], rounds: int) -> Capacity:
        """What the trials of one model in so many rounds come to; those that are not valid say nothing."""
        valid = [trial for trial in trials if trial.valid]
        if not valid:
            return cls(None, np.zeros(0), rounds)
        rates, place = np.unique([trial.rate for trial in valid], return_inverse=True)
        counts = np.array([(trial.slow, len(trial.trace.fate)) for trial in valid], np.float64)
        of_round = np.array([trial.round for trial in valid])
        # [rounds, rounds]; a round paired with itself, as a resample may have it, is that round alone.
        fits = np.zeros((rounds, rounds))
        for first, second in combinations_with_replacement(range(rounds), 2):
            drawn = (of_round == first) | (of_round == second)
            fits[first, second] = fits[second, first] = _highest(rates, place, counts * drawn[:, None]) or 0.0
        draws = draw_examples(rounds, RESAMPLES) if rounds >= ENOUGH_ROUNDS else np.zeros((0, rounds))
        # Of so few rounds there are fewer different draws than resamples.
        different, which = np.unique(draws.astype(np.int64), axis=0, return_inverse=True)
        found = [_median_of_pairs(fits, np.repeat(np.arange(rounds), draw)) or rates[0] for draw in different]
        rate = _median_of_pairs(fits, np.arange(rounds))
        return cls(rate or None, np.array(found, np.float64)[which], rounds)

    def estimate(self) -> Estimate | None:
        """The rate with its interval, which the steps of the search widen: nothing between two rates was tried."""
        if self.rate is None:
            return None
        found = self._with_interval(self.rate, self.resampled)
        if found.low is None or found.high is None:
            return found
        return Estimate(found.value, found.low / (1 + PRECISION), found.high * (1 + PRECISION))

    def ratio(self, base: Capacity) -> Estimate | None:
        """The rate over another model's."""
        if self.rate is None or base.rate is None:
            return None
        return self._with_interval(self.rate / base.rate, self.resampled / base.resampled)

    def _with_interval(self, value: float, resampled: NDArray[np.float64]) -> Estimate:
        return quantile_interval(value, resampled, self.rounds) if len(resampled) else Estimate(value)


def _median_of_pairs(fits: NDArray[np.float64], drawn: NDArray[np.int64]) -> float:
    """Over all pairs of the rounds drawn; 0 where it is of fits that found no rate."""
    pairs = list(combinations(drawn, 2)) or [(drawn[0], drawn[0])]
    # One of the fits, and no mean of a rate with none.
    return float(np.percentile([fits[pair] for pair in pairs], 50, method="lower"))


def _highest(rates: NDArray[np.float64], place: NDArray[np.int64], counts: NDArray[np.float64]) -> float | None:
    """The highest of the rates where the fitted share is low enough.

    Args:
        rates: rising.
        place: `[trials]`, each one's among the rates.
        counts: `[trials, 2]`, slow texts and all texts.
    """
    from sklearn.isotonic import isotonic_regression

    slow, texts = (np.bincount(place, column, len(rates)) for column in counts.T)
    drawn = texts > 0
    if not drawn.any():
        return None
    fitted = isotonic_regression(slow[drawn] / texts[drawn], sample_weight=texts[drawn])
    held = rates[drawn][fitted <= SLOW_SHARE]
    return float(held[-1]) if len(held) else None
