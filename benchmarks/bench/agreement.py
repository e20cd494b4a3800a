"""How far a student answers as its teacher does, whether either is right more often, and on which texts they part."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench.estimates import Estimate
from common.labels import MULTI_LABEL, REGRESSION, Task
from common.statistics import CONFIDENCE
from common.tokenization import Text
from serve.comparison.label_comparison import as_value, wilson_interval

# Cells of the confusion that are kept, the texts behind each, and the characters of a text.
_CELLS = 200
_TEXTS = 5
_CHARACTERS = 300


def measure_agreement(
    tasks: tuple[Task, Task],
    scores: tuple[NDArray[np.floating], NDArray[np.floating]],
    texts: Sequence[Text],
    labels: Sequence[str],
    targets: NDArray[Any] | None,
) -> dict[str, Any]:
    """One student's entry in the `agreement` part of `results.json`.

    Args:
        tasks: the student's and the teacher's, which differ at most in their thresholds.
        scores: theirs, `[rows, labels]`; rows with NaN in either have no answer and are left out, but
            one at least is there.
        labels: the right ones as the data has them; empty where it has none.
        targets: what `Task.targets` makes of them.
    """
    rows = np.flatnonzero(~np.isnan(np.concatenate(scores, axis=1)).any(axis=1)).tolist()
    student, teacher = (each[rows] for each in scores)
    kind = tasks[0].problem_type
    if kind == REGRESSION:
        value = _correlation(student[:, 0], teacher[:, 0])
        return _entry("Pearson correlation", value, len(rows), None, {}, [])
    own, other = (_answers(task, each) for task, each in zip(tasks, (student, teacher), strict=True))
    same = np.array([a == b for a, b in zip(own, other, strict=True)], bool)
    interval = wilson_interval(int(same.sum()), len(same))
    value = Estimate(interval.mean, interval.low, interval.high)
    name = "same set of labels" if kind == MULTI_LABEL else "same label"
    test = None
    if targets is not None:
        right = _right(tasks[0], targets[rows])
        test = mcnemar(*(np.array([a == b for a, b in zip(each, right, strict=True)], bool) for each in (own, other)))
    gold = [labels[row] for row in rows] if labels else [None] * len(rows)
    cells = _confusion(own, other, student.max(axis=1), teacher.max(axis=1), [texts[row] for row in rows], gold)
    agreed = Counter(label for label, is_same in zip(own, same, strict=True) if is_same)
    return _entry(name, value, len(rows), test, dict(agreed.most_common(_CELLS)), cells)


def mcnemar(student: NDArray[np.bool_], teacher: NDArray[np.bool_]) -> dict[str, Any]:
    """McNemar's exact test (McNemar 1947) on the rows that one model alone answers rightly.

    Args:
        student, teacher: `[rows]`, whether each answers rightly.

    Returns:
        `student_only` and `teacher_only`, and the two-sided `p` of so uneven a split where both are right as often.
    """
    from scipy import stats

    student_only, teacher_only = int((student & ~teacher).sum()), int((teacher & ~student).sum())
    apart = student_only + teacher_only
    p = float(stats.binomtest(student_only, apart).pvalue) if apart else 1.0
    return {"student_only": student_only, "teacher_only": teacher_only, "p": float(f"{p:.6g}")}


def _entry(
    name: str,
    value: Estimate,
    rows: int,
    test: dict[str, Any] | None,
    agreed: dict[str, int],
    confusion: list[dict[str, Any]],
) -> dict[str, Any]:
    figures = {"name": name, "value": value.as_dict(), "rows": rows, "mcnemar": test}
    return {**figures, "agreed": agreed, "confusion": confusion}


def _answers(task: Task, scores: NDArray[np.floating]) -> list[str]:
    """Each row's label, or its labels as one value in an order that does not depend on the model."""
    if task.problem_type != MULTI_LABEL:
        return [task.labels[place] for place in scores.argmax(axis=-1)]
    return [as_value(np.array(task.labels)[holds]) for holds in task.holds(scores)]


def _right(task: Task, targets: NDArray[Any]) -> list[str]:
    if task.problem_type != MULTI_LABEL:
        return [task.labels[place] for place in targets]
    return [as_value(np.array(task.labels)[row > 0]) for row in targets]


def _confusion(
    student: Sequence[str],
    teacher: Sequence[str],
    student_scores: NDArray[np.floating],
    teacher_scores: NDArray[np.floating],
    texts: Sequence[Text],
    labels: Sequence[str | None],
) -> list[dict[str, Any]]:
    """The cells in which the two differ, the largest first, with the texts on which both are surest."""
    cells: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for row, pair in enumerate(zip(teacher, student, strict=True)):
        if pair[0] != pair[1]:
            cells[pair].append(row)
    ordered = sorted(cells.items(), key=lambda cell: (-len(cell[1]), cell[0]))[:_CELLS]
    sureness = np.minimum(student_scores, teacher_scores)
    return [
        {
            "teacher": pair[0],
            "student": pair[1],
            "count": len(rows),
            "texts": [
                {
                    "text": _shown(texts[row]),
                    "label": labels[row],
                    "teacher_score": _rounded(teacher_scores[row]),
                    "student_score": _rounded(student_scores[row]),
                }
                for row in sorted(rows, key=lambda row: -sureness[row])[:_TEXTS]
            ],
        }
        for pair, rows in ordered
    ]


def _shown(text: Text) -> str:
    whole = " | ".join(text) if isinstance(text, tuple) else text
    return whole if len(whole) <= _CHARACTERS else whole[: _CHARACTERS - 1] + "…"


def _rounded(score: float) -> float:
    return round(float(score), 4)


def _correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> Estimate:
    """Pearson's correlation with Fisher's interval (Fisher 1921); 0 where one side is constant."""
    from scipy import stats

    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return Estimate(0.0)
    found = stats.pearsonr(first.astype(np.float64), second.astype(np.float64))
    if len(first) < 4:
        return Estimate(float(found.statistic))
    interval = found.confidence_interval(CONFIDENCE)
    return Estimate(float(found.statistic), float(interval.low), float(interval.high))
