"""Percentiles, medians, ratios and the order of turns, on known figures."""

from __future__ import annotations

import pytest

from benchmarks.measure import Comparison, affordable, alternate, compare_calls, percentiles, ratio, significant


def test_percentiles_are_milliseconds_between_neighbours() -> None:
    seconds = [value / 1000 for value in range(101)]
    assert percentiles(seconds) == pytest.approx({"p50": 50.0, "p90": 90.0, "p99": 99.0})
    assert percentiles([0.001, 0.002]) == pytest.approx({"p50": 1.5, "p90": 1.9, "p99": 1.99})
    assert percentiles([0.004]) == pytest.approx({"p50": 4.0, "p90": 4.0, "p99": 4.0})


def test_percentiles_do_not_depend_on_order() -> None:
    assert percentiles([0.003, 0.001, 0.002]) == percentiles([0.001, 0.002, 0.003])


def test_comparison_takes_medians_then_their_ratio() -> None:
    # One round was disturbed for both: the medians and their ratio do not move.
    compared = Comparison(student=[1.0, 10.0, 1.2], teacher=[2.0, 40.0, 2.4]).as_dict()
    assert compared == {"student": 1.2, "teacher": 2.4, "ratio": 0.5, "ratio_range": [0.25, 0.5]}


def test_percentiles_are_over_the_calls_of_all_rounds() -> None:
    # 101 calls in two rounds of unlike level: neither round's percentile is that of all calls.
    fast, slow = [value / 1000 for value in range(1, 61)], [value / 1000 for value in range(61, 102)]
    compared = compare_calls([fast, slow], [[2 * second for second in calls] for calls in (fast, slow)])
    assert compared["p50_ms"] == {"student": 51.0, "teacher": 102.0, "ratio": 0.5, "ratio_range": [0.5, 0.5]}
    assert compared["p90_ms"]["student"] == 91.0
    assert compared["p99_ms"] == {"student": 100.0, "teacher": 200.0, "ratio": 0.5, "ratio_range": None}


def test_single_rounds_set_the_range_of_a_percentile() -> None:
    compared = compare_calls([[1.0, 1.0], [3.0, 3.0]], [[2.0, 2.0], [4.0, 4.0]])
    assert compared["p50_ms"]["ratio_range"] == [0.5, 0.75]


@pytest.mark.parametrize(("calls", "known"), [(99, False), (100, True)])
def test_few_calls_have_no_99th_percentile(calls: int, known: bool) -> None:
    rounds = [[0.001] * 50, [0.001] * (calls - 50)]
    compared = compare_calls(rounds, rounds)
    assert (compared["p99_ms"] is not None) == known
    assert compared["p90_ms"]["student"] == 1.0


def test_comparison_with_nothing() -> None:
    assert Comparison([1.0], [0.0]).as_dict() == {"student": 1.0, "teacher": 0.0, "ratio": None, "ratio_range": None}


def test_ratio_and_digits() -> None:
    assert ratio(3, 6) == 0.5
    assert ratio(1, 3) == 0.333333
    assert ratio(1, 0) is None
    assert significant(12345678.9) == 12345700.0


@pytest.mark.parametrize(
    ("cost", "most", "expected"),
    [(0.1, 100, 40), (0.1, 20, 20), (10.0, 100, 8), (10.0, 5, 5), (0.0, 100, 100)],
)
def test_affordable_keeps_its_bounds(cost: float, most: int, expected: int) -> None:
    assert affordable(4.0, cost, least=8, most=most) == expected


def test_models_take_turns_and_swap() -> None:
    seen: list[tuple[str, str]] = []

    def job(name: str):
        def run(engine: str) -> int:
            seen.append((name, engine))
            return len(seen)

        return run

    turns: list[None] = []
    engines = {"student": "S", "teacher": "T"}
    results = alternate(engines, [job("one"), job("two")], 2, lambda: turns.append(None))  # type: ignore[arg-type]
    assert seen == [
        *[("one", "S"), ("one", "T"), ("two", "S"), ("two", "T")],
        *[("one", "T"), ("one", "S"), ("two", "T"), ("two", "S")],
    ]
    assert results == [{"student": [1, 6], "teacher": [2, 5]}, {"student": [3, 8], "teacher": [4, 7]}]
    assert len(turns) == 4
