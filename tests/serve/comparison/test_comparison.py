"""`compare`: against counts made anew from the rows, numpy, scikit-learn and the statistics' own formulas."""

from __future__ import annotations

import math
import tempfile
import tracemalloc
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from common.errors import InputError
from serve.comparison import comparison as comparison_module
from serve.comparison import label_comparison, number_comparison, scored_files
from serve.comparison.comparison import compare
from serve.comparison.scored_rows import Answer
from tests.scored_tables import Row, compared, failed, scored, write

LABELS = ("a", "b", "c")


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson 1927, as the textbooks have it."""
    z, share = 1.959963984540054, successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    reach = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    return middle - reach, middle + reach


def mcnemar(first: int, second: int) -> float:
    """Twice the smaller tail of a fair binomial, in whole numbers."""
    trials = first + second
    tail = sum(math.comb(trials, count) for count in range(min(first, second) + 1))
    return float(min(Fraction(1), Fraction(2 * tail, 2**trials)))


def nearest_rank(values: list[float], percent: int) -> float:
    return sorted(values)[-(-percent * len(values) // 100) - 1]


_side = st.one_of(st.none(), st.tuples(st.sampled_from(LABELS), st.floats(0.01, 1)))
_pairs = st.lists(st.tuples(_side, _side, st.sampled_from([None, *LABELS])), min_size=1, max_size=60).filter(
    lambda rows: any(a and b for a, b, _ in rows)
)


def _sides(pairs: list[Any], with_label: bool = False) -> tuple[list[Row], list[Row]]:
    a, b = [], []
    for number, (first, second, label) in enumerate(pairs):
        columns = {"text": f"text {number}", **({"label": label} if with_label else {})}
        for rows, side in ((a, first), (b, second)):
            rows.append(failed(**columns) if side is None else scored(side[0], side[1], **columns))
    return a, b


@given(_pairs)
def test_counts_are_those_of_a_second_look_at_the_rows(pairs: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        result = compared(Path(directory), *_sides(pairs, with_label=True), rows=len(pairs))
    both = [(a, b, label) for a, b, label in pairs if a and b]
    assert (result.rows, result.compared) == (len(pairs), len(both))
    assert result.errors_a == sum(a is None and b is not None for a, b, _ in pairs)
    assert result.errors_b == sum(b is None and a is not None for a, b, _ in pairs)
    assert result.errors_both == sum(a is None and b is None for a, b, _ in pairs)
    labels = result.labels
    assert labels is not None
    same = sum(a[0] == b[0] for a, b, _ in both)
    assert (labels.agreed, result.agreement) == (same, same / len(both))
    assert (labels.agreement.low, labels.agreement.high) == pytest.approx(wilson(same, len(both)), abs=1e-9)
    flips = Counter((a[0], b[0]) for a, b, _ in both if a[0] != b[0])
    assert {(flip.a, flip.b): flip.rows for flip in labels.flips} == flips
    assert [flip.rows for flip in labels.flips] == sorted(flips.values(), reverse=True)
    for entry in labels.by_label:
        kept = [b[0] == entry.label for a, b, _ in both if a[0] == entry.label]
        assert (entry.rows, entry.agreement) == (len(kept), pytest.approx(np.mean(kept)))
    assert sum(entry.rows for entry in labels.by_label) == len(both)
    _check_shift(labels.shift, [abs(a[1] - b[1]) for a, b, _ in both if a[0] == b[0]])
    _check_correctness(labels.correctness, [(a[0], b[0], label) for a, b, label in both if label is not None])
    differing = [(a, b) for a, b, _ in both if a != b]
    assert len(result.differing) == len(differing)
    ranks = [
        (row.a != row.b, min(row.score_a, row.score_b) if row.a != row.b else row.shift) for row in result.differing
    ]
    assert ranks == sorted(ranks, reverse=True)


def _check_shift(shift: Any, values: list[float]) -> None:
    if not values:
        assert shift is None
        return
    assert (shift.rows, shift.mean, shift.maximum) == (len(values), pytest.approx(np.mean(values)), max(values))
    for got, percent in ((shift.median, 50), (shift.p95, 95), (shift.p99, 99)):
        assert got == pytest.approx(nearest_rank(values, percent), abs=5.001e-5)


def _check_correctness(found: Any, triples: list[tuple[str, str, str]]) -> None:
    if not triples:
        assert found is None
        return
    a, b, right = zip(*triples, strict=True)
    assert found.metrics_a == {"accuracy": pytest.approx(accuracy_score(right, a))}
    assert found.metrics_b == {"accuracy": pytest.approx(accuracy_score(right, b))}
    only_a = sum(x == z != y for x, y, z in triples)
    only_b = sum(y == z != x for x, y, z in triples)
    assert (found.rows, found.only_a_right, found.only_b_right) == (len(triples), only_a, only_b)
    assert found.both_right == sum(x == y == z for x, y, z in triples)
    assert found.both_wrong_alike == sum(x == y != z for x, y, z in triples)
    assert found.both_wrong_apart == sum(len({x, y, z}) == 3 for x, y, z in triples)
    assert found.p_mcnemar == pytest.approx(mcnemar(only_a, only_b), rel=1e-9)


@given(_pairs)
def test_swapping_the_two_transposes_the_flips_and_a_file_agrees_with_itself(pairs: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        a, b = _sides(pairs, with_label=True)
        one, other = compared(Path(directory), a, b), compared(Path(directory), b, a)
        itself = compared(Path(directory), a, a)
    assert one.labels is not None
    assert other.labels is not None
    assert itself.labels is not None
    assert {(flip.a, flip.b, flip.rows) for flip in one.labels.flips} == {
        (flip.b, flip.a, flip.rows) for flip in other.labels.flips
    }
    assert (one.agreement, one.labels.shift) == (other.agreement, other.labels.shift)
    assert (one.errors_a, one.errors_b) == (other.errors_b, other.errors_a)
    assert {(row.row, row.a, row.b) for row in one.differing} == {(row.row, row.b, row.a) for row in other.differing}
    if one.labels.correctness is not None and other.labels.correctness is not None:
        assert one.labels.correctness.p_mcnemar == pytest.approx(other.labels.correctness.p_mcnemar)
    assert (itself.agreement, itself.labels.flips, itself.differing) == (1.0, (), ())
    assert itself.labels.shift is not None
    assert itself.labels.shift.maximum == 0


def test_with_all_scores_the_shift_is_the_largest_over_the_labels(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).dirichlet([0.5] * 3, (2, 40))
    sides = [
        [scored(LABELS[p.argmax()], p.max(), dict(zip(LABELS, p.tolist(), strict=True)), text=str(n)) for n, p in rows]
        for rows in map(enumerate, drawn)
    ]
    result = compared(tmp_path, *sides, rows=3)
    assert result.labels is not None
    assert result.labels.labels_known
    _check_shift(result.labels.shift, np.abs(drawn[0] - drawn[1]).max(axis=1).tolist())
    flipped = drawn[0].argmax(axis=1) != drawn[1].argmax(axis=1)
    sure = np.where(flipped, drawn.max(axis=2).min(axis=0), -1)
    assert [row.row for row in result.differing] == (np.argsort(-sure)[:3] + 1).tolist()


def test_several_labels_are_sets(tmp_path: Path) -> None:
    right = ["a", "a|b", "", "c", "b|c"]
    given_a = ["a", "b|a", "", "a", "b"]
    given_b = ["a", "a|b", "c", "a|c", "c|b"]
    sides = [
        [scored(value, text=str(n), label=right[n]) for n, value in enumerate(side)] for side in (given_a, given_b)
    ]
    result = compared(tmp_path, *sides)
    labels = result.labels
    assert labels is not None
    assert labels.agreed == 2
    assert {(flip.a, flip.b) for flip in labels.flips} == {("", "c"), ("a", "a|c"), ("b", "b|c")}
    assert {entry.label: (entry.rows, entry.agreement) for entry in labels.by_label} == {
        "a": (3, 1.0),
        "b": (2, 1.0),
        "": (1, 0.0),
    }
    assert labels.correctness is not None
    binarizer = MultiLabelBinarizer(classes=LABELS)
    target, a, b = (
        binarizer.fit_transform([value.split("|") if value else [] for value in side])
        for side in (right, given_a, given_b)
    )
    for metrics, answers in ((labels.correctness.metrics_a, a), (labels.correctness.metrics_b, b)):
        assert metrics["exact-match"] == pytest.approx(accuracy_score(target, answers))
        assert metrics["micro-f1"] == pytest.approx(f1_score(target, answers, average="micro"))


def test_of_one_label_an_empty_right_answer_is_none(tmp_path: Path) -> None:
    rows = [scored("a", text="x", label="a"), scored("a", text="y", label="")]
    labels = compared(tmp_path, rows, rows).labels
    assert labels is not None
    assert labels.correctness is not None
    assert labels.correctness.rows == 1


def test_confidence_is_that_of_the_least_certain_decision() -> None:
    scores = {"a": 0.875, "b": 0.25, "c": 0.5625}
    assert Answer(frozenset({"a", "c"}), 0.875, scores, False).confidence == 0.5625
    assert Answer(frozenset({"a"}), 0.875, scores, False).confidence == 1 - 0.5625
    assert Answer(frozenset({"a"}), 0.875, {"a": 0.875, "b": 0.125}, False).confidence == 0.875
    assert Answer(frozenset({"a"}), 0.875, None, False).confidence == 0.875


def test_labels_that_were_never_named_are_known_by_their_numbers(tmp_path: Path) -> None:
    a = [scored("LABEL_1", text="x", label="1"), scored("LABEL_0", text="y", label="1")]
    labels = compared(tmp_path, a, a).labels
    assert labels is not None
    assert labels.correctness is not None
    assert labels.correctness.metrics_a == {"accuracy": 0.5}


@pytest.mark.parametrize("sample", [10, 1000])
def test_numbers(sample: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean, bias and maximum are of all rows; with fewer rows than the sample takes, so is all else."""
    monkeypatch.setattr(number_comparison, "SAMPLE_ROWS", sample)
    generator = np.random.default_rng(1)
    right, a = generator.normal(size=(2, 50))
    b = a + generator.normal(0.1, 0.3, size=50)
    sides = [[scored(x, x, text=str(n), label=right[n]) for n, x in enumerate(side)] for side in (a, b)]
    result = compared(tmp_path, *sides, rows=2)
    numbers = result.numbers
    assert result.agreement is None
    assert numbers is not None
    difference = np.abs(a - b)
    assert numbers.shift.mean == pytest.approx(difference.mean())
    assert numbers.shift.maximum == difference.max()
    assert numbers.bias == pytest.approx((b - a).mean())
    assert [row.row for row in result.differing] == (np.argsort(-difference)[:2] + 1).tolist()
    assert numbers.sampled == min(sample, 50)
    if sample == 1000:
        ranks = [values.argsort().argsort() for values in (a, b)]
        assert numbers.pearson == pytest.approx(np.corrcoef(a, b)[0, 1])
        assert numbers.spearman == pytest.approx(np.corrcoef(*ranks)[0, 1])
        assert numbers.shift.p95 == nearest_rank(difference.tolist(), 95)
        assert numbers.metrics_b["mse"] == pytest.approx(np.mean((b - right) ** 2))
        assert numbers.metrics_a["pearson"] == pytest.approx(np.corrcoef(a, right)[0, 1])


def test_numbers_that_do_not_vary_have_no_correlation(tmp_path: Path) -> None:
    rows = [scored(1.5, 1.5, text=str(number)) for number in range(3)]
    numbers = compared(tmp_path, rows, rows).numbers
    assert numbers is not None
    assert math.isnan(numbers.pearson)
    assert numbers.shift.maximum == 0


def test_labels_that_one_has_alone_and_right_answers_that_neither_has(tmp_path: Path) -> None:
    a = [
        scored("a", 0.6, {"a": 0.6, "b": 0.4}, text="x", label="z"),
        scored("b", 0.9, {"a": 0.1, "b": 0.9}, text="y", label="b"),
    ]
    b = [
        scored("a", 0.6, {"a": 0.6, "c": 0.4}, text="x", label="z"),
        scored("a", 0.9, {"a": 0.9, "c": 0.1}, text="y", label="b"),
    ]
    labels = compared(tmp_path, a, b).labels
    assert labels is not None
    assert (labels.only_a, labels.only_b) == (("b",), ("c",))
    assert labels.shift is not None
    assert labels.shift.maximum == pytest.approx(0.9)
    assert labels.correctness is not None
    assert (labels.correctness.rows, labels.correctness.unknown_labels) == (1, 1)


def test_kinds_of_flips_are_bounded_and_none_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_comparison, "MAX_FLIP_KINDS", 3)
    a = [scored("a", text=str(number)) for number in range(20)]
    b = [scored(f"b{number % 6}", text=str(number)) for number in range(20)]
    labels = compared(tmp_path, a, b).labels
    assert labels is not None
    assert len(labels.flips) == 3
    assert sum(flip.rows for flip in labels.flips) + labels.other_flips == 20
    monkeypatch.setattr(label_comparison, "MAX_LABELS", 5)
    with pytest.raises(InputError, match="more than 5 different labels"):
        compared(tmp_path, a, b)


def test_memory_does_not_grow_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (comparison_module, scored_files):
        monkeypatch.setattr(module, "CHUNK_ROWS", 100)

    def peak(rows: int) -> int:
        sides = [[scored(LABELS[number % size], text=str(number)) for number in range(rows)] for size in (2, 3)]
        paths = [write(tmp_path / f"{name}.jsonl", side) for name, side in zip("ab", sides, strict=True)]
        del sides
        tracemalloc.start()
        compare(*paths)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(10)  # modules that are loaded on the way
    assert peak(10_000) < 1.1 * peak(1_000)
