"""How far student and teacher agree on live traffic, and whether its mix of labels drifts."""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import Any

import numpy as np

from common.labels import MULTI_LABEL
from serve.codec import Prediction

# Texts that "recent" and "at first" stand for.
WINDOW = 1000
# The pairs of labels that are listed, and that are counted at all.
_SHOWN_PAIRS = 20
_KEPT_PAIRS = 10_000
# Below any probability that float32 tells from 0.
_LEAST = 1e-9


class Agreement:
    """Counts of compared answers."""

    def __init__(self) -> None:
        self.compared = 0
        self.agreed = 0
        self._divergence = 0.0
        self._by_label: Counter[str] = Counter()
        self._disagreed_by_label: Counter[str] = Counter()
        self._pairs: Counter[tuple[str, str]] = Counter()
        self._recent: deque[tuple[bool, float]] = deque(maxlen=WINDOW)
        self._first_mix: Counter[str] = Counter()
        self._first_count = 0
        self._recent_labels: deque[str] = deque(maxlen=WINDOW)

    def compare(self, student: Prediction, teacher: Prediction) -> float:
        """Counts one text's two answers and returns their divergence."""
        agreed = student.agrees_with(teacher)
        divergence = divergence_of(student, teacher)
        self.compared += 1
        self.agreed += agreed
        self._divergence += divergence
        own = set(student.chosen)
        for label in teacher.chosen:
            self._by_label[label] += 1
            self._disagreed_by_label[label] += label not in own
        pair = student.answer, teacher.answer
        # Where texts may have several labels there is no end of pairs.
        if not agreed and (pair in self._pairs or len(self._pairs) < _KEPT_PAIRS):
            self._pairs[pair] += 1
        self._recent.append((agreed, divergence))
        return divergence

    def see(self, label: str) -> None:
        """Counts the label that the student gave one sampled text."""
        if self._first_count < WINDOW:
            self._first_count += 1
            self._first_mix[label] += 1
        else:
            self._recent_labels.append(label)

    @property
    def drift(self) -> float | None:
        """Total variation distance of the recent mix of labels from the first, 0 to 1; None while there is too little.

        It is the share of texts whose label would have to change to make the two mixes one.
        """
        if len(self._recent_labels) < WINDOW:
            return None
        recent = Counter(self._recent_labels)
        labels = self._first_mix.keys() | recent.keys()
        return sum(abs(self._first_mix[label] - recent[label]) for label in labels) / (2 * WINDOW)

    @property
    def drift_by_chance(self) -> float:
        """What `drift` would be on average if nothing had changed: half the mean deviation of each label's share."""
        shares = [count / max(self._first_count, 1) for count in self._first_mix.values()]
        return sum(math.sqrt(share * (1 - share) * 2 / WINDOW * 2 / math.pi) for share in shares) / 2

    def as_dict(self) -> dict[str, Any]:
        """For `/v1/agreement`."""
        recent = [agreed for agreed, _ in self._recent]
        return {
            "compared": self.compared,
            "agreement": self.agreed / self.compared if self.compared else None,
            "mean_divergence": self._divergence / self.compared if self.compared else None,
            "recent": {
                "compared": len(recent),
                "agreement": sum(recent) / len(recent) if recent else None,
                "mean_divergence": float(np.mean([value for _, value in self._recent])) if recent else None,
            },
            "labels": [
                {
                    "label": label,
                    "compared": count,
                    "agreement": 1 - self._disagreed_by_label[label] / count,
                }
                for label, count in self._by_label.most_common()
            ],
            "disagreements": [
                {"student": student, "teacher": teacher, "texts": count}
                for (student, teacher), count in self._pairs.most_common(_SHOWN_PAIRS)
            ],
            "label_mix": {
                "drift": self.drift,
                "drift_by_chance": self.drift_by_chance if self.drift is not None else None,
                "texts": WINDOW,
            },
        }


def divergence_of(student: Prediction, teacher: Prediction) -> float:
    """KL(teacher ‖ student) of their probabilities in nats; summed over the labels where a text may have several."""
    order = [student.task.labels.index(label) for label in teacher.task.labels]
    p = np.maximum(teacher.scores.astype(np.float64), _LEAST)
    q = np.maximum(student.scores[order].astype(np.float64), _LEAST)
    terms = p * np.log(p / q)
    if student.task.problem_type == MULTI_LABEL:
        p, q = np.maximum(1 - p, _LEAST), np.maximum(1 - q, _LEAST)
        terms = terms + p * np.log(p / q)
    return max(float(terms.sum()), 0.0)
