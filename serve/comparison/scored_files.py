"""Two models' answers to the same rows from two files that `score` wrote."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import orjson

from common.errors import InputError, shown
from common.examples import LABEL_NAMES, Columns, as_label
from common.table_sequence import TableSequence
from common.tables import Row
from common.tokenization import Text
from serve.comparison.scored_rows import CHUNK_ROWS, Answer, ScoredRow, ScoredRows, chosen_labels, label_of

# What `score` adds to each row, `scores` aside, which it adds when asked.
ADDED = ("prediction", "score", "truncated", "error")


def rows_of_files(a: Path | str, b: Path | str, columns: Columns, prefix_a: str = "", prefix_b: str = "") -> ScoredRows:
    """The rows of two outputs that `score` wrote, each a file or a directory of them, paired by position.

    Args:
        prefix_a, prefix_b: of the added columns' names in each.

    Raises:
        InputError: a file was not written by `score`, has an error in every row, or the two do not belong together.
    """
    first, second = _ScoredFile(a, columns, prefix_a), _ScoredFile(b, columns, prefix_b)
    for this, other in ((first, second), (second, first)):
        if this.found.text is not None and other.found.text is None:
            raise InputError(
                f"{this.path} has a text column, '{shown(this.found.text)}', and {other.path} has none: "
                "name one that both have with --text-column"
            )
    numbers = first.answers_are_numbers()
    if numbers != second.answers_are_numbers():
        kinds = ("numbers", "labels") if numbers else ("labels", "numbers")
        raise InputError(f"{a} holds {kinds[0]} and {b} {kinds[1]}: they answer different questions")
    all_scores = not numbers and first.has_scores and second.has_scores
    return ScoredRows(
        numbers=numbers,
        several=None,
        all_scores=all_scores,
        with_text=first.found.text is not None,
        with_label=first.found.label is not None or second.found.label is not None,
        reader=first.reader,
        rows=_paired(first, second, numbers, all_scores),
    )


class _ScoredFile:
    """One file of scores."""

    def __init__(self, path: Path | str, columns: Columns, prefix: str):
        self.path = path
        self.reader = TableSequence(path)
        self.prefix = prefix
        names = self.reader.columns
        for name in ADDED:
            if prefix + name not in names:
                other = next((column for column in names if column.endswith(name)), None)
                hint = (
                    "" if other is None else f" It has '{shown(other)}': name the prefix with --prefix-a, --prefix-b."
                )
                raise InputError(
                    f"{path} has no column '{shown(prefix + name)}': was it written by `understudy score`?{hint}"
                )
        self.has_scores = prefix + "scores" in names
        self.found = _columns_found(columns, names, path)

    def answers_are_numbers(self) -> bool:
        """Whether the predictions are the scores themselves, as far as the first answers tell.

        Raises:
            InputError: the file has no rows, or an error in each.
        """
        seen = False
        for rows in self._chunks():
            seen = True
            answered = [row for row in rows if not self._value(row, "error")]
            if answered:
                pairs = [(self._value(row, "prediction"), self._value(row, "score")) for row in answered]
                # Where all is text, a number stands there twice in the same form; no label ('1') is a score ('1.0').
                return all(isinstance(value, float) or (value == score and value is not None) for value, score in pairs)
        if not seen:
            raise InputError(f"{self.path} holds no rows")
        raise InputError(f"{self.path}: every row has an error, so there is nothing to compare")

    def rows(self, numbers: bool, all_scores: bool) -> Iterator[tuple[Text | None, str | None, Answer | None]]:
        """Each row's text, right answer and answer."""
        number = 0
        for rows in self._chunks():
            for row in rows:
                number += 1
                text = None if self.found.text is None else self.found.text_of(row)
                label = None if self.found.label is None else label_of(row, self.found.label)
                try:
                    yield text, label, self._answer(row, numbers, all_scores)
                except InputError as error:
                    raise InputError(f"{self.path}, row {number}: {error}") from None

    def _chunks(self) -> Iterator[list[Row]]:
        used = (self.found.text, self.found.pair, self.found.label, *(self.prefix + name for name in ADDED))
        scores = [self.prefix + "scores"] if self.has_scores else []
        needed = list(dict.fromkeys([name for name in used if name is not None] + scores))
        return (chunk.rows for chunk in self.reader.chunks(CHUNK_ROWS, needed))

    def _value(self, row: Row, name: str) -> Any:
        return row.get(self.prefix + name)

    def _answer(self, row: Row, numbers: bool, all_scores: bool) -> Answer | None:
        if self._value(row, "error"):
            return None
        score = _number(self._value(row, "score"), "the score")
        truncated = self._value(row, "truncated") in (True, "true")
        prediction = self._value(row, "prediction")
        if prediction is None:
            raise InputError("neither a prediction nor an error")
        if numbers:
            return Answer(frozenset(), _number(prediction, "the prediction"), None, truncated)
        _check_probability(score)
        scores = _scores(self._value(row, "scores")) if all_scores else None
        labels = chosen_labels(as_label(prediction), scores)
        if scores is not None and not labels <= scores.keys():
            raise InputError(f"the prediction '{shown(prediction)}' is not among the labels of 'scores'")
        return Answer(labels, score, scores, truncated)


def _paired(first: _ScoredFile, second: _ScoredFile, numbers: bool, all_scores: bool) -> Iterator[ScoredRow]:
    both = zip_longest(first.rows(numbers, all_scores), second.rows(numbers, all_scores))
    for number, (left, right) in enumerate(both, start=1):
        if left is None or right is None:
            short, long = (first, second) if left is None else (second, first)
            raise InputError(
                f"{short.path} ends after row {number - 1} and {long.path} goes on: "
                "these are scores of different inputs"
            )
        (text, label, a), (other_text, other_label, b) = left, right
        if text is not other_text and _text_form(text) != _text_form(other_text):
            raise InputError(f"row {number}: the texts differ: these are scores of different inputs")
        if first.found.label is not None and second.found.label is not None and not _same_label(label, other_label):
            raise InputError(f"row {number}: the labels differ: these are scores of different inputs")
        # A form of text has no other sign for a row without a label than for one that none of the labels fits.
        labels = [value for file, value in ((first, label), (second, other_label)) if file.found.label is not None]
        yield ScoredRow(number, text, None if None in labels or not labels else labels[0], a, b)


def _same_label(a: str | None, b: str | None) -> bool:
    """Whether two files say the same, one perhaps in a form that has types and one in text."""
    return a == b or _label_form(a) == _label_form(b)


def _label_form(label: str | None) -> Any:
    if not label:
        return None
    try:
        value = orjson.loads(label)
    except orjson.JSONDecodeError:
        value = label
    # 1.0 and 1; ["a", "b"] and a|b.
    return as_label(value) or None if isinstance(value, (int, float, list)) else label


def _columns_found(columns: Columns, names: list[str], path: Path | str) -> Columns:
    """Text, pair and label among a file's columns; no text column is allowed where none is named."""
    try:
        return columns.found_in(names, str(path), need_label=False)
    except InputError:
        if columns.text is not None or columns.pair is not None or columns.label not in (None, *names):
            raise
        return replace(columns, label=columns.label or next((name for name in LABEL_NAMES if name in names), None))


def _text_form(value: Any) -> Any:
    """A text as any of the formats has it: what is no string as its JSON, nothing as an empty text."""
    if isinstance(value, tuple):
        return tuple(map(_text_form, value))
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, default=str, ensure_ascii=False, separators=(",", ":"))


def _number(value: Any, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{what} '{shown(value)}' is no finite number")
    return number


def _check_probability(value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"the score {value} is no probability")


def _scores(value: Any) -> Mapping[str, float]:
    try:
        scores = orjson.loads(value) if isinstance(value, str) else value
    except orjson.JSONDecodeError:
        scores = None
    if not isinstance(scores, dict) or not scores:
        raise InputError(f"'scores' is no JSON object from label to probability: {shown(value)}")
    numbers = {label: _number(score, "the score") for label, score in scores.items()}
    for score in numbers.values():
        _check_probability(score)
    return numbers
