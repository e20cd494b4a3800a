"""Two models' labels for the same rows: agreement, flips, shift of the scores, and both against the right answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from common.errors import InputError
from common.labels import SEPARATOR
from common.statistics import CONFIDENCE, Interval
from serve.comparison.score_shift import Shift, ShiftHistogram
from serve.comparison.scored_rows import Answer, check_common_labels, chosen_labels

# What is counted by label or by kind of flip stays bounded, whatever the files hold.
MAX_LABELS = 10_000
MAX_FLIP_KINDS = 10_000
# Of the sum of a row's probabilities, where they are of one label.
_ROUNDING = 1e-2

ALL_LABELS = "largest difference over the labels' probabilities"
SAME_LABEL = "difference of the two scores, where the labels agree"


@dataclass(frozen=True)
class Flip:
    """How many rows have `a` from A and `b` from B; several labels are `x|y` in sorted order, none an empty string."""

    a: str
    b: str
    rows: int


@dataclass(frozen=True)
class LabelAgreement:
    """One label of A's: the rows that have it from A, and the share of them that have it from B too."""

    label: str
    rows: int
    agreement: float


@dataclass(frozen=True)
class Correctness:
    """Both models against the right answers.

    Attributes:
        rows: with a right answer; the other counts are of these.
        unknown_labels: rows left out, since their label is known to be neither model's.
        metrics_a, metrics_b: accuracy; where rows may have several labels, exact match and micro-F1.
        both_wrong_alike, both_wrong_apart: rows that both get wrong, with the same labels and with different ones.
        p_mcnemar: two-sided and exact, from the rows that one model alone gets right (McNemar 1947): how probable so
            uneven a split of them is if both models are right equally often.
    """

    rows: int
    unknown_labels: int
    metrics_a: dict[str, float]
    metrics_b: dict[str, float]
    both_right: int
    only_a_right: int
    only_b_right: int
    both_wrong_alike: int
    both_wrong_apart: int
    p_mcnemar: float


@dataclass(frozen=True)
class LabelComparison:
    """Answers that are labels.

    Attributes:
        agreed: rows to which both give the same labels.
        agreement: their share, with Wilson's interval of 95 % (Wilson 1927).
        flips: the other rows by kind, the most frequent first.
        other_flips: rows of kinds first seen after `MAX_FLIP_KINDS` others, which `flips` leaves out.
        by_label: the most frequent first; the empty label stands for rows to which A gives none.
        labels_known: whether the next two are of the models' own labels, or of those that they gave to these rows.
        only_a, only_b: labels that the other has not.
        shift: None where no row has a measure.
        correctness: None without right answers.
    """

    agreed: int
    agreement: Interval
    flips: tuple[Flip, ...]
    other_flips: int
    by_label: tuple[LabelAgreement, ...]
    labels_known: bool
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    shift: Shift | None
    correctness: Correctness | None


class LabelCounts:
    """Counts rows one by one.

    Args:
        all_scores: whether answers have the probabilities of all labels.
        several: whether rows may have several labels; None where the answers are to tell.
    """

    def __init__(self, *, all_scores: bool, several: bool | None):
        self._all_scores = all_scores
        self._several = several
        self._rows = 0
        self._agreed = 0
        self._flips: Counter[tuple[str, str]] = Counter()
        self._other_flips = 0
        self._given: Counter[str] = Counter()
        self._kept: Counter[str] = Counter()
        self._labels: tuple[set[str], set[str]] = (set(), set())
        self._shifts = ShiftHistogram(ALL_LABELS if all_scores else SAME_LABEL)
        self._truth = _Truth()
        # The same where labels say whether a model's only label holds.
        self._held = _Truth()

    def add(self, label: str | None, a: Answer, b: Answer) -> float | None:
        """Counts a row and returns its shift, None where it has no measure.

        Args:
            label: the right answer, if there is one.

        Raises:
            InputError: the two models have no label in common, or there are more than `MAX_LABELS`.
        """
        self._see_labels(a, b)
        same = a.labels == b.labels
        self._rows += 1
        self._agreed += same
        for name in a.labels or ("",):
            self._given[name] += 1
            self._kept[name] += name in (b.labels or ("",))
        if not same:
            self._count_flip((as_value(a.labels), as_value(b.labels)))
        if self._several is None and _may_have_several(a, b):
            self._several = True
        if label is not None:
            self._truth.add(chosen_labels(label, a.scores), a.labels, b.labels)
            if not self._all_scores and label in ("0", "1"):
                self._held.add(*(frozenset(["1"] * held) for held in (int(label), len(a.labels), len(b.labels))))
        shift = _shift(a, b)
        if shift is not None:
            self._shifts.add(shift)
        return shift

    def result(self) -> LabelComparison:
        """The comparison of the rows counted so far, of which there is at least one."""
        only_a, only_b = self._labels[0] - self._labels[1], self._labels[1] - self._labels[0]
        return LabelComparison(
            agreed=self._agreed,
            agreement=wilson_interval(self._agreed, self._rows),
            flips=tuple(Flip(a, b, rows) for (a, b), rows in _by_count(self._flips)),
            other_flips=self._other_flips,
            by_label=tuple(
                LabelAgreement(name, rows, self._kept[name] / rows) for name, rows in _by_count(self._given)
            ),
            labels_known=self._all_scores,
            only_a=tuple(sorted(only_a)),
            only_b=tuple(sorted(only_b)),
            shift=self._shifts.result(),
            correctness=self._judged().result(several=bool(self._several)),
        )

    def _judged(self) -> _Truth:
        # A model of a single label, if each row has it or none: its data say 1 and 0.
        alone = self._several and len(self._labels[0] | self._labels[1]) == 1
        return self._held if alone and self._held.rows == self._truth.rows else self._truth

    def _see_labels(self, a: Answer, b: Answer) -> None:
        for seen, answer in zip(self._labels, (a, b), strict=True):
            new = answer.labels if answer.scores is None else answer.scores.keys()
            if not seen.issuperset(new):
                seen.update(new)
                if len(seen) > MAX_LABELS:
                    raise InputError(f"more than {MAX_LABELS:,} different labels: are these a classifier's answers?")
                if self._all_scores:
                    self._truth.known |= _unnumbered(new)
        if self._all_scores and self._rows == 0:
            check_common_labels(*self._labels)

    def _count_flip(self, kind: tuple[str, str]) -> None:
        # Where rows may have several labels there is no end of kinds.
        if kind in self._flips or len(self._flips) < MAX_FLIP_KINDS:
            self._flips[kind] += 1
        else:
            self._other_flips += 1


class _Truth:
    """Counts both models' answers against the right ones.

    A row whose label is empty has a right answer only where rows may have several labels, which may show at the end
    alone; so such rows are counted apart.

    Attributes:
        known: the labels of both models; empty where nobody tells.
    """

    def __init__(self) -> None:
        self.known: frozenset[str] = frozenset()
        self._full: Counter[str] = Counter()
        self._empty: Counter[str] = Counter()

    def add(self, right: frozenset[str], a: frozenset[str], b: frozenset[str]) -> None:
        """Counts a row: the right labels and those that each model gives."""
        counts = self._full if right else self._empty
        # A model whose labels were never named calls them LABEL_0, LABEL_1, …; its data calls them 0, 1, …
        right, a, b = _unnumbered(right), _unnumbered(a), _unnumbered(b)
        if self.known and not right <= self.known:
            counts["unknown"] += 1
            return
        counts["rows"] += 1
        if a == right or b == right:
            counts["both right" if a == b else "only a right" if a == right else "only b right"] += 1
        else:
            counts["wrong alike" if a == b else "wrong apart"] += 1
        counts["right labels"] += len(right)
        counts["a's labels"] += len(a)
        counts["b's labels"] += len(b)
        counts["a's right labels"] += len(a & right)
        counts["b's right labels"] += len(b & right)

    @property
    def rows(self) -> int:
        """How many were counted, those left out too."""
        return sum(counts["rows"] + counts["unknown"] for counts in (self._full, self._empty))

    def result(self, *, several: bool) -> Correctness | None:
        """None where no row has a right answer; without metrics where neither model has any of these."""
        from scipy import stats

        counts = self._full + self._empty if several else self._full
        rows, only_a, only_b = counts["rows"], counts["only a right"], counts["only b right"]
        if not rows and not counts["unknown"]:
            return None
        discordant = only_a + only_b
        return Correctness(
            rows=rows,
            unknown_labels=counts["unknown"],
            metrics_a=_metrics(counts, "a", several),
            metrics_b=_metrics(counts, "b", several),
            both_right=counts["both right"],
            only_a_right=only_a,
            only_b_right=only_b,
            both_wrong_alike=counts["wrong alike"],
            both_wrong_apart=counts["wrong apart"],
            p_mcnemar=float(stats.binomtest(only_a, discordant).pvalue) if discordant else 1.0,
        )


def as_value(labels: Iterable[str]) -> str:
    """Labels as one value of a table, in an order that does not depend on the model."""
    return SEPARATOR.join(sorted(labels))


def wilson_interval(successes: int, trials: int) -> Interval:
    """The share of successes with Wilson's score interval of 95 % (Wilson 1927); there is at least one trial."""
    from scipy import stats

    bounds = stats.binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(successes / trials, float(bounds.low), float(bounds.high))


def _shift(a: Answer, b: Answer) -> float | None:
    if a.scores is not None and b.scores is not None:
        # A label that a model has not is one to which it gives no probability.
        labels = a.scores.keys() | b.scores.keys()
        return max(abs(a.scores.get(label, 0.0) - b.scores.get(label, 0.0)) for label in labels)
    return abs(a.score - b.score) if a.labels == b.labels else None


def _may_have_several(a: Answer, b: Answer) -> bool:
    """Whether answers show that rows may have several labels: by them, or by probabilities that do not share out 1."""
    if len(a.labels) != 1 or len(b.labels) != 1:
        return True
    return a.scores is not None and abs(sum(a.scores.values()) - 1) > _ROUNDING


def _metrics(counts: Counter[str], model: str, several: bool) -> dict[str, float]:
    if not counts["rows"]:
        return {}
    exact = (counts["both right"] + counts[f"only {model} right"]) / counts["rows"]
    if not several:
        return {"accuracy": exact}
    labels = counts[f"{model}'s labels"] + counts["right labels"]
    return {"micro-f1": 2 * counts[f"{model}'s right labels"] / labels if labels else 0.0, "exact-match": exact}


def _unnumbered(labels: Iterable[str]) -> frozenset[str]:
    return frozenset(label.removeprefix("LABEL_") for label in labels)


def _by_count(counts: Counter[Any]) -> list[tuple[Any, int]]:
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
