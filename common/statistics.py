"""How sure a mean over seeds is, and whether two methods differ: intervals and paired tests of numbers alone.

What varies is twofold: the seed of a training run, and the examples that happen to be in the dev table. `t_interval`
and `paired_t_test` see the first alone; the bootstrap sees both. scipy is imported when used and not before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval; the bounds are NaN where there is too little to tell."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """One method against another on the same seeds and examples.

    Attributes:
        difference: the first's mean less the second's, with its bootstrap interval over seeds and examples.
        p_bootstrap: two-sided, from the same resamples; at least 2 / (resamples + 1).
        p_seeds: of the paired t test over seeds, examples taken as fixed; NaN for a single seed, and for a mean over
            several groups.
    """

    difference: Interval
    p_bootstrap: float
    p_seeds: float


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The mean over seeds with Student's t interval (Student 1908); a single value has no bounds."""
    from scipy import stats

    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, float("nan"), float("nan"))
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    reach = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * error
    return Interval(mean, mean - reach, mean + reach)


def draw_examples(examples: int, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.float64]:
    """How often each example is drawn in each bootstrap resample: `[resamples, examples]`, rows that sum to `examples`.

    All methods must be measured on the same draws to be compared.
    """
    generator = np.random.default_rng(seed)
    return generator.multinomial(examples, np.full(examples, 1 / examples), size=resamples).astype(np.float64)


def bootstrap_interval(
    observed: ArrayLike, resampled: NDArray[np.float64], confidence: float = CONFIDENCE, seed: int = 0
) -> Interval:
    """The mean over seeds with a percentile interval over seeds and examples.

    Examples are drawn, for all seeds alike; what else the mean may be off by, since the seeds are few, is Student's t
    times its standard error, independently of that. Two to ten seeds that are drawn themselves have neither the right
    spread nor the right tails. What varies with both seed and example counts twice, which errs to the wide side.

    Args:
        observed: `[seeds]`, each seed's metric on all examples.
        resampled: `[seeds, resamples]`, each seed's metric on each of the draws of `draw_examples`.
    """
    return _percentiles(float(np.asarray(observed).mean()), _resampled_means(observed, resampled, seed), confidence)


def compare(
    observed: ArrayLike, resampled: NDArray[np.float64], confidence: float = CONFIDENCE, seed: int = 0
) -> Comparison:
    """Whether the first of two methods is better or worse than the second.

    Args:
        observed: `[seeds]`, the first's metric less the second's for each seed that both have.
        resampled: `[seeds, resamples]`, the same differences on each of the draws of `draw_examples`.
    """
    return compare_mean([(observed, resampled)], confidence, seed)


def compare_mean(
    groups: Sequence[tuple[ArrayLike, NDArray[np.float64]]], confidence: float = CONFIDENCE, seed: int = 0
) -> Comparison:
    """As `compare`, of the mean over groups (tasks, say) that have nothing in common: neither examples nor seeds.

    Each group weighs the same, however many seeds it has; `p_seeds` is NaN for several. How seeds vary cannot be told
    from a group of one: with such groups the interval is too narrow.

    Args:
        groups: each with `observed` and `resampled` as `compare` takes them, of as many resamples.
    """
    means = np.mean([_resampled_means(*group, seed, place) for place, group in enumerate(groups)], axis=0)
    # One is added to both counts, so that no finite number of draws proves a p of 0 (Davison and Hinkley 1997, §4.2).
    tail = (min(int((means <= 0).sum()), int((means >= 0).sum())) + 1) / (len(means) + 1)
    mean = float(np.mean([np.asarray(observed).mean() for observed, _ in groups]))
    p_seeds = paired_t_test(groups[0][0]) if len(groups) == 1 else float("nan")
    return Comparison(_percentiles(mean, means, confidence), min(1.0, 2 * tail), p_seeds)


def paired_t_test(differences: ArrayLike) -> float:
    """Two-sided p of "the mean difference is 0" over seeds; NaN for a single one, 1 where no seed differs."""
    from scipy import stats

    values = np.asarray(differences, np.float64)
    if len(values) < 2:
        return float("nan")
    spread = float(values.std(ddof=1))
    if spread == 0:
        return 1.0 if values[0] == 0 else 0.0
    t = float(values.mean()) / (spread / len(values) ** 0.5)
    return float(2 * stats.t.sf(abs(t), len(values) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values put right for having made so many tests (Holm 1979), in their own order."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def _percentiles(mean: float, means: NDArray[np.float64], confidence: float) -> Interval:
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean, float(low), float(high))


def _resampled_means(
    observed: ArrayLike, resampled: NDArray[np.float64], seed: int, group: int = 0
) -> NDArray[np.float64]:
    """What the mean over seeds may be, once for each resample: `[resamples]`, as `bootstrap_interval` has it."""
    from scipy import stats

    seeds, resamples = resampled.shape
    means: NDArray[np.float64] = resampled.mean(axis=0)
    if seeds == 1:
        return means
    # Each quantile once, so that only the order is drawn. Another stream than that of the examples, which the same
    # number may have seeded, and than that of other groups.
    shares = (np.random.default_rng([seed, 1, group]).permutation(resamples) + 0.5) / resamples
    error = float(np.std(np.asarray(observed, np.float64), ddof=1)) / seeds**0.5
    return means + error * np.asarray(stats.t.ppf(shares, seeds - 1), np.float64)
