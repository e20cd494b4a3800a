"""When the teacher is asked: confidence, the fitted threshold, the budget, and pairs that do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError, WorkFailedError
from common.examples import Columns
from common.labels import MULTI_LABEL, SINGLE_LABEL, Task
from serve.cascade import Budget, CascadeSettings, check_pair, confidence, fit_threshold, unsure
from serve.codec import Prediction, open_codec

TASK = Task(SINGLE_LABEL, ("a", "b"))


def _prediction(score: float, label: int = 0) -> Prediction:
    scores = np.array([score, 1 - score] if label == 0 else [1 - score, score], np.float32)
    return Prediction(TASK, scores, scores, 3, False)


def test_confidence_of_several_labels_is_that_of_the_least_certain_decision() -> None:
    task = Task(MULTI_LABEL, ("a", "b", "c"), (0.5, 0.2, 0.5))
    scores = np.array([0.9, 0.3, 0.05], np.float32)
    assert confidence(Prediction(task, scores, scores, 3, False)) == pytest.approx(0.3)
    assert confidence(_prediction(0.75, 1)) == pytest.approx(0.75)


@given(
    st.lists(st.tuples(st.floats(0.5, 1), st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60),
    st.floats(0.01, 1),
)
def test_the_threshold_is_the_lowest_that_reaches_the_target(rows: list[tuple[float, int, int]], target: float) -> None:
    student = [_prediction(score, label) for score, label, _ in rows]
    teacher = [_prediction(0.9, label) for *_, label in rows]
    fit = fit_threshold(student, teacher, target)

    def agreement(threshold: float) -> float:
        right = [
            confidence(own) < threshold or own.answer == other.answer
            for own, other in zip(student, teacher, strict=True)
        ]
        return sum(right) / len(right)

    assert agreement(fit.threshold) == pytest.approx(fit.agreement)
    assert fit.agreement >= target
    assert agreement(0) == pytest.approx(fit.student_agreement)
    lower = [confidence(own) for own in student if confidence(own) < fit.threshold]
    assert all(agreement(each) < target for each in lower)
    # What is escalated is what the server would escalate.
    assert len(unsure(student, fit.threshold)) == round(fit.escalated * len(student))


@given(st.floats(0.01, 1), st.lists(st.tuples(st.integers(1, 50), st.floats(0, 1)), min_size=1, max_size=60))
def test_the_budget_caps_the_share(share: float, requests: list[tuple[int, float]]) -> None:
    budget = Budget(share)
    texts = granted = 0
    for size, wanted in requests:
        given = budget.grant(size, int(size * wanted))
        assert 0 <= given <= int(size * wanted)
        texts += size
        granted += given
    assert granted <= share * texts + 20 + 1e-6


def test_a_budget_is_not_saved_up_for_ever_and_is_used_where_there_is_need() -> None:
    budget = Budget(0.1)
    for _ in range(1000):
        budget.grant(10, 0)
    assert budget.grant(1, 500) <= 20
    assert sum(budget.grant(10, 10) for _ in range(100)) == pytest.approx(100, abs=2)


def test_the_least_sure_come_first_and_errors_never() -> None:
    outcomes = [_prediction(0.7), WorkFailedError("x"), _prediction(0.55), _prediction(0.95), _prediction(0.6, 1)]
    assert unsure(outcomes, 0.8) == [2, 4, 0]


def test_settings_that_contradict_each_other() -> None:
    for wrong in (
        {"escalate_below": 0.5, "target_agreement": 0.9, "dev": "x"},
        {"escalate_below": 1.5},
        {"target_agreement": 0.9},
        {"dev": "x"},
        {"escalate_below": 0.5, "budget": 0},
        {"budget": 0.5},
        {"escalate_below": 0.5, "columns": Columns("said")},
    ):
        with pytest.raises(InputError):
            CascadeSettings(**wrong)  # type: ignore[arg-type]
    assert CascadeSettings(escalate_below=0.5).largest_share == 0.5
    assert CascadeSettings(escalate_below=0.5, budget=1).largest_share == 1


def test_two_that_do_not_answer_the_same_question(bundle: Path, teacher_bundle: Path, regression_bundle: Path) -> None:
    student, teacher, number = (open_codec(path) for path in (bundle, teacher_bundle, regression_bundle))
    check_pair(student, teacher)
    with pytest.raises(InputError, match="different labels"):
        check_pair(student, number)
    with pytest.raises(InputError, match="no confidence"):
        check_pair(number, number)
    renamed = open_codec(regression_bundle)
    renamed.bundle = replace(renamed.bundle, task=replace(renamed.task, labels=("LABEL_0",)))
    with pytest.raises(InputError, match="no confidence"):
        check_pair(number, renamed)
    other = replace(student.bundle, task=Task(SINGLE_LABEL, ("x", *student.task.labels[1:])))
    student.bundle = other
    with pytest.raises(InputError, match="not in both are"):
        check_pair(student, teacher)
