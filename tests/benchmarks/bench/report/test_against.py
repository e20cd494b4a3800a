"""One run against an earlier one: what counts as a change, and what is refused."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest

from benchmarks.bench.report.against import (
    LEAST_CHANGE,
    Changes,
    check_comparable,
    check_no_regression,
    compare_runs,
    print_changes,
)
from benchmarks.bench.report.schema import parse_results
from common.errors import InputError, WorkFailedError
from tests.benchmarks.bench.factory import estimate, make_results, remote

Json = dict[str, Any]


def _changes(old: Json, new: Json) -> Changes:
    return compare_runs(parse_results(old), parse_results(new))


def _outcomes(changes: Changes, model: str = "student") -> dict[str, str]:
    return {change.figure: change.outcome for change in changes.changes if change.model == model}


def test_a_run_against_itself_changed_nothing() -> None:
    changes = _changes(make_results(2), make_results(2))
    assert {change.outcome for change in changes.changes} == {"the same"}
    assert changes.notes == []
    check_no_regression(changes)


def test_a_slower_student_is_a_regression_and_a_faster_one_is_none() -> None:
    changes = _changes(make_results(), make_results(slower=1.3))
    outcomes = _outcomes(changes)
    for figure in (
        "p50 of one text",
        "p90 of one text",
        "speed-up, one text",
        "p50 of 8 texts",
        "all texts at once",
        "batches of 32",
        "p50 at 9–16 tokens",
        "random arrivals, p99 within 50 ms",
    ):
        assert outcomes[figure] == "worse", figure
    assert outcomes["accuracy"] == outcomes["bundle size"] == "the same"
    assert set(_outcomes(changes, "teacher").values()) == {"the same"}
    with pytest.raises(WorkFailedError, match=r"figures worse .* student: p50 of one text 4.00 ms → 5.20 ms"):
        check_no_regression(changes)
    better = _changes(make_results(slower=1.3), make_results())
    assert _outcomes(better)["speed-up, one text"] == "better"
    check_no_regression(better)


def test_less_than_the_least_change_is_none_however_narrow_the_interval() -> None:
    old, new = make_results(), make_results()
    for run in (old, new):
        run["noise"]["spread"] = 0.001
        run["single_stream"]["models"]["student"]["p50_ms"] = estimate(4, 1e-5)
    new["single_stream"]["models"]["student"]["p50_ms"] = estimate(4 * (1 + 0.9 * LEAST_CHANGE), 1e-5)
    assert _outcomes(_changes(old, new))["p50 of one text"] == "the same"
    new["single_stream"]["models"]["student"]["p50_ms"] = estimate(4 * (1 + 1.1 * LEAST_CHANGE), 1e-5)
    assert _outcomes(_changes(old, new))["p50 of one text"] == "worse"


def test_a_change_within_the_runs_spread_is_none() -> None:
    old, new = make_results(), make_results(slower=1.3)
    new["noise"].update(spread=0.31, limit=0.4)
    assert _outcomes(_changes(old, new))["p50 of one text"] == "the same"


def test_a_slower_machine_is_no_slower_student() -> None:
    old, new = make_results(), make_results()
    new["roofline"]["peak_flops_per_s"] = estimate(110e9 / 1.3)
    for model in new["single_stream"]["models"].values():
        for name in ("p50_ms", "p90_ms", "p99_ms"):
            model[name] = {key: 1.25 * value for key, value in model[name].items()}
    outcomes = _outcomes(_changes(old, new))
    assert outcomes["p50 of one text"] == "the same"
    new["single_stream"]["models"]["student"]["ratio_p50"] = estimate(0.625)
    assert _outcomes(_changes(old, new))["speed-up, one text"] == "worse"  # the teacher ran beside it


def test_fewer_right_answers_are_a_regression_only_beyond_chance() -> None:
    for accuracy, outcome in ((0.90, "the same"), (0.80, "worse"), (0.99, "better")):
        new = make_results()
        new["quality"]["models"]["student"]["metrics"]["accuracy"] = estimate(accuracy, 0.02)
        assert _outcomes(_changes(make_results(), new))["accuracy"] == outcome


def test_of_an_error_measure_less_is_better() -> None:
    old, new = make_results(), make_results()
    for run, error in ((old, 0.2), (new, 0.4)):
        run["quality"]["models"]["student"]["metrics"]["mse"] = estimate(error)
    assert _outcomes(_changes(old, new))["mse"] == "worse"


def test_a_larger_bundle_is_a_regression_without_any_interval() -> None:
    old, new = make_results(), make_results()
    new["models"][1]["bytes"] = round(old["models"][1]["bytes"] * 1.2)
    assert _outcomes(_changes(old, new))["bundle size"] == "worse"


@pytest.mark.parametrize("noisy", ["old", "new"])
def test_of_a_noisy_run_speed_is_not_judged_but_quality_is(noisy: str) -> None:
    new = make_results(slower=2.0, noisy=noisy == "new")
    new["quality"]["models"]["student"]["metrics"]["accuracy"] = estimate(0.5)
    changes = _changes(make_results(noisy=noisy == "old"), new)
    outcomes = _outcomes(changes)
    assert outcomes["p50 of one text"] == outcomes["speed-up, one text"] == "not judged"
    assert outcomes["accuracy"] == "worse"
    assert any("too noisy" in note for note in changes.notes)


def test_figures_without_an_interval_are_not_judged() -> None:
    old, new = make_results(), make_results(slower=2.0)
    new["single_stream"]["models"]["student"]["p50_ms"].update(low=None, high=None)
    assert _outcomes(_changes(old, new))["p50 of one text"] == "not judged"


def test_a_rate_that_is_lost_is_a_regression() -> None:
    old, new = make_results(), make_results()
    new["server"]["models"]["student"].update(max_rate=None, ratio=None, reason="even 1 text/s was too much")
    changes = _changes(old, new)
    assert _outcomes(changes)["random arrivals, p99 within 50 ms"] == "worse"
    assert _changes(new, old).regressions == []


@pytest.mark.parametrize(("part", "key", "value"), [("machine", "cpu", "another"), ("settings", "threads", 1)])
def test_on_another_machine_only_ratios_and_answers_are_compared(part: str, key: str, value: object) -> None:
    new = make_results(slower=1.3)
    new[part][key] = value
    changes = _changes(make_results(), new)
    outcomes = _outcomes(changes)
    assert "p50 of one text" not in outcomes
    assert "peak memory" not in outcomes
    assert outcomes["speed-up, one text"] == "worse"
    assert outcomes["accuracy"] == outcomes["bundle size"] == "the same"
    assert any("another" in note.lower() and "only ratios" in note for note in changes.notes)


def test_against_another_teacher_no_ratios_are() -> None:
    new = make_results(slower=1.3)
    new["models"][0]["sha256"] = "f" * 64
    outcomes = _outcomes(_changes(make_results(), new))
    assert not {"speed-up, one text", "accuracy kept", "same label as the teacher"} & set(outcomes)
    assert outcomes["p50 of one text"] == "worse"


def test_what_differs_between_the_runs_is_said() -> None:
    new = make_results()
    new["machine"]["onnxruntime"] = "9.9"
    new["models"][1].update(precision="int8", sha256="9" * 64)
    assert _changes(make_results(2), new).notes == [
        "onnxruntime: 1.23.0 → 9.9.",
        "student: precision float32 → int8.",
        "student: the model's file is another.",
        "student-2 was in the earlier run alone.",
    ]


def test_other_data_another_task_or_other_students_are_refused() -> None:
    old = make_results()
    for place, change, said in (
        ("data", {"sha256": "0" * 64}, "other data"),
        ("task", {"labels": ["positive", "negative"]}, "another task"),
    ):
        new = copy.deepcopy(old)
        new[place].update(change)
        with pytest.raises(InputError, match=said):
            _changes(old, new)
        with pytest.raises(InputError, match=said):
            check_comparable(parse_results(old), new["task"], new["data"]["sha256"], ["student"])
    with pytest.raises(InputError, match="none of these students; it has none at all"):
        _changes(make_results(0), old)


def test_a_server_is_compared_as_far_as_it_tells() -> None:
    changes = _changes(remote(make_results(2)), remote(make_results(2)))
    assert "p50 of one text" in _outcomes(changes)
    assert "bundle size" not in _outcomes(changes)


def test_only_what_changed_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_changes(_changes(make_results(), make_results(slower=1.3)))
    printed = capsys.readouterr().out
    assert "speed-up" in printed
    assert "accuracy" not in printed
    assert "worse beyond noise, 0 better beyond noise" in printed


def test_chance_alone_seldom_makes_a_regression() -> None:
    """Two runs of one truth, all figures drawn with the error that their intervals say, independently."""
    generator = np.random.default_rng(0)
    alarms = 0
    for _ in range(200):
        # Read from JSON, so that no two places share a figure.
        old, new = (json.loads(json.dumps(make_results())) for _ in range(2))
        for run in (old, new):
            run["noise"]["spread"] = 0.0
            _jitter(run, generator)
        alarms += bool(_changes(old, new).regressions)
    # At most 5 % for answers and as much for speed, half of it to the better, would be 10 of 200; three standard
    # deviations above that is 19.
    assert alarms <= 19


def _jitter(part: Any, generator: np.random.Generator) -> None:
    """Draws each figure anew, with its interval about it."""
    if isinstance(part, list):
        for entry in part:
            _jitter(entry, generator)
    elif isinstance(part, dict) and set(part) == {"value", "low", "high"}:
        half = (part["high"] - part["low"]) / 2
        value = part["value"] + generator.normal() * half / 1.96
        part.update(value=value, low=value - half, high=value + half)
    elif isinstance(part, dict):
        for entry in part.values():
            _jitter(entry, generator)
