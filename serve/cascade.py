"""The cascade: texts of which the student is unsure are answered by its teacher, within the same request."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.errors import InputError
from common.examples import BY_USUAL_NAMES, Columns
from common.labels import MULTI_LABEL, REGRESSION
from serve.codec import Codec, Prediction

_BUDGET = 0.5
# What a budget lets through at once after a quiet while, in texts.
_BURST = 20.0


@dataclass(frozen=True)
class CascadeSettings:
    """When the teacher is asked.

    Attributes:
        escalate_below: the student's confidence below which it is.
        target_agreement: in its place: the share of dev texts on which the cascade must answer as the teacher does,
            from which the confidence is fitted.
        dev: the table of those texts.
        columns: which of its columns hold them.
        budget: the largest share of texts that the teacher answers; None takes 0.5.
    """

    escalate_below: float | None = None
    target_agreement: float | None = None
    dev: str | None = None
    budget: float | None = None
    columns: Columns = BY_USUAL_NAMES

    def __post_init__(self) -> None:
        if self.escalate_below is not None and self.target_agreement is not None:
            raise InputError("--escalate-below and --target-agreement exclude each other")
        if self.escalate_below is not None and not 0 < self.escalate_below <= 1:
            raise InputError("--escalate-below must lie above 0 and be at most 1: it is a probability")
        if self.target_agreement is not None and not 0 < self.target_agreement <= 1:
            raise InputError("--target-agreement must lie above 0 and be at most 1: it is a share of texts")
        if self.target_agreement is not None and self.dev is None:
            raise InputError("--target-agreement is fitted on texts: name a table with --dev")
        if self.dev is not None and self.target_agreement is None:
            raise InputError("--dev is of use with --target-agreement alone")
        if self.columns != BY_USUAL_NAMES and self.dev is None:
            raise InputError("--text-column and --pair-column are of --dev, and none is given")
        if self.budget is not None and not 0 < self.budget <= 1:
            raise InputError("--escalation-budget must lie above 0 and be at most 1: it is a share of texts")
        if self.budget is not None and not self.on:
            raise InputError("--escalation-budget is of use with --escalate-below or --target-agreement alone")

    @property
    def on(self) -> bool:
        """Whether the teacher is ever asked."""
        return self.escalate_below is not None or self.target_agreement is not None

    @property
    def largest_share(self) -> float:
        """Of texts that the teacher answers."""
        return _BUDGET if self.budget is None else self.budget


@dataclass(frozen=True)
class Fit:
    """A confidence fitted on texts, and what the cascade does on those same texts.

    Attributes:
        threshold: texts below it go to the teacher.
        texts: how many were used.
        escalated: share of them that goes to the teacher.
        student_agreement: share on which the student alone answers as the teacher does.
        agreement: share on which the cascade does.
    """

    threshold: float
    texts: int
    escalated: float
    student_agreement: float
    agreement: float


class Budget:
    """Grants escalations up to a share of all texts, with a small credit for bursts."""

    def __init__(self, share: float):
        self._share = share
        self._credit = _BURST * share

    def grant(self, texts: int, wanted: int) -> int:
        """How many of a request's texts may go to the teacher.

        Args:
            texts: of the request.
            wanted: of them would go.
        """
        self._credit += self._share * texts
        granted = min(wanted, int(self._credit))
        self._credit = min(self._credit - granted, _BURST)
        return granted


def confidence(prediction: Prediction) -> float:
    """How sure a model is of its answer, from 0 to 1.

    The probability of the label; where a text may have several, that of the least certain decision.
    """
    if prediction.task.problem_type == MULTI_LABEL:
        holds = prediction.task.holds(prediction.scores)
        return float(np.where(holds, prediction.scores, 1 - prediction.scores).min())
    return prediction.score


def check_pair(student: Codec, teacher: Codec) -> None:
    """
    Raises:
        InputError: the two do not answer the same question, or answer with numbers, which have no confidence.
    """
    if student.task.problem_type == teacher.task.problem_type == REGRESSION:
        raise InputError(f"{student.name} answers with a number, which has no confidence and no agreement")
    if student.task.problem_type != teacher.task.problem_type or set(student.task.labels) != set(teacher.task.labels):
        theirs, ours = (set(codec.task.labels) for codec in (teacher, student))
        odd = sorted(theirs ^ ours)[:3]
        where = f": not in both are {', '.join(odd)}" if odd else ""
        raise InputError(f"the teacher {teacher.name} and the student {student.name} have different labels{where}")


def fit_threshold(student: Sequence[Prediction], teacher: Sequence[Prediction], target: float) -> Fit:
    """The lowest threshold at which the cascade agrees with the teacher on a share of texts.

    Args:
        student, teacher: their answers to the same texts.
        target: the share.
    """
    sure = np.array([confidence(answer) for answer in student])
    agree = np.array([own.agrees_with(other) for own, other in zip(student, teacher, strict=True)])
    # Nothing, up to each text's own confidence, and everything.
    for threshold in (0.0, *np.unique(sure), math.nextafter(float(sure.max()), math.inf)):
        escalated = sure < threshold
        reached = float((agree | escalated).mean())
        if reached >= target:
            break
    return Fit(float(threshold), len(sure), float(escalated.mean()), float(agree.mean()), reached)


def unsure(outcomes: Sequence[Any], threshold: float) -> list[int]:
    """Rows of the predictions below the threshold, the least sure first."""
    rows = {row: confidence(outcome) for row, outcome in enumerate(outcomes) if isinstance(outcome, Prediction)}
    return sorted((row for row, sure in rows.items() if sure < threshold), key=rows.__getitem__)
