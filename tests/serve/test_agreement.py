"""Agreement, divergence and drift against plain counts and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr

from common.labels import MULTI_LABEL, SINGLE_LABEL, Task
from serve.agreement import WINDOW, Agreement, divergence_of
from serve.codec import Prediction

LABELS = ("a", "b", "c")


def _prediction(weights: list[float], labels: tuple[str, ...] = LABELS) -> Prediction:
    scores = (np.array(weights) / np.sum(weights)).astype(np.float32)
    return Prediction(Task(SINGLE_LABEL, labels), scores, scores, 3, False)


_weights = st.lists(st.floats(0.01, 1), min_size=3, max_size=3)


@given(_weights, _weights)
def test_divergence_is_scipys_whatever_the_order_of_the_labels(p: list[float], q: list[float]) -> None:
    student, teacher = _prediction(q), _prediction(p[::-1], LABELS[::-1])
    wanted = rel_entr(teacher.scores[::-1].astype(float), student.scores.astype(float)).sum()
    assert divergence_of(student, teacher) == pytest.approx(wanted, abs=1e-6)
    assert divergence_of(student, student) == 0


def test_divergence_of_several_labels_adds_up_and_certainty_stays_finite() -> None:
    task = Task(MULTI_LABEL, ("a", "b"))
    p, q = np.array([0.9, 0.2], np.float32), np.array([0.6, 0.5], np.float32)
    student, teacher = (Prediction(task, scores, scores, 3, False) for scores in (q, p))
    wanted = (rel_entr(p, q) + rel_entr(1 - p, 1 - q)).sum()
    assert divergence_of(student, teacher) == pytest.approx(float(wanted), abs=1e-6)
    sure, other = (np.array(scores, np.float32) for scores in ([1, 0], [0, 1]))
    assert np.isfinite(divergence_of(Prediction(task, sure, sure, 3, False), Prediction(task, other, other, 3, False)))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=50))
def test_counts(pairs: list[tuple[int, int]]) -> None:
    agreement = Agreement()
    for own, other in pairs:
        agreement.compare(_prediction(np.eye(3)[own] + 0.1), _prediction(np.eye(3)[other] + 0.1))  # type: ignore[arg-type]
    told = agreement.as_dict()
    same = [own == other for own, other in pairs]
    assert told["compared"] == len(pairs)
    assert told["agreement"] == pytest.approx(np.mean(same))
    assert told["recent"]["agreement"] == pytest.approx(np.mean(same))
    assert sum(entry["texts"] for entry in told["disagreements"]) == len(pairs) - sum(same)
    for entry in told["labels"]:
        rows = [row for row, (_, other) in zip(same, pairs, strict=True) if LABELS[other] == entry["label"]]
        assert (entry["compared"], entry["agreement"]) == (len(rows), pytest.approx(np.mean(rows)))


def test_several_labels_agree_in_any_order_and_are_counted_one_by_one() -> None:
    student_task, teacher_task = (Task(MULTI_LABEL, labels) for labels in (("x", "y", "z"), ("z", "y", "x")))
    student = Prediction(student_task, np.array([0.9, 0.8, 0.1], np.float32), np.zeros(3, np.float32), 3, False)
    same = Prediction(teacher_task, np.array([0.1, 0.8, 0.9], np.float32), np.zeros(3, np.float32), 3, False)
    other = Prediction(teacher_task, np.array([0.7, 0.8, 0.2], np.float32), np.zeros(3, np.float32), 3, False)
    agreement = Agreement()
    agreement.compare(student, same)
    agreement.compare(student, other)
    assert agreement.as_dict()["agreement"] == 0.5
    assert {entry["label"]: entry["agreement"] for entry in agreement.as_dict()["labels"]} == {"x": 1, "y": 1, "z": 0}


def test_drift_is_told_once_there_is_enough_and_beside_what_chance_gives() -> None:
    rng = np.random.default_rng(0)
    agreement = Agreement()
    for label in rng.choice(LABELS, 2 * WINDOW - 1, p=[0.5, 0.3, 0.2]):
        agreement.see(str(label))
    assert agreement.drift is None
    agreement.see("a")
    assert agreement.drift is not None
    assert agreement.drift < 3 * agreement.drift_by_chance
    for label in rng.choice(LABELS, WINDOW, p=[0.2, 0.3, 0.5]):
        agreement.see(str(label))
    assert agreement.drift == pytest.approx(0.3, abs=0.05)
    # The mean of many draws without drift.
    drawn = rng.multinomial(WINDOW, [0.5, 0.3, 0.2], size=(400, 2))
    mean = np.abs(drawn[:, 0] - drawn[:, 1]).sum(1).mean() / (2 * WINDOW)
    assert agreement.drift_by_chance == pytest.approx(mean, rel=0.15)
