"""Intervals against known distributions, and ratios that a machine's drift leaves alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench import estimates
from benchmarks.bench.estimates import (
    ENOUGH_FOR_P99,
    Estimate,
    estimate,
    estimate_percentiles,
    estimate_ratio,
    interval_levels,
)

Draw = Callable[[np.random.Generator, int], np.ndarray]
TRIALS = 300


@pytest.mark.parametrize("rounds", [6, 7, 9, 20])
@pytest.mark.parametrize(
    ("draw", "median"),
    [
        (lambda generator, count: generator.normal(10, 1, count), 10.0),
        (lambda generator, count: generator.lognormal(0, 0.5, count), 1.0),
        (lambda generator, count: 10 + generator.standard_t(3, count), 10.0),
    ],
    ids=["normal", "lognormal", "heavy tails"],
)
def test_intervals_hold_the_true_median_as_often_as_they_say(draw: Draw, median: float, rounds: int) -> None:
    generator = np.random.default_rng(rounds)
    found = [estimate(draw(generator, rounds).tolist()) for _ in range(TRIALS)]
    hits = sum(each.low <= median <= each.high for each in found)  # type: ignore[operator]
    # Three standard errors of a share of 95 % of so many trials, on the low side.
    assert hits / TRIALS >= 0.95 - 3 * (0.95 * 0.05 / TRIALS) ** 0.5
    assert hits < TRIALS  # and are no wider than need be


def test_intervals_of_percentiles_hold_when_rounds_differ() -> None:
    # Rounds have a level of their own, so the calls of one are no independent draws.
    generator = np.random.default_rng(0)
    truth = np.quantile(np.exp(generator.normal(0, 0.2, 10**6)) * np.exp(generator.normal(0, 0.3, 10**6)), [0.5, 0.9])
    hits = np.zeros(2)
    for _ in range(60):
        levels = np.exp(generator.normal(0, 0.2, 9))
        calls = levels[:, None] * np.exp(generator.normal(0, 0.3, (9, 40)))
        found = estimate_percentiles(calls.tolist())
        hits += [found[name].low <= true <= found[name].high for name, true in zip(("p50", "p90"), truth, strict=True)]  # type: ignore[union-attr, operator]
    assert (hits >= 0.85 * 60).all()


def test_a_drifting_machine_leaves_the_ratio_alone() -> None:
    drift = np.linspace(1, 3, 9)
    generator = np.random.default_rng(0)
    student, teacher = (level * drift * generator.normal(1, 0.01, 9) for level in (1.0, 2.0))
    ratio = estimate_ratio(student.tolist(), teacher.tolist())
    assert ratio is not None
    assert ratio.low is not None
    assert ratio.high is not None
    assert ratio.low <= 0.5 <= ratio.high
    assert ratio.high - ratio.low < 0.03
    alone = estimate(student.tolist())
    assert alone.high - alone.low > 0.5  # type: ignore[operator]


def test_few_rounds_have_no_bounds() -> None:
    assert estimate([1.0, 3.0, 2.0, 4.0, 5.0]) == Estimate(3.0, None, None)
    assert estimate([1.0, 3.0, 2.0, 4.0, 5.0, 6.0]).low == 1.0
    assert estimate_ratio([1.0, 2.0], [0.0, 2.0]) is None
    assert estimate_percentiles([[1.0], [3.0]])["p50"] == Estimate(2.0)


@pytest.mark.parametrize(("calls", "known"), [(ENOUGH_FOR_P99 - 1, False), (ENOUGH_FOR_P99, True)])
def test_few_calls_have_no_99th_percentile(calls: int, known: bool) -> None:
    found = estimate_percentiles([[0.001] * 50, [0.001] * (calls - 50)])
    assert (found["p99"] is not None) == known
    assert found["p90"] == Estimate(0.001)


def test_percentiles_are_of_all_calls() -> None:
    found = estimate_percentiles([[float(value) for value in range(start, start + 20)] for start in range(0, 120, 20)])
    assert found["p50"] is not None
    assert found["p50"].value == np.percentile(np.arange(120), 50)
    assert found["p50"].low is not None
    assert found["p50"].low < 59.5 < found["p50"].high  # type: ignore[operator]


@given(st.lists(st.lists(st.floats(0.001, 1000), min_size=1, max_size=6), min_size=6, max_size=8))
def test_resampled_percentiles_are_numpys(rounds: list[list[float]]) -> None:
    calls = [np.array(part) for part in rounds]
    resampled = estimates._resampled_percentiles(calls)
    for place in (0, 700, 1999):
        drawn = np.concatenate(
            [np.repeat(part, n) for part, n in zip(calls, estimates._counts(len(calls))[place], strict=True)]
        )
        np.testing.assert_allclose(resampled[place], np.percentile(drawn, (50, 90, 99)), rtol=1e-12)


@given(st.lists(st.floats(0.001, 1000), min_size=6, max_size=12))
def test_an_interval_holds_its_value_and_keeps_to_the_data(rounds: list[float]) -> None:
    found = estimate(rounds)
    assert min(rounds) <= found.low <= found.value <= found.high <= max(rounds)  # type: ignore[operator]


@given(st.floats(1e-6, 1e6), st.floats(1e-3, 1e3))
def test_units_change_nothing(value: float, factor: float) -> None:
    scaled = Estimate(value, value / 2, None).scaled(factor)
    assert (scaled.value, scaled.low, scaled.high) == (factor * value, factor * (value / 2), None)
    assert scaled.as_dict()["value"] == pytest.approx(scaled.value, rel=1e-5)


def test_levels_widen_with_few_values_as_students_t_does() -> None:
    low, high = interval_levels(10**6)
    assert (low, high) == (pytest.approx(0.025, abs=1e-5), pytest.approx(0.975, abs=1e-5))
    assert interval_levels(6)[0] < interval_levels(9)[0] < 0.025
