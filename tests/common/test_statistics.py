"""Intervals and tests: against scipy, and by simulation where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from common.statistics import (
    bootstrap_interval,
    compare,
    compare_mean,
    draw_examples,
    holm,
    paired_t_test,
    t_interval,
)

values = st.lists(st.floats(0, 1), min_size=2, max_size=8)


@given(values.filter(lambda numbers: np.std(numbers) > 1e-6), st.sampled_from([0.8, 0.95, 0.99]))
def test_the_t_interval_is_scipys(numbers: list[float], confidence: float) -> None:
    interval = t_interval(numbers, confidence)
    low, high = stats.t.interval(confidence, len(numbers) - 1, np.mean(numbers), stats.sem(numbers))
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-12)
    assert interval.mean == pytest.approx(np.mean(numbers))


@given(values.filter(lambda numbers: np.std(numbers) > 1e-6))
def test_the_paired_t_test_is_scipys(differences: list[float]) -> None:
    zeros = np.zeros(len(differences))
    assert paired_t_test(differences) == pytest.approx(stats.ttest_rel(differences, zeros).pvalue, abs=1e-12)


def test_what_one_seed_cannot_tell_is_nan() -> None:
    assert math.isnan(t_interval([0.9]).low)
    assert math.isnan(paired_t_test([0.1]))
    assert paired_t_test([0.0, 0.0]) == 1.0
    assert paired_t_test([0.5, 0.5]) == 0.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_keeps_the_order_and_never_lowers_a_p(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= new <= 1 for p, new in zip(p_values, adjusted, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()
    assert min(adjusted) == pytest.approx(min(1.0, min(p_values) * len(p_values)))


def test_holms_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_draws_repeat_and_keep_the_number_of_examples() -> None:
    counts = draw_examples(50, 100, seed=3)
    assert (counts.sum(axis=1) == 50).all()
    assert np.array_equal(counts, draw_examples(50, 100, seed=3))
    assert not np.array_equal(counts, draw_examples(50, 100, seed=4))


def test_with_one_seed_the_bootstrap_is_scipys_over_examples() -> None:
    right = (np.random.default_rng(0).random(400) < 0.8).astype(float)
    resampled = (draw_examples(400, 5000) @ right / 400)[None]
    interval = bootstrap_interval([right.mean()], resampled)
    theirs = stats.bootstrap(
        (right,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (interval.low, interval.high) == pytest.approx((theirs.low, theirs.high), abs=0.006)


def _right(generator: np.random.Generator, seeds: int, examples: int, spread: float) -> np.ndarray:
    """Whether each seed answers each example rightly, `[seeds, examples]`: seeds and examples differ in how well."""
    skill = spread * generator.standard_normal((seeds, 1))
    ease = 1.5 * generator.standard_normal((1, examples))
    return (1.2 + skill + ease + generator.logistic(size=(seeds, examples)) > 0).astype(float)


def _coverage(seeds: int, examples: int, spread: float, *, paired: bool) -> float:
    """How often the interval of 95 % holds what an endless number of seeds and examples would give."""
    generator = np.random.default_rng(12)
    counts = draw_examples(examples, 400)
    truth = 0.0 if paired else _right(generator, 2000, 2000, spread).mean()
    held = 0
    for _ in range(400):
        right = _right(generator, seeds * (1 + paired), examples, spread)
        # The two methods of a pair are alike, and answer the same examples.
        values = right[:seeds] - right[seeds:] if paired else right
        interval = bootstrap_interval(values.mean(axis=1), values @ counts.T / examples)
        held += interval.low <= truth <= interval.high
    return held / 400


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize(
    ("seeds", "examples", "spread"), [(3, 200, 0.0), (5, 200, 0.1), (5, 200, 0.4), (2, 500, 0.4), (3, 2000, 0.3)]
)
def test_the_bootstrap_interval_covers_what_it_promises(seeds: int, examples: int, spread: float, paired: bool) -> None:
    # Few seeds that differ much are the hard case; 400 trials tell the share to within two points.
    assert 0.925 <= _coverage(seeds, examples, spread, paired=paired) <= 1.0


def test_the_t_interval_covers_what_it_promises() -> None:
    draws = np.random.default_rng(5).normal(0.9, 0.01, (4000, 5))
    held = [low <= 0.9 <= high for low, high in ((i.low, i.high) for i in map(t_interval, draws))]
    assert np.mean(held) == pytest.approx(0.95, abs=0.012)


def test_a_comparison_finds_a_difference_and_none_where_there_is_none() -> None:
    generator = np.random.default_rng(8)
    counts = draw_examples(500)
    better, worse = (generator.random((5, 500)) < 0.9), (generator.random((5, 500)) < 0.8)
    values = better.astype(float) - worse
    found = compare(values.mean(axis=1), values @ counts.T / 500)
    assert found.difference.low > 0
    assert found.p_bootstrap < 0.01
    assert found.p_seeds < 0.01
    turned = compare(-values.mean(axis=1), -values @ counts.T / 500)
    assert turned.p_bootstrap == found.p_bootstrap
    assert turned.difference.high == pytest.approx(-found.difference.low, abs=1e-3)
    nothing = compare([0.0, 0.0], np.zeros((2, 100)))
    assert (nothing.p_bootstrap, nothing.p_seeds) == (1.0, 1.0)


def test_a_mean_over_groups_varies_as_independent_groups_do() -> None:
    generator = np.random.default_rng(10)
    groups = []
    for seeds, examples, spread in ((1, 400, 0.0), (5, 300, 0.3), (3, 900, 0.2)):
        values = generator.normal(0.1, 1, (seeds, examples)) + generator.normal(0, spread, (seeds, 1))
        groups.append((values.mean(axis=1), values @ draw_examples(examples, seed=examples).T / examples))
    found = compare_mean(groups)
    alone = [bootstrap_interval(*group) for group in groups]
    assert found.difference.mean == pytest.approx(np.mean([interval.mean for interval in alone]))
    # Of independent numbers, the variances add up.
    width = sum((interval.high - interval.low) ** 2 for interval in alone) ** 0.5 / len(alone)
    assert found.difference.high - found.difference.low == pytest.approx(width, rel=0.08)
    assert math.isnan(found.p_seeds)
    assert compare_mean(groups[1:2]) == compare(*groups[1])


def test_of_seeds_alone_the_bootstrap_is_the_t_test() -> None:
    """No example differs, so nothing but the seeds varies."""
    observed = np.random.default_rng(13).normal(0.02, 0.01, 4)
    found = compare(observed, np.repeat(observed[:, None], 2000, axis=1))
    expected = t_interval(list(observed))
    assert (found.difference.low, found.difference.high) == pytest.approx((expected.low, expected.high), rel=0.01)
    assert found.p_bootstrap == pytest.approx(found.p_seeds, abs=0.002)


def test_groups_draw_their_own_seeds() -> None:
    # No example differs: all that varies is which seeds are drawn, twice as many of them in two groups.
    observed = np.random.default_rng(11).normal(0, 1, 40)
    group = (observed, np.repeat(observed[:, None], 2000, axis=1))
    one, two = (compare_mean([group] * count).difference for count in (1, 2))
    assert (two.high - two.low) / (one.high - one.low) == pytest.approx(0.5**0.5, rel=0.08)


def test_under_no_difference_small_p_values_are_rare() -> None:
    generator = np.random.default_rng(9)
    counts = draw_examples(200, 400)
    low = 0
    for _ in range(300):
        right = _right(generator, 10, 200, 0.1)
        values = right[:5] - right[5:]
        low += compare(values.mean(axis=1), values @ counts.T / 200).p_bootstrap < 0.05
    assert low / 300 <= 0.09
