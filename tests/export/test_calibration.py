"""Calibration against known temperatures, brute force and scikit-learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss, f1_score, log_loss

from common.labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task, activate
from export.calibration import _thresholds, calibrate, expected_calibration_error, reliability

DATA = {"name": "dev.tsv", "sha256": "0", "rows": 1}
FOUR = Task(SINGLE_LABEL, ("a", "b", "c", "d"))
SEVERAL = Task(MULTI_LABEL, ("a", "b", "c"))


def drawn(true_temperature: float, rows: int = 4000) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits of a model that is surer than it may be by that factor, and labels drawn from the true probabilities."""
    draw = np.random.default_rng(0)
    logits = draw.normal(scale=3, size=(rows, 4)).astype(np.float32)
    chances = activate(logits, SINGLE_LABEL, true_temperature).astype(np.float64)
    chances /= chances.sum(axis=1, keepdims=True)
    return logits, np.array([draw.choice(4, p=row) for row in chances])


@pytest.mark.parametrize("true_temperature", [0.6, 1.7, 3.0])
def test_the_temperature_that_made_the_labels_is_found(true_temperature: float) -> None:
    logits, targets = drawn(true_temperature)
    found = calibrate(logits, targets, FOUR, DATA, seed=0)
    assert found is not None
    assert found.temperature == pytest.approx(true_temperature, rel=0.06)
    assert found.thresholds is None
    assert found.ece_after < 0.03 < found.ece_before
    assert found.nll_after < found.nll_before
    assert found.brier_after < found.brier_before
    before = activate(logits, SINGLE_LABEL).astype(np.float64)
    expected = log_loss(targets, before / before.sum(axis=1, keepdims=True))
    assert found.nll_before == pytest.approx(expected, rel=1e-4)


def test_a_model_that_is_right_as_often_as_it_says_is_left_alone() -> None:
    found = calibrate(*drawn(1.0, rows=3000), FOUR, DATA, seed=3)
    assert found is not None
    assert found.temperature == pytest.approx(1, abs=0.06)
    assert found.nll_after <= found.nll_before


def test_a_model_without_errors_keeps_finite_scores() -> None:
    targets = np.arange(80) % 4
    found = calibrate(np.eye(4, dtype=np.float32)[targets] * 5, targets, FOUR, DATA, seed=0)
    assert found is not None
    assert 0.2 <= found.temperature <= 1


def test_scores_that_only_hurt_stay_as_they_are() -> None:
    # Ten rows: a fold's temperature is fitted to noise.
    draw = np.random.default_rng(5)
    for seed in range(20):
        logits, targets = draw.normal(size=(10, 4)).astype(np.float32), draw.integers(0, 4, 10)
        found = calibrate(logits, targets, FOUR, DATA, seed)
        assert found is not None
        assert found.nll_after <= found.nll_before
        assert found.temperature == 1 or found.nll_after < found.nll_before


def test_numbers_are_not_calibrated() -> None:
    assert calibrate(np.zeros((9, 1)), np.zeros(9), Task(REGRESSION, ("score",)), DATA, seed=0) is None


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 200))
def test_the_error_is_that_of_the_definition(seed: int, rows: int) -> None:
    draw = np.random.default_rng(seed)
    scores = draw.dirichlet(np.ones(4), rows).astype(np.float32)
    targets = draw.integers(0, 4, rows)
    truth = np.eye(4)[targets]
    expected = 0.0
    best, right = scores.max(axis=1), scores.argmax(axis=1) == targets
    for index in range(15):
        inside = (best >= index / 15) & ((best < (index + 1) / 15) | (index == 14))
        if inside.any():
            expected += inside.mean() * abs(best[inside].mean() - right[inside].mean())
    bins = reliability(scores, truth, FOUR)
    assert expected_calibration_error(bins) == pytest.approx(expected, abs=1e-6)
    assert sum(share for share, _, _ in bins) == pytest.approx(1)


def test_brier_is_scikit_learns() -> None:
    draw = np.random.default_rng(2)
    logits, targets = draw.normal(size=(200, 2)).astype(np.float32), draw.integers(0, 2, 200)
    found = calibrate(logits, targets, Task(SINGLE_LABEL, ("a", "b")), DATA, seed=0)
    assert found is not None
    # Over both labels, so twice the score of one.
    expected = 2 * brier_score_loss(targets, activate(logits, SINGLE_LABEL)[:, 1])
    assert found.brier_before == pytest.approx(expected, rel=1e-5)


def rare_labels(rows: int = 1500) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A multi-label model whose logits are shifted, so that one half is the wrong place to cut."""
    draw = np.random.default_rng(4)
    truth = (draw.random((rows, 3)) < [0.3, 0.1, 0.002]).astype(np.float32)
    logits = draw.normal(size=(rows, 3)) + 3 * truth - np.array([3.0, 4.0, 2.0])
    return logits.astype(np.float32), truth


def test_thresholds_are_the_best_there_are() -> None:
    logits, truth = rare_labels()
    found = calibrate(logits, truth, SEVERAL, DATA, seed=0)
    assert found is not None
    assert found.thresholds is not None
    assert found.f1_before is not None
    assert found.f1_after is not None
    scores = activate(logits, MULTI_LABEL, found.temperature)
    for label in (0, 1):
        ours = f1_score(truth[:, label], scores[:, label] >= found.thresholds[label])
        best = max(f1_score(truth[:, label], scores[:, label] >= limit) for limit in np.linspace(0.05, 0.95, 181))
        assert ours >= best - 1e-3
    assert found.thresholds[2] == 0.5  # three rows are no ground for a threshold
    assert found.f1_before == pytest.approx(
        f1_score(truth, activate(logits, MULTI_LABEL) >= 0.5, average="micro"), abs=1e-9
    )
    assert found.f1_after > found.f1_before + 0.05


def test_thresholds_part_scores_that_lie_close_together() -> None:
    draw = np.random.default_rng(3)
    logits = draw.normal(size=(200, 3), scale=1e-4).astype(np.float32) - np.array([0.5, 1, 2], np.float32)
    truth = (logits > np.quantile(logits, 0.75, axis=0)).astype(np.float32)
    found = calibrate(logits, truth, SEVERAL, DATA, seed=0)
    assert found is not None
    assert found.thresholds is not None
    scores = activate(logits, MULTI_LABEL, found.temperature)
    np.testing.assert_array_equal(scores >= np.array(found.thresholds, np.float32), truth > 0)


def test_a_rare_label_fires_however_low_its_scores_are() -> None:
    draw = np.random.default_rng(0)
    truth = (draw.random((400, 3)) < [0.03, 0.3, 0.5]).astype(np.float32)
    logits = draw.normal(size=(400, 3), scale=[0.3, 1, 1]) + truth * [1.5, 2, 2] - [5, 1, 1]
    found = calibrate(logits, truth, SEVERAL, DATA, seed=0)
    assert found is not None
    assert found.thresholds is not None
    scores = activate(logits, MULTI_LABEL, found.temperature)[:, 0]
    assert scores.max() < 0.05
    holds = replace(SEVERAL, thresholds=tuple(found.thresholds)).holds(np.tile(scores[:, None], 3))[:, 0]
    best = max(f1_score(truth[:, 0], scores >= limit) for limit in scores)
    assert f1_score(truth[:, 0], holds) == best > 0.9


@pytest.mark.parametrize("ends", [(0.0, 0.3), (0.7, 1.0), (0.0, 1e-12), (1 - 2**-24, 1.0), (0.0, 1e-45), (0.3, 0.7)])
def test_a_threshold_parts_any_two_scores_and_a_task_takes_it(ends: tuple[float, float]) -> None:
    below, above = np.float32(ends)
    assert below < above
    scores = np.repeat(np.array([below, above], np.float32), 10)[:, None]
    limits = tuple(_thresholds(scores, (scores == above).astype(np.float64)))
    task = Task(MULTI_LABEL, ("a",), limits)
    np.testing.assert_array_equal(task.holds(scores), scores == above)


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_a_label_that_all_rows_have_holds_for_all(score: float) -> None:
    scores = np.full((10, 1), score, np.float32)
    task = Task(MULTI_LABEL, ("a",), tuple(_thresholds(scores, np.ones((10, 1)))))
    assert task.holds(scores).all()


def test_thresholds_that_do_not_help_are_not_kept() -> None:
    draw = np.random.default_rng(1)
    truth = (draw.random((60, 3)) < 0.5).astype(np.float32)
    found = calibrate((8 * truth - 4).astype(np.float32), truth, SEVERAL, DATA, seed=0)
    assert found is not None
    assert found.thresholds is None
    assert found.f1_after == found.f1_before == 1
