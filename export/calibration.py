"""Scores that mean what they say: a temperature, and for tasks of several labels a threshold each, fitted on dev rows.

Temperature scaling: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2. It never changes which
label is best. What is reported after the fit is measured on rows that the fit did not see.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from common.labels import MULTI_LABEL, MULTI_LABEL_THRESHOLD, REGRESSION, Task, activate
from export.proofs import Calibration

FOLDS = 5
BINS = 15
# A dev table without an error would ask for a temperature of zero.
_LEAST, _MOST = 0.2, 10.0
# A label's threshold is its own only where the dev table knows it this often.
_ENOUGH_POSITIVES = 5
# What lies between 0 and 1, as thresholds must; float32, by which they are compared, takes the two for 0 and 1.
_THRESHOLD_RANGE = (math.nextafter(0.0, 1.0), math.nextafter(1.0, 0.0))


def calibrate(
    logits: NDArray[np.floating], targets: NDArray[Any], task: Task, data: dict[str, Any], seed: int
) -> Calibration | None:
    """Fits temperature and thresholds; each is kept only where it helps on rows that the fit did not see.

    Args:
        logits: `[rows, labels]`, of the graph that will be served.
        targets: what `Task.targets` gives.
        data: what the manifest says of the table.

    Returns:
        None for a task whose answer is a number.
    """
    if task.problem_type == REGRESSION:
        return None
    logits = np.asarray(logits)
    truth = _truth(targets, task)
    fold_of = np.random.default_rng(seed).permutation(len(logits)) % FOLDS
    held = [fold_of == fold for fold in range(FOLDS)]
    held = [rows for rows in held if rows.any() and not rows.all()]
    before = activate(logits, task.problem_type)
    after = before.copy()
    temperatures = [_temperature(logits[~rows], truth[~rows], task) for rows in held]
    for rows, fitted in zip(held, temperatures, strict=True):
        after[rows] = activate(logits[rows], task.problem_type, fitted)
    helps = _nll(after, truth, task) < _nll(before, truth, task)
    temperature = _temperature(logits, truth, task) if helps else 1.0
    after = after if helps else before
    thresholds = f1_before = f1_after = None
    if task.problem_type == MULTI_LABEL:
        usual = before >= MULTI_LABEL_THRESHOLD
        chosen = usual.copy()
        for rows, fitted in zip(held, temperatures, strict=True):
            seen = activate(logits[~rows], MULTI_LABEL, fitted if helps else 1.0)
            chosen[rows] = after[rows] >= np.array(_thresholds(seen, truth[~rows]), np.float32)
        f1_before, f1_after = _micro_f1(usual, truth), _micro_f1(chosen, truth)
        if f1_after > f1_before:
            thresholds = _thresholds(activate(logits, MULTI_LABEL, temperature), truth)
        else:
            f1_after = f1_before
    bins_before, bins_after = (reliability(scores, truth, task) for scores in (before, after))
    return Calibration(
        data=data,
        temperature=temperature,
        thresholds=thresholds,
        folds=FOLDS,
        ece_before=expected_calibration_error(bins_before),
        ece_after=expected_calibration_error(bins_after),
        brier_before=_brier(before, truth),
        brier_after=_brier(after, truth),
        nll_before=_nll(before, truth, task),
        nll_after=_nll(after, truth, task),
        f1_before=f1_before,
        f1_after=f1_after,
        bins_before=bins_before,
        bins_after=bins_after,
    )


def reliability(scores: NDArray[np.floating], truth: NDArray[np.float64], task: Task) -> list[list[float]]:
    """For each of `BINS` equal bins that holds any: the share of answers in it, their mean score, the share right.

    Args:
        scores, truth: `[rows, labels]`; truth is 0 or 1.
    """
    if task.problem_type == MULTI_LABEL:
        confidence, right = scores.ravel(), truth.ravel()
    else:
        best = scores.argmax(axis=-1)
        confidence, right = scores.max(axis=-1), truth[np.arange(len(truth)), best]
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = []
    for place in range(BINS):
        inside = places == place
        if inside.any():
            bins.append([float(inside.mean()), float(confidence[inside].mean()), float(right[inside].mean())])
    return bins


def expected_calibration_error(bins: list[list[float]]) -> float:
    """Mean distance between score and share right, weighted by the bins' shares (Guo et al. 2017, equation 3)."""
    return float(sum(share * abs(confidence - right) for share, confidence, right in bins))


def _temperature(logits: NDArray[np.floating], truth: NDArray[np.float64], task: Task) -> float:
    def loss(log_temperature: float) -> float:
        return _nll(activate(logits, task.problem_type, float(np.exp(log_temperature))), truth, task)

    found = minimize_scalar(loss, bounds=(np.log(_LEAST), np.log(_MOST)), method="bounded", options={"xatol": 1e-4})
    return round(float(np.exp(found.x)), 4)


def _thresholds(scores: NDArray[np.floating], truth: NDArray[np.float64]) -> list[float]:
    """For each label the threshold with the best F1, in the middle between two scores."""
    found = []
    for label in range(scores.shape[1]):
        order = np.argsort(-scores[:, label], kind="stable")
        ranked, right = scores[order, label], np.cumsum(truth[order, label])
        positives = right[-1]
        if positives < _ENOUGH_POSITIVES:
            found.append(MULTI_LABEL_THRESHOLD)
            continue
        taken = np.arange(1, len(order) + 1)
        f1 = 2 * right / (taken + positives)
        f1[:-1][ranked[:-1] == ranked[1:]] = 0  # no threshold parts equal scores
        last = int(f1.argmax())
        following = ranked[last + 1] if last + 1 < len(ranked) else 0.0
        found.append(_between(float(following), float(ranked[last])))
    return found


def _between(below: float, above: float) -> float:
    """The middle in the fewest digits, four at least, that leave each score on its side."""
    rounded = (float(f"{(below + above) / 2:.{digits}g}") for digits in range(4, 10))
    # Between two neighbours among float32's numbers there is none, and a tie may be rounded to the lower.
    neighbour = float(np.clip(above, *_THRESHOLD_RANGE))
    return next((value for value in rounded if below < np.float32(value) <= above and 0 < value < 1), neighbour)


def _truth(targets: NDArray[Any], task: Task) -> NDArray[np.float64]:
    if task.problem_type == MULTI_LABEL:
        return np.asarray(targets, np.float64)
    return np.eye(len(task.labels))[targets]


def _nll(scores: NDArray[np.floating], truth: NDArray[np.float64], task: Task) -> float:
    likely = np.clip(np.asarray(scores, np.float64), 1e-12, 1 - 1e-12)
    losses = -truth * np.log(likely)
    if task.problem_type == MULTI_LABEL:
        losses = losses - (1 - truth) * np.log(1 - likely)
    return float(losses.sum(axis=-1).mean())


def _brier(scores: NDArray[np.floating], truth: NDArray[np.float64]) -> float:
    return float(((scores - truth) ** 2).sum(axis=-1).mean())


def _micro_f1(chosen: NDArray[np.bool_], truth: NDArray[np.float64]) -> float:
    hits = float((chosen * truth).sum())
    total = float(chosen.sum() + truth.sum())
    return 2 * hits / total if total else 0.0
