"""Two models' answers to the same rows, side by side, and how two bundles give them to a table's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError, TextError, shown
from common.examples import Columns, as_label
from common.labels import MULTI_LABEL, REGRESSION, named_labels, split_labels
from common.table_sequence import TableSequence
from common.tables import Row
from common.tokenization import Text
from serve.engine import Engine, Prediction

# Rows read, and answered by the models, at a time.
CHUNK_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Answer:
    """One model's answer to one row.

    Attributes:
        labels: those that it gives; none where the answer is a number.
        score: the highest probability, or the number.
        scores: each label's probability, where they are known.
        truncated: whether the text was longer than the model reads.
    """

    labels: frozenset[str]
    score: float
    scores: Mapping[str, float] | None
    truncated: bool

    @property
    def confidence(self) -> float:
        """The probability of the least certain decision, which for one label is the label's own.

        Of several labels whose probabilities are not known it is the highest one's.
        """
        if self.scores is None:
            return self.score
        return min(score if label in self.labels else 1 - score for label, score in self.scores.items())


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """A row with the answers of A and B; an answer is None where the row has an error."""

    number: int
    text: Text | None
    label: str | None
    a: Answer | None
    b: Answer | None


@dataclass(frozen=True)
class ScoredRows:
    """One pass over the rows.

    Attributes:
        numbers: whether the answers are numbers (regression) rather than labels.
        several: whether a row may have several labels; None where the files do not say.
        all_scores: whether each answer has the probabilities of all labels.
        with_text: whether the rows have texts; those of two files are then compared.
        with_label: whether there is a column of right answers.
        reader: what is read, for its position.
        rows: raises InputError where the two files do not belong together, or hold what `score` does not write.
    """

    numbers: bool
    several: bool | None
    all_scores: bool
    with_text: bool
    with_label: bool
    reader: TableSequence
    rows: Iterator[ScoredRow]


def rows_of_bundles(
    a: Path,
    b: Path,
    data: Path | str,
    columns: Columns,
    *,
    engine: str = "onnx",
    device: str = "auto",
    threads: int = 0,
) -> ScoredRows:
    """A table's rows, each answered by two bundles.

    Raises:
        InputError: a bundle or the table will not do, or the two models have no label in common.
    """
    reader = TableSequence(data)
    found = columns.found_in(reader.columns, str(data), need_label=False)
    engines = [Engine.load(path, engine=engine, device=device, threads=threads) for path in (a, b)]
    if all(loaded.bundle.manifest.of_single_texts for loaded in engines):
        found = found.of_single_texts()
    first, second = (loaded.task for loaded in engines)
    if first.problem_type != second.problem_type:
        kinds = [task.problem_type.replace("_", " ") for task in (first, second)]
        raise InputError(f"{a} is for {kinds[0]} and {b} for {kinds[1]}: they answer different questions")
    numbers = first.problem_type == REGRESSION
    if not numbers:
        check_common_labels(first.labels, second.labels)
    return ScoredRows(
        numbers=numbers,
        several=first.problem_type == MULTI_LABEL,
        all_scores=not numbers,
        with_text=True,
        with_label=found.label is not None,
        reader=reader,
        rows=_answered(engines, reader, found),
    )


def check_common_labels(a: Iterable[str], b: Iterable[str]) -> None:
    """
    Raises:
        InputError: two models' labels have none in common.
    """
    if set(a).isdisjoint(b):
        theirs = (shown(", ".join(sorted(labels)), 100) for labels in (a, b))
        raise InputError("the two models have no label in common: A has {}; B has {}".format(*theirs))


def chosen_labels(value: str, known: Mapping[str, float] | None) -> frozenset[str]:
    """The labels of one value of a table; a value that is a known label as it stands is not split."""
    if known is None:
        return frozenset(split_labels(value))
    return frozenset([value] if value in known else named_labels(value, known))


def label_of(row: Row, column: str) -> str | None:
    """The row's right answer as a string; None where it has none."""
    try:
        return as_label(row.get(column))
    except InputError:
        return None


def _answered(engines: list[Engine], reader: TableSequence, found: Columns) -> Iterator[ScoredRow]:
    needed = found.read_from(reader.columns)
    number = 0
    for chunk in reader.chunks(CHUNK_ROWS, needed):
        texts = [found.text_of(row) for row in chunk.rows]
        answers = [loaded.classify(texts) for loaded in engines]
        for row, text, a, b in zip(chunk.rows, texts, *answers, strict=True):
            number += 1
            label = None if found.label is None else label_of(row, found.label)
            yield ScoredRow(number, text, label, _as_answer(a), _as_answer(b))


def _as_answer(prediction: Prediction | TextError) -> Answer | None:
    if isinstance(prediction, TextError):
        return None
    if prediction.task.problem_type == REGRESSION:
        return Answer(frozenset(), prediction.score, None, prediction.truncated)
    scores = dict(zip(prediction.task.labels, prediction.scores.tolist(), strict=True))
    return Answer(frozenset(prediction.chosen), prediction.score, scores, prediction.truncated)
