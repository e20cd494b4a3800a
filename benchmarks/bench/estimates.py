"""Figures with their intervals: medians, percentiles and ratios over rounds, by the bootstrap.

What is drawn anew is the rounds, never the single calls: calls of one round were made on the same machine in the same
state, and to take them for independent would make every interval too narrow. Few rounds make the plain percentile
interval too narrow too; its levels are therefore moved outwards as Student's t asks (the expanded percentile interval:
Hesterberg 2015, "What Teachers Should Know About the Bootstrap", §4.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from common.statistics import CONFIDENCE, RESAMPLES, draw_examples

# The extremes of six rounds hold the median 31 times of 32; those of five, 15 of 16: too few for 95 %.
ENOUGH_ROUNDS = 6
# With fewer calls, the 99th percentile is little else than the slowest of them.
ENOUGH_FOR_P99 = 100
PERCENTILES = (50, 90, 99)
# That the resamples are worked on in, since many calls of many resamples take room.
_PARTS = 20


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval of 95 %; the bounds are None where there are too few rounds to tell."""

    value: float
    low: float | None = None
    high: float | None = None

    def scaled(self, factor: float) -> Estimate:
        """The same in another unit."""
        return Estimate(*(None if part is None else factor * part for part in vars(self).values()))  # type: ignore[arg-type]

    def as_dict(self) -> dict[str, float | None]:
        """For `results.json`, to six significant digits: no timer is better."""
        return {name: None if part is None else float(f"{part:.6g}") for name, part in vars(self).items()}


def estimate(rounds: Sequence[float]) -> Estimate:
    """The median over the rounds."""
    values = np.asarray(rounds, np.float64)
    return _with_interval(float(np.median(values)), len(values), np.median(values[_draws(len(values))], axis=1))


def estimate_ratio(rounds: Sequence[float], base: Sequence[float]) -> Estimate | None:
    """The median over the rounds of one model's figure over another's in the same round.

    A machine that is slower for a while is so for both, and each round's ratio stays what it was.

    Args:
        base: the other's, by the same rounds.

    Returns:
        None where a round of the base is 0.
    """
    values, others = np.asarray(rounds, np.float64), np.asarray(base, np.float64)
    return estimate((values / others).tolist()) if others.all() else None


def estimate_percentiles(rounds: Sequence[Sequence[float]]) -> dict[str, Estimate | None]:
    """`p50`, `p90` and `p99` over the calls of all rounds together, linear between neighbours.

    Args:
        rounds: a value for each call, by round; at least one call in each.

    Returns:
        p99 is None with fewer than `ENOUGH_FOR_P99` calls.
    """
    calls = [np.asarray(part, np.float64) for part in rounds]
    pooled = np.percentile(np.concatenate(calls), PERCENTILES)
    resampled = _resampled_percentiles(calls) if len(calls) >= ENOUGH_ROUNDS else np.zeros((0, len(PERCENTILES)))
    few = sum(map(len, calls)) < ENOUGH_FOR_P99
    return {
        f"p{rank}": None
        if rank == 99 and few
        else _with_interval(float(pooled[place]), len(calls), resampled[:, place])
        for place, rank in enumerate(PERCENTILES)
    }


def interval_levels(count: int) -> tuple[float, float]:
    """The quantiles of the bootstrap's distribution that bound 95 %, for a figure of `count` independent values."""
    from scipy import stats

    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * (count / (count - 1)) ** 0.5
    return float(stats.norm.cdf(-reach)), float(stats.norm.cdf(reach))


def quantile_interval(value: float, resampled: NDArray[np.float64], count: int) -> Estimate:
    """A figure with the interval that its values on the resamples bound.

    Args:
        resampled: `[resamples]`.
        count: how many independent values were drawn anew in each.
    """
    low, high = np.quantile(resampled, interval_levels(count))
    return Estimate(value, float(low), float(high))


def _with_interval(value: float, rounds: int, resampled: NDArray[np.float64]) -> Estimate:
    return quantile_interval(value, resampled, rounds) if rounds >= ENOUGH_ROUNDS else Estimate(value)


def _resampled_percentiles(calls: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """`PERCENTILES` of the calls of the rounds that each resample has: `[resamples, percentiles]`."""
    values = np.concatenate(calls)
    order = values.argsort()
    values, rounds = values[order], np.repeat(np.arange(len(calls)), [len(part) for part in calls])[order]
    parts = []
    for counts in np.array_split(_counts(len(calls)), _PARTS):
        # How many drawn calls there are up to each call in their order.
        reached = counts[:, rounds].cumsum(axis=1)
        parts.append(np.stack([_nth(values, reached, rank / 100) for rank in PERCENTILES], axis=1))
    return np.concatenate(parts)


def _nth(values: NDArray[np.float64], reached: NDArray[np.int64], share: float) -> NDArray[np.float64]:
    """A percentile of each resample, linear between neighbours."""
    place = share * (reached[:, -1] - 1)
    below = np.floor(place)
    above = np.minimum(below + 1, reached[:, -1] - 1)
    low, high = (values[(reached <= part[:, None]).sum(axis=1)] for part in (below, above))
    return np.asarray(low + (place - below) * (high - low))


@cache
def _counts(rounds: int) -> NDArray[np.int64]:
    """How often each resample has each round: `[resamples, rounds]`."""
    return draw_examples(rounds, RESAMPLES).astype(np.int64)


@cache
def _draws(rounds: int) -> NDArray[np.int64]:
    """Which rounds each resample has: `[resamples, rounds]`."""
    places = np.tile(np.arange(rounds), RESAMPLES)
    return np.repeat(places, _counts(rounds).ravel()).reshape(RESAMPLES, rounds)
