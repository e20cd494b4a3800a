"""Metrics, retention and their intervals on known answers."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.bench import quality as module
from benchmarks.bench.quality import measure_quality
from common.labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task

ONE = Task(SINGLE_LABEL, ("a", "b", "c"))
SEVERAL = Task(MULTI_LABEL, ("a", "b"))
NUMBER = Task(REGRESSION, ("score",))


def one_hot(*labels: int) -> np.ndarray:
    return np.eye(3, dtype=np.float32)[list(labels)]


def measure(task: Task, teacher: np.ndarray, student: np.ndarray, targets: np.ndarray, metric: str | None = None):
    return measure_quality(
        {"teacher": task, "student": task}, {"teacher": teacher, "student": student}, targets, metric, 0
    )


def test_retention_is_the_students_share() -> None:
    found = measure(ONE, one_hot(0, 1, 2, 1), one_hot(0, 1, 0, 0), np.array([0, 1, 2, 2]))
    assert (found["metric"], found["rows"]) == ("accuracy", 4)
    teacher, student = found["models"]["teacher"], found["models"]["student"]
    assert student["metrics"]["accuracy"]["value"] == 0.5
    assert teacher["metrics"]["accuracy"]["value"] == 0.75
    assert teacher["retention"] is None
    assert student["retention"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    assert set(student["metrics"]) == set(teacher["metrics"]) == {"accuracy", "macro-f1", "matthews"}


def test_headline_metric_is_the_one_asked_for_where_it_fits() -> None:
    given = ONE, one_hot(0, 1), one_hot(0, 1), np.array([0, 1])
    assert measure(*given, "macro-f1")["metric"] == "macro-f1"
    assert measure(*given, "spearman")["metric"] == "accuracy"


def test_no_retention_of_nothing_and_of_errors() -> None:
    found = measure(ONE, one_hot(1), one_hot(0), np.array([2]))
    assert found["models"]["student"]["retention"] is None
    numbers = np.array([[1.0], [2.0], [4.0]])
    found = measure(NUMBER, numbers, numbers + 0.5, np.array([1.0, 2.5, 3.0]), "mse")
    assert (found["metric"], found["models"]["student"]["retention"]) == ("mse", None)


def test_intervals_hold_the_true_accuracy_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for seed in range(50):
        right = generator.random((2, 300)) < np.array([[0.9], [0.8]])
        scores = {
            name: one_hot(*np.where(each, 0, 1)) for name, each in zip(("teacher", "student"), right, strict=True)
        }
        found = measure_quality(dict.fromkeys(scores, ONE), scores, np.zeros(300, np.int64), None, seed)
        accuracy = found["models"]["student"]["metrics"]["accuracy"]
        hits += accuracy["low"] <= 0.8 <= accuracy["high"]
    assert hits >= 42


def test_retention_is_paired() -> None:
    # The student is wrong wherever the teacher is, and on one row more: the share that it keeps is nearly certain.
    generator = np.random.default_rng(0)
    right = generator.random(500) < 0.7
    teacher = one_hot(*np.where(right, 0, 1))
    right[np.flatnonzero(right)[0]] = False
    found = measure(ONE, teacher, one_hot(*np.where(right, 0, 1)), np.zeros(500, np.int64))["models"]["student"]
    accuracy, kept = found["metrics"]["accuracy"], found["retention"]
    assert accuracy["high"] - accuracy["low"] > 0.06
    assert kept["high"] - kept["low"] < 0.015
    assert kept["high"] <= 1


def test_rows_without_an_answer_count_for_no_model() -> None:
    student = one_hot(0, 1, 0)
    student[2] = np.nan
    found = measure(ONE, one_hot(0, 0, 0), student, np.array([0, 1, 0]))
    assert found["rows"] == 2
    assert found["models"]["teacher"]["metrics"]["accuracy"]["value"] == 0.5
    assert found["models"]["student"]["metrics"]["accuracy"]["value"] == 1.0
    student[:] = np.nan
    assert measure(ONE, one_hot(0, 0, 0), student, np.array([0, 1, 0]))["models"] == {}


def test_each_model_names_labels_by_its_own_thresholds() -> None:
    scores = np.array([[0.6, 0.3], [0.8, 0.1]])
    tasks = {"teacher": SEVERAL, "student": Task(MULTI_LABEL, ("a", "b"), (0.7, 0.2))}
    found = measure_quality(tasks, dict.fromkeys(tasks, scores), np.array([[0, 1], [1, 0]]), None, 0)["models"]
    exact = {id: each["metrics"]["exact-match"]["value"] for id, each in found.items()}
    assert exact == {"teacher": 0.5, "student": 1.0}


def test_many_rows_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    given = ONE, one_hot(*generator.integers(0, 3, 60)), one_hot(*generator.integers(0, 3, 60)), np.zeros(60, np.int64)
    whole = measure(*given)["models"]["student"]["metrics"]["accuracy"]
    monkeypatch.setattr(module, "_COUNTS_AT_ONCE", 60 * 300)
    parts = measure(*given)["models"]["student"]["metrics"]["accuracy"]
    assert parts["value"] == whole["value"]
    assert parts["low"] == pytest.approx(whole["low"], abs=0.03)
    assert parts["high"] == pytest.approx(whole["high"], abs=0.03)
    monkeypatch.setattr(module, "_COUNTS", 60 * 250)
    assert sum(len(counts) for counts in module._draws(60, 0)) == 250


def test_rows_that_are_all_right_leave_room_for_others_that_are_not() -> None:
    for rows in (1, 200):
        right = one_hot(*[0] * rows)
        found = measure(ONE, right, right, np.zeros(rows, np.int64))["models"]["student"]
        accuracy, kept = found["metrics"]["accuracy"], found["retention"]
        share = 1.96**2 / (rows + 1.96**2)  # Wilson's upper bound for none of so many
        assert accuracy == {"value": 1.0, "low": pytest.approx(1 - share, abs=1e-3), "high": 1.0}
        assert (kept["low"], kept["high"]) == pytest.approx((1 - share, 1 + share), abs=1e-3)
        assert found["metrics"]["matthews"]["low"] < 0


def test_a_share_of_few_rows_is_not_below_nothing_and_an_error_may_be_above_one() -> None:
    teacher, student = one_hot(0, *[1] * 9), one_hot(*[1] * 10)
    kept = measure(ONE, teacher, student, np.zeros(10, np.int64))["models"]["student"]["retention"]
    assert (kept["value"], kept["low"]) == (0.0, 0.0)
    numbers = np.array([[0.0], [1.0]])
    error = measure(NUMBER, numbers, numbers, np.array([0.0, 2.3]))["models"]["teacher"]["metrics"]["mse"]
    assert error["value"] < 1 < error["high"]
    lone = measure(NUMBER, numbers[:1], numbers[1:], np.array([3.0]))["models"]["student"]["metrics"]["pearson"]
    assert lone == {"value": 0.0, "low": None, "high": None}
