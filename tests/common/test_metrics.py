"""Metrics against scikit-learn and scipy on the rows themselves; the tally never sees them all at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from common.errors import InputError
from common.labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task
from common.metrics import Tally, available_metrics, choose_metric, evaluate

SEEDS = st.integers(0, 2**32 - 1)


def _tallied(task: Task, scores: np.ndarray, targets: np.ndarray, cut: int) -> dict[str, float]:  # type: ignore[type-arg]
    tally = Tally(task)
    for part in (slice(0, cut), slice(cut, None)):
        tally.add(scores[part], targets[part])
    return tally.metrics()


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(2, 5), st.integers(1, 60), st.integers(0, 60))
def test_single_label(seed: int, labels: int, rows: int, cut: int) -> None:
    draw = np.random.default_rng(seed)
    task = Task(SINGLE_LABEL, tuple("abcde"[:labels]))
    scores, targets = draw.random((rows, labels)), draw.integers(0, labels, rows)
    predicted = scores.argmax(-1)
    ours = _tallied(task, scores, targets, cut)
    assert ours == pytest.approx(evaluate(task, scores, targets))
    assert ours["accuracy"] == pytest.approx(metrics.accuracy_score(targets, predicted))
    assert ours["macro-f1"] == pytest.approx(metrics.f1_score(targets, predicted, average="macro", zero_division=0))
    assert ours["matthews"] == pytest.approx(metrics.matthews_corrcoef(targets, predicted))
    if labels == 2:
        f1 = metrics.f1_score(targets, predicted, zero_division=0)
        assert ours["f1"] == pytest.approx(f1)
        assert ours["f1-accuracy"] == pytest.approx((f1 + metrics.accuracy_score(targets, predicted)) / 2)
    else:
        assert "f1" not in ours


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(2, 5), st.integers(1, 60), st.integers(0, 60))
def test_multi_label(seed: int, labels: int, rows: int, cut: int) -> None:
    draw = np.random.default_rng(seed)
    task = Task(MULTI_LABEL, tuple("abcde"[:labels]))
    scores, targets = draw.random((rows, labels)), draw.integers(0, 2, (rows, labels)).astype(np.float32)
    chosen = (scores >= 0.5).astype(int)
    ours = _tallied(task, scores, targets, cut)
    assert ours["micro-f1"] == pytest.approx(metrics.f1_score(targets, chosen, average="micro", zero_division=0))
    assert ours["macro-f1"] == pytest.approx(metrics.f1_score(targets, chosen, average="macro", zero_division=0))
    assert ours["exact-match"] == pytest.approx(np.mean((targets == chosen).all(-1)))


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(3, 60), st.integers(0, 60))
def test_regression(seed: int, rows: int, cut: int) -> None:
    draw = np.random.default_rng(seed)
    task = Task(REGRESSION, ("score",))
    scores, targets = draw.normal(size=(rows, 1)).astype(np.float32), draw.normal(size=rows).astype(np.float32)
    ours = _tallied(task, scores, targets, cut)
    assert ours["pearson"] == pytest.approx(stats.pearsonr(scores[:, 0], targets).statistic, abs=1e-6)
    assert ours["spearman"] == pytest.approx(stats.spearmanr(scores[:, 0], targets).statistic, abs=1e-6)
    assert ours["mse"] == pytest.approx(metrics.mean_squared_error(targets, scores[:, 0]), rel=1e-5)


def test_a_constant_answer_has_no_correlation() -> None:
    task = Task(REGRESSION, ("score",))
    assert evaluate(task, np.ones((4, 1)), np.arange(4.0))["pearson"] == 0


@pytest.mark.filterwarnings("error")
def test_numbers_that_lie_close_together_are_measured_in_silence() -> None:
    targets = (1000 + 0.001 * np.arange(8)).astype(np.float32)
    scores = (targets[:, None] + 0.0001 * (np.arange(8)[:, None] % 3)).astype(np.float32)
    ours = evaluate(Task(REGRESSION, ("score",)), scores, targets)
    exact = stats.pearsonr(scores[:, 0].astype(np.float64), targets.astype(np.float64)).statistic
    assert ours["pearson"] == pytest.approx(exact, abs=1e-9)


def test_the_default_metric_and_the_choice() -> None:
    two, many = Task(SINGLE_LABEL, ("a", "b")), Task(SINGLE_LABEL, ("a", "b", "c"))
    assert choose_metric(two, None) == "accuracy"
    assert choose_metric(two, "f1-accuracy") == "f1-accuracy"
    assert choose_metric(Task(MULTI_LABEL, ("a", "b")), None) == "micro-f1"
    assert "f1" not in available_metrics(many)
    for task, name in ((many, "f1"), (two, "mse"), (two, "nonsense")):
        with pytest.raises(InputError, match="does not fit this task"):
            choose_metric(task, name)
