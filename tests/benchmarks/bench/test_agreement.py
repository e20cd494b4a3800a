"""Agreement, McNemar's test and the confusion on known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.bench.agreement import mcnemar, measure_agreement
from common.labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task

ONE = Task(SINGLE_LABEL, ("a", "b", "c"))
SEVERAL = Task(MULTI_LABEL, ("b", "a"))
NUMBER = Task(REGRESSION, ("score",))


def sure(*labels: int) -> np.ndarray:
    """One label a row, each row surer than the one before."""
    scores = np.full((len(labels), 3), 0.1, np.float32)
    scores[np.arange(len(labels)), list(labels)] = np.linspace(0.5, 0.9, len(labels))
    return scores


def measure(task: Task, student: np.ndarray, teacher: np.ndarray, labels=(), targets=None, texts=None):
    texts = texts or [f"text {row}" for row in range(len(student))]
    return measure_agreement((task, task), (student, teacher), texts, labels, targets)


def test_one_label() -> None:
    labels = ["a", "b", "c", "a"]
    found = measure(ONE, sure(0, 1, 2, 2), sure(0, 1, 2, 0), labels, np.array([0, 1, 2, 0]))
    assert found["name"] == "same label"
    assert found["value"]["value"] == 0.75
    wilson = stats.binomtest(3, 4).proportion_ci(0.95, method="wilson")
    assert (found["value"]["low"], found["value"]["high"]) == pytest.approx((wilson.low, wilson.high), abs=1e-5)
    assert found["agreed"] == {"a": 1, "b": 1, "c": 1}
    assert found["mcnemar"] == {"student_only": 0, "teacher_only": 1, "p": 1.0}
    (cell,) = found["confusion"]
    assert (cell["teacher"], cell["student"], cell["count"]) == ("a", "c", 1)
    assert cell["texts"] == [{"text": "text 3", "label": "a", "teacher_score": 0.9, "student_score": 0.9}]


def test_cells_come_by_size_with_the_surest_texts() -> None:
    student, teacher = sure(*[0] * 7, 1, 2), sure(*[1] * 7, 0, 2)
    found = measure(ONE, student, teacher)
    cells = found["confusion"]
    assert [(cell["teacher"], cell["student"], cell["count"]) for cell in cells] == [("b", "a", 7), ("a", "b", 1)]
    assert [text["text"] for text in cells[0]["texts"]] == [f"text {row}" for row in (6, 5, 4, 3, 2)]
    assert cells[0]["texts"][0]["label"] is None
    assert found["mcnemar"] is None


def test_texts_are_cut_and_pairs_are_joined() -> None:
    found = measure(ONE, sure(0, 0), sure(1, 1), texts=[("one", "two"), "x" * 301])
    shown = [text["text"] for text in found["confusion"][0]["texts"]]
    assert shown == ["x" * 299 + "…", "one | two"]


def test_several_labels_are_one_answer() -> None:
    student = np.array([[0.9, 0.9], [0.1, 0.2], [0.5, 0.1]])
    teacher = np.array([[0.6, 0.7], [0.1, 0.8], [0.7, 0.4]])
    found = measure(SEVERAL, student, teacher, ["a|b", "a", ""], np.array([[1, 1], [0, 1], [0, 0]]))
    assert found["name"] == "same set of labels"
    assert found["value"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    assert found["agreed"] == {"a|b": 1, "b": 1}
    (cell,) = found["confusion"]
    assert (cell["teacher"], cell["student"]) == ("a", "")
    assert found["mcnemar"]["teacher_only"] == 1


def test_numbers_are_a_correlation_with_fishers_interval() -> None:
    generator = np.random.default_rng(0)
    teacher = generator.normal(size=(50, 1)).astype(np.float32)
    student = (teacher + generator.normal(size=(50, 1))).astype(np.float32)
    found = measure(NUMBER, student, teacher)
    r = float(np.corrcoef(student[:, 0], teacher[:, 0])[0, 1])
    assert found["value"]["value"] == pytest.approx(r, rel=1e-4)
    bounds = [math.tanh(math.atanh(r) + side * 1.959964 / math.sqrt(47)) for side in (-1, 1)]
    assert [found["value"]["low"], found["value"]["high"]] == pytest.approx(bounds, rel=1e-3)
    assert (found["confusion"], found["agreed"], found["mcnemar"]) == ([], {}, None)
    assert measure(NUMBER, np.ones((3, 1)), teacher[:3])["value"] == {"value": 0.0, "low": None, "high": None}
    exact = measure(NUMBER, 10 - 2 * teacher, teacher)["value"]
    assert exact["value"] == pytest.approx(-1)
    assert all(math.isfinite(value) for value in exact.values())


def test_rows_that_either_did_not_answer_are_left_out() -> None:
    student = sure(0, 1, 2)
    student[0] = np.nan
    found = measure(ONE, student, sure(0, 0, 2), ["a", "b", "c"], np.array([0, 1, 2]))
    assert (found["rows"], found["value"]["value"]) == (2, 0.5)
    assert found["confusion"][0]["texts"][0]["text"] == "text 1"
    assert found["mcnemar"]["student_only"] == 1


def test_mcnemar_is_the_exact_binomial_test() -> None:
    student = np.array([True] * 12 + [False] * 3 + [True] * 20)
    teacher = np.array([False] * 12 + [True] * 3 + [True] * 20)
    found = mcnemar(student, teacher)
    by_hand = 2 * sum(math.comb(15, k) for k in range(4)) / 2**15
    assert found == {"student_only": 12, "teacher_only": 3, "p": pytest.approx(by_hand, rel=1e-5)}
    assert mcnemar(student, student)["p"] == 1.0


def test_mcnemar_finds_a_difference_as_seldom_as_it_should_where_there_is_none() -> None:
    generator = np.random.default_rng(0)
    found = [mcnemar(*(generator.random((2, 200)) < 0.8))["p"] < 0.05 for _ in range(300)]
    assert np.mean(found) <= 0.07
