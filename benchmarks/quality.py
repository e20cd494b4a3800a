"""How well the two models answer: each against the labels, and one against the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import ROLES, ratio, significant
from common.labels import MULTI_LABEL, REGRESSION, Task
from common.metrics import LOWER_IS_BETTER, evaluate
from common.progress import progress
from common.tokenization import Text
from serve.engine import Engine

# Between two advances of the bar.
_CHUNK = 256


@dataclass(frozen=True)
class Answers:
    """One model's answers to every text.

    Attributes:
        scores: `[rows, labels]`.
        truncated: how many texts lost tokens at the model's limit.
    """

    scores: NDArray[np.float32]
    truncated: int


def answer(engines: dict[str, Engine], texts: Sequence[Text]) -> dict[str, Answers]:
    """Both models' answers, by role; the texts must have been checked."""
    scores: dict[str, list[NDArray[np.float32]]] = {role: [] for role in ROLES}
    truncated = dict.fromkeys(ROLES, 0)
    with progress("answering", len(texts) * len(ROLES), "texts") as advance:
        for start in range(0, len(texts), _CHUNK):
            for role in ROLES:
                encoded = engines[role].encoder.encode(texts[start : start + _CHUNK])
                scores[role].extend(prediction.scores for prediction in engines[role].run_sorted(encoded))
                truncated[role] += sum(text.truncated for text in encoded)
                advance(len(encoded))
    return {role: Answers(np.stack(scores[role]), truncated[role]) for role in ROLES}


def compare_with_labels(
    tasks: dict[str, Task], scores: dict[str, NDArray[np.floating]], targets: NDArray[Any], metric: str | None
) -> dict[str, Any]:
    """Every metric that fits the task, of both models.

    Args:
        tasks: by role; two that differ at most in their thresholds.
        scores: by role, `[rows, labels]`.
        targets: what `Task.targets` gives.
        metric: the one to name first; the task's default where it is None or does not fit.

    Returns:
        `metric`, `student` and `teacher` (each metric's value by name), and `retention`: the student's value of
        `metric` over the teacher's; None for an error measure and where the teacher's is not above 0.
    """
    values = {
        role: {name: significant(value) for name, value in evaluate(tasks[role], scores[role], targets).items()}
        for role in ROLES
    }
    student, teacher = (values[role] for role in ROLES)
    if metric not in teacher:
        metric = next(iter(teacher))
    assert metric is not None
    comparable = metric not in LOWER_IS_BETTER and teacher[metric] > 0
    return {
        "metric": metric,
        "rows": len(targets),
        "student": student,
        "teacher": teacher,
        "retention": ratio(student[metric], teacher[metric]) if comparable else None,
    }


def compare_answers(tasks: dict[str, Task], scores: dict[str, NDArray[np.floating]]) -> dict[str, Any]:
    """How far the two models agree with each other, labels or not.

    Returns:
        `name` of the measure, `value` and `rows`: the share of texts with the same label or the same set of labels,
        or for numbers Pearson's correlation (0 where one model answers with a constant).
    """
    student, teacher = (scores[role] for role in ROLES)
    kind = tasks["student"].problem_type
    if kind == REGRESSION:
        name, value = "Pearson correlation", _pearson(student[:, 0], teacher[:, 0])
    elif kind == MULTI_LABEL:
        same = (tasks["student"].holds(student) == tasks["teacher"].holds(teacher)).all(axis=-1)
        name, value = "same set of labels", float(same.mean())
    else:
        name, value = "same label", float((student.argmax(axis=-1) == teacher.argmax(axis=-1)).mean())
    return {"name": name, "value": significant(value), "rows": len(student)}


def _pearson(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(first.astype(np.float64), second.astype(np.float64))[0, 1])
