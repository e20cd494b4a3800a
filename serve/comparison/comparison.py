"""`compare`: how far two models' answers to the same rows agree, before one takes the other's place."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError, shown
from common.examples import BY_USUAL_NAMES, Columns
from common.progress import progress
from common.tokenization import Text
from export.bundle import MANIFEST_FILE
from serve.comparison.label_comparison import LabelComparison, LabelCounts, as_value
from serve.comparison.number_comparison import NumberComparison, NumberCounts
from serve.comparison.scored_files import rows_of_files
from serve.comparison.scored_rows import CHUNK_ROWS, Answer, ScoredRow, ScoredRows, rows_of_bundles

# As much of a text as is kept of a row that differs.
TEXT_CHARACTERS = 200


@dataclass(frozen=True)
class DifferingRow:
    """A row on which the two differ.

    Attributes:
        row: its number among the input's rows, from 1.
        text: its first `TEXT_CHARACTERS`; None where the files have no text.
        label: the right answer, where there is one.
        a, b: the answers.
        score_a, score_b: their scores.
        shift: the difference of the scores; None where it is not measured.
    """

    row: int
    text: str | None
    label: str | None
    a: str
    b: str
    score_a: float
    score_b: float
    shift: float | None


@dataclass(frozen=True)
class Comparison:
    """Two models' answers to the same rows.

    Attributes:
        a, b: the files or bundles.
        rows: read.
        compared: answered by both; what follows is of these.
        errors_a, errors_b, errors_both: rows with an error in A alone, in B alone, and in both.
        truncated_a, truncated_b: compared rows of which the model read the beginning alone.
        with_text: whether the rows' texts were there, and so were compared where there are two files.
        labels, numbers: one of the two, by what the models answer.
        differing: the rows that differ most. Other labels come first, those ahead of which both models are surest (by
            the lower of the two confidences); then other scores, the larger differences first.
    """

    a: str
    b: str
    rows: int
    compared: int
    errors_a: int
    errors_b: int
    errors_both: int
    truncated_a: int
    truncated_b: int
    with_text: bool
    labels: LabelComparison | None
    numbers: NumberComparison | None
    differing: tuple[DifferingRow, ...]

    @property
    def agreement(self) -> float | None:
        """Share of the compared rows with the same labels; None where the answers are numbers."""
        return None if self.labels is None else self.labels.agreement.mean


def compare(
    a: Path | str,
    b: Path | str,
    *,
    data: Path | str | None = None,
    columns: Columns = BY_USUAL_NAMES,
    prefix_a: str = "",
    prefix_b: str = "",
    rows: int = 10,
    engine: str = "onnx",
    device: str = "auto",
    threads: int = 0,
    seed: int = 0,
) -> Comparison:
    """Compares two files that `score` wrote, or two bundles on a table.

    Memory does not grow with the rows: a chunk of them, `rows` that differ most, counters of at most 10,000 labels and
    10,000 kinds of flips, a histogram of 10,001 shifts, and of regression a sample of 100,000 rows.

    Args:
        a, b: both files, or both bundles.
        data: the table that two bundles answer.
        columns: which columns hold text, pair and label.
        prefix_a, prefix_b: `--prefix` of `score`, for each file.
        rows: how many of those that differ most are kept.
        engine, device, threads: of bundles, as in `Engine.load`.
        seed: of the sample that regression takes.

    Raises:
        InputError: the two cannot be compared, or no row is answered by both.
    """
    if rows < 0:
        raise InputError(f"rows must be 0 or more, not {rows}")
    if _is_bundle(a) != _is_bundle(b):
        kinds = ("a bundle", "none") if _is_bundle(a) else ("no bundle", "one")
        raise InputError(
            f"{a} is {kinds[0]} and {b} is {kinds[1]}: give two files of scores, or two bundles and --data"
        )
    if _is_bundle(a):
        if data is None:
            raise InputError("two bundles are compared on a table: name it with --data")
        if prefix_a or prefix_b:
            raise InputError("a prefix is of a file's columns; these are bundles")
        scored = rows_of_bundles(Path(a), Path(b), data, columns, engine=engine, device=device, threads=threads)
    else:
        if data is not None:
            raise InputError(f"--data is for two bundles, and {a} is none: files of scores have their rows already")
        scored = rows_of_files(a, b, columns, prefix_a, prefix_b)
    return _compare(str(a), str(b), scored, rows, seed)


def _is_bundle(path: Path | str) -> bool:
    return (Path(path) / MANIFEST_FILE).is_file()


def _compare(a: str, b: str, scored: ScoredRows, kept: int, seed: int) -> Comparison:
    counts = NumberCounts(seed) if scored.numbers else LabelCounts(all_scores=scored.all_scores, several=scored.several)
    most_different = _MostDifferent(kept, numbers=scored.numbers)
    rows = compared = truncated_a = truncated_b = 0
    errors = {(True, False): 0, (False, True): 0, (True, True): 0}
    with progress("comparing", scored.reader.total, "rows") as advance:
        for row in scored.rows:
            rows += 1
            if rows % CHUNK_ROWS == 0:
                advance(completed=scored.reader.position, total=scored.reader.total, note=f"{rows:,} rows")
            if row.a is None or row.b is None:
                errors[row.a is None, row.b is None] += 1
                continue
            compared += 1
            truncated_a += row.a.truncated
            truncated_b += row.b.truncated
            shift = counts.add(row.label, row.a, row.b)
            most_different.see(row, row.a, row.b, shift)
    if not compared:
        raise InputError(f"no row is answered by both: {rows} rows, each with an error in {a} or {b}")
    return Comparison(
        a=a,
        b=b,
        rows=rows,
        compared=compared,
        errors_a=errors[True, False],
        errors_b=errors[False, True],
        errors_both=errors[True, True],
        truncated_a=truncated_a,
        truncated_b=truncated_b,
        with_text=scored.with_text,
        labels=counts.result() if isinstance(counts, LabelCounts) else None,
        numbers=counts.result() if isinstance(counts, NumberCounts) else None,
        differing=most_different.rows(),
    )


class _MostDifferent:
    """Keeps the rows that differ most, in the order that `Comparison.differing` tells."""

    def __init__(self, kept: int, *, numbers: bool):
        self._kept = kept
        self._value = _as_number if numbers else _as_labels
        # The least different row comes first, and of equals the last; no two rows have the same number.
        self._heap: list[tuple[tuple[bool, float, int], DifferingRow]] = []

    def see(self, row: ScoredRow, a: Answer, b: Answer, shift: float | None) -> None:
        """Looks at one row and its shift."""
        flipped = a.labels != b.labels
        rank = (flipped, min(a.confidence, b.confidence) if flipped else shift or 0.0, -row.number)
        full = len(self._heap) == self._kept
        if not (flipped or shift) or (full and (not self._heap or rank < self._heap[0][0])):
            return
        text = None if row.text is None else shown(" / ".join(map(str, _parts(row.text))), TEXT_CHARACTERS)
        entry = DifferingRow(row.number, text, row.label, self._value(a), self._value(b), a.score, b.score, shift)
        (heapq.heapreplace if full else heapq.heappush)(self._heap, (rank, entry))

    def rows(self) -> tuple[DifferingRow, ...]:
        return tuple(entry for _, entry in sorted(self._heap, key=lambda item: item[0], reverse=True))


def _parts(text: Text) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else text


def _as_labels(answer: Answer) -> str:
    return as_value(answer.labels)


def _as_number(answer: Answer) -> str:
    return f"{answer.score:.6g}"
