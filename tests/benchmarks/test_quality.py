"""Metrics, retention and agreement on known answers."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quality import compare_answers, compare_with_labels
from common.labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task

ONE = Task(SINGLE_LABEL, ("a", "b", "c"))
SEVERAL = Task(MULTI_LABEL, ("a", "b"))
NUMBER = Task(REGRESSION, ("score",))


def both(task: Task) -> dict[str, Task]:
    return {"student": task, "teacher": task}


def _one_hot(*labels: int) -> np.ndarray:
    return np.eye(3, dtype=np.float32)[list(labels)]


def test_retention_is_the_students_share() -> None:
    scores = {"student": _one_hot(0, 1, 0, 0), "teacher": _one_hot(0, 1, 2, 1)}
    compared = compare_with_labels(both(ONE), scores, np.array([0, 1, 2, 2]), None)
    assert compared["metric"] == "accuracy"
    assert compared["rows"] == 4
    assert compared["student"]["accuracy"] == 0.5
    assert compared["teacher"]["accuracy"] == 0.75
    assert compared["retention"] == pytest.approx(2 / 3, abs=1e-6)
    assert set(compared["student"]) == set(compared["teacher"]) >= {"accuracy", "macro-f1"}


def test_headline_metric_is_the_one_asked_for() -> None:
    scores = {"student": _one_hot(0, 1), "teacher": _one_hot(0, 1)}
    targets = np.array([0, 1])
    assert compare_with_labels(both(ONE), scores, targets, "macro-f1")["metric"] == "macro-f1"
    assert compare_with_labels(both(ONE), scores, targets, "spearman")["metric"] == "accuracy"


def test_no_retention_of_nothing_and_of_errors() -> None:
    scores = {"student": _one_hot(0), "teacher": _one_hot(1)}
    assert compare_with_labels(both(ONE), scores, np.array([2]), None)["retention"] is None
    numbers = {"student": np.array([[1.0], [2.0]]), "teacher": np.array([[1.5], [2.0]])}
    assert compare_with_labels(both(NUMBER), numbers, np.array([1.0, 2.5]), "mse")["retention"] is None


def test_agreement_of_one_label() -> None:
    compared = compare_answers(both(ONE), {"student": _one_hot(0, 1, 2, 2), "teacher": _one_hot(0, 1, 2, 0)})
    assert compared == {"name": "same label", "value": 0.75, "rows": 4}


def test_agreement_of_several_labels_asks_for_the_whole_set() -> None:
    student = np.array([[0.9, 0.9], [0.1, 0.2], [0.5, 0.1]])
    teacher = np.array([[0.6, 0.7], [0.1, 0.8], [0.7, 0.4]])
    compared = compare_answers(both(SEVERAL), {"student": student, "teacher": teacher})
    assert compared == {"name": "same set of labels", "value": pytest.approx(2 / 3, abs=1e-6), "rows": 3}


def test_each_model_names_labels_by_its_own_thresholds() -> None:
    scores = np.array([[0.6, 0.3], [0.8, 0.1]])
    tasks = {"student": Task(MULTI_LABEL, ("a", "b"), (0.7, 0.2)), "teacher": SEVERAL}
    compared = compare_answers(tasks, {"student": scores, "teacher": scores})
    assert compared["value"] == 0.5
    quality = compare_with_labels(tasks, {"student": scores, "teacher": scores}, np.array([[0, 1], [1, 0]]), None)
    assert (quality["student"]["exact-match"], quality["teacher"]["exact-match"]) == (1.0, 0.5)


def test_agreement_of_numbers_is_a_correlation() -> None:
    teacher = np.array([[1.0], [2.0], [4.0]])
    compared = compare_answers(both(NUMBER), {"student": 10 - 2 * teacher, "teacher": teacher})
    assert compared == {"name": "Pearson correlation", "value": -1.0, "rows": 3}
    constant = compare_answers(both(NUMBER), {"student": np.ones((3, 1)), "teacher": teacher})
    assert constant["value"] == 0.0
