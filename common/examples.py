"""Labelled texts read from a table, checked row by row."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import PurePosixPath
from typing import Any

from common.errors import InputError, TextError, shown
from common.hub import HUB_PREFIX, read_hub_table
from common.labels import MULTI_LABEL, REGRESSION, SEPARATOR, SINGLE_LABEL, Task, split_labels
from common.location import Location
from common.tables import TableReader
from common.tokenization import Text, check_text

PAIR_NAMES = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text", "text_pair"),
)
TEXT_NAMES = ("text", "sentence")
LABEL_NAMES = ("label", "labels", "intent", "category")
# What a row without a second text has in its place; CSV and TSV know nothing else.
_MISSING = (None, "")
# Labels that are whole numbers in their one spelling: 01 is a label of its own beside 1.
_WHOLE = re.compile("0|-?[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; None is found by the usual names, or is absent.

    Attributes:
        late_pair: the usual name of the pair column where nobody named one. If `pair` is None, a row may still have it:
            one of JSON Lines whose first row, which names the columns, had none.
    """

    text: str | None = None
    pair: str | None = None
    label: str | None = None
    late_pair: str | None = field(default=None, compare=False)

    def found_in(self, columns: Sequence[str], place: str, *, need_label: bool) -> Columns:
        """These columns with the unnamed ones found among a table's.

        Raises:
            InputError: a named column is absent, no text column is found, or no label column where one is needed.
        """
        for name in (self.text, self.pair, self.label):
            if name is not None and name not in columns:
                raise InputError(f"{place} has no column '{shown(name)}'; it has: {shown(', '.join(columns), 200)}")
        text, pair = self.text, self.pair
        names = shown(", ".join(columns), 200)
        if text is None:
            if pair is not None:
                raise InputError("a pair column needs its text column named too")
            text, pair = next(
                ((first, second) for first, second in PAIR_NAMES if first in columns and second in columns),
                (next((name for name in TEXT_NAMES if name in columns), None), None),
            )
        if text is None:
            raise InputError(f"{place} has no text column: name it with --text-column; it has: {names}")
        free = [name for name in LABEL_NAMES if name in columns and name not in (text, pair)]
        label = self.label or next(iter(free), None)
        if label is not None and label in (text, pair):
            raise InputError(f"the column '{shown(label)}' cannot hold both text and label")
        if label is None and need_label:
            raise InputError(f"{place} has no label column: name it with --label-column; it has: {names}")
        late_pair = dict(PAIR_NAMES).get(text) if self.text is None else None
        return Columns(text, pair, label, late_pair)

    def of_single_texts(self) -> Columns:
        """The same for a model of single texts: a row without a second one is whole, unless its column was named."""
        return replace(self, pair=None) if self.late_pair is not None else self

    def read_from(self, columns: Collection[str]) -> tuple[str, ...]:
        """Which of a table's columns rows are read by."""
        used = (self.text, self.pair or self.late_pair, self.label)
        return tuple(name for name in used if name is not None and name in columns)

    def text_of(self, row: dict[str, Any]) -> Text:
        """The row's text, or its pair of texts, unchecked."""
        assert self.text is not None
        text, pair = row.get(self.text), self.pair
        if pair is None and self.late_pair is not None and row.get(self.late_pair) not in _MISSING:
            pair = self.late_pair
        return text if pair is None else (text, row.get(pair))  # type: ignore[return-value]


BY_USUAL_NAMES = Columns()


@dataclass(frozen=True)
class Examples:
    """Texts, labelled or not.

    Attributes:
        source: the file's path or URI (without credentials and options), or `hub:NAME`.
        sha256: of the file, or of the rows where they come from a hub.
        texts: one text or one pair a row.
        labels: the label column's values as strings; empty where the table has none and none is needed, and where they
            were left unread.
        places: where each row stands, for error messages.
        label_order: the data set's own order of its labels, where it has one.
        label_column: the column that has the labels; None where the table has none.
    """

    source: str
    sha256: str
    texts: list[Text]
    labels: list[str]
    places: list[str]
    label_order: tuple[str, ...] = ()
    label_column: str | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def describe(self) -> dict[str, Any]:
        """What a record or manifest keeps of the data: the file's name (no directories), hash and row count."""
        name = self.source if self.source.startswith(HUB_PREFIX) else PurePosixPath(self.source).name
        pairs = isinstance(self.texts[0], tuple)
        return {"name": name, "sha256": self.sha256, "rows": len(self), "pairs": pairs}


def read_examples(
    source: str, columns: Columns, *, split: str = "train", need_label: bool = True, read_labels: bool = True
) -> Examples:
    """Reads a whole table of texts and their labels.

    A pair column that was found by its usual name, yet has no value in any row, is none: the texts are single ones. An
    empty one is no value, since CSV and TSV have no other way to say so.

    Args:
        source: a file's path or URI, or `hub:NAME[/CONFIG]`.
        columns: which columns hold text, pair and label.
        split: which split of a hub data set; unused for files.
        need_label: whether a table without a label column is an error; else its `labels` come back empty.
        read_labels: whether labels are read; else none is needed, and whatever a label column holds is left alone.

    Raises:
        InputError: the table cannot be read, has no such columns or no rows, mixes pairs with single texts, or a row is
            bad (with its line number).
    """
    table = _open(source, split)
    if not read_labels and columns.label not in table.columns:
        columns = replace(columns, label=None)
    found = columns.found_in(table.columns, table.name, need_label=need_label and read_labels)
    # Not `found.pair`: the first row of JSON Lines, which names the columns, may lack a key that a later row has.
    pair = dict(PAIR_NAMES).get(str(found.text)) if columns.text is None else None
    texts: list[Text] = []
    labels, places = [], []
    for number, row in table.rows:
        here = f"{table.name}, {table.place} {number}"
        if pair is not None:
            is_pair = row.get(pair) not in _MISSING
            if not texts:
                found = replace(found, pair=pair if is_pair else None)
            elif is_pair != (found.pair is not None):
                kinds = "a pair among single texts" if is_pair else f"a single text among pairs (no '{pair}')"
                raise InputError(f"{here}: {kinds}: keep pairs and single texts in separate files")
        text = found.text_of(row)
        try:
            check_text(text)
        except TextError as error:
            raise InputError(f"{here}: {error}") from None
        texts.append(text)
        places.append(here)
        if found.label is not None and read_labels:
            try:
                labels.append(as_label(row.get(found.label)))
            except InputError as error:
                raise InputError(f"{here}: {error}") from None
    if not texts:
        raise InputError(f"{table.name} holds no rows")
    order = table.orders.get(str(found.label), ())
    return Examples(table.name, _digest(table, texts, labels), texts, labels, places, order, found.label)


def has_labels(source: str, columns: Columns, *, split: str = "validation") -> bool:
    """Whether a table has a label column, by its given or its usual name.

    Raises:
        InputError: the table cannot be read, or has no such columns.
    """
    table = _open(source, split)
    return columns.found_in(table.columns, table.name, need_label=False).label is not None


def find_task(
    train: Examples,
    *,
    multi_label: bool,
    regression: bool,
    known: tuple[str, ...] = (),
    positive: str | None = None,
) -> Task:
    """The task that the training labels pose.

    Args:
        known: the model's own labels; their order is kept where they are the same set, else the data set's own.
        positive: of two labels the one that F1 counts as positive, which is the second; by default the order decides.

    Raises:
        InputError: an empty label, fewer than two labels, no number where one is asked for, or a `positive` that is not
            one of two labels.
    """
    if positive is not None and (multi_label or regression):
        raise InputError("--positive is for tasks of two labels, of which each row has one")
    if multi_label and regression:
        raise InputError("--multi-label and --regression exclude each other")
    if regression:
        Task(REGRESSION, ("score",)).targets(train.labels, train.places)
        return Task(REGRESSION, ("score",))
    if multi_label:
        labels = {label for value in train.labels for label in split_labels(value)}
        if not labels:
            raise InputError(f"{train.source}: no row has a label")
        if labels <= {"0", "1"}:
            raise InputError(
                f"{train.source}: the labels are 0 and 1 alone; name the labels of a row, not 0 or 1 for each"
            )
        return Task(MULTI_LABEL, _ordered(labels, known, train.label_order))
    for value, place in zip(train.labels, train.places, strict=True):
        if not value.strip():
            raise InputError(f"{place}: empty label")
    labels = set(train.labels)
    if len(labels) < 2:
        raise InputError(
            f"{train.source}: every row has the label '{shown(next(iter(labels)))}'; a classifier needs two or more"
        )
    if len(labels) > max(20, len(train) // 2):
        raise InputError(f"{train.source}: {len(labels)} different labels in {len(train)} rows; is it a --regression?")
    if positive is None:
        return Task(SINGLE_LABEL, _ordered(labels, known, train.label_order))
    if len(labels) > 2:
        raise InputError(f"--positive is for tasks of two labels; {train.source} has {len(labels)}")
    if positive not in labels:
        both = " and ".join(f"'{shown(label)}'" for label in sorted(labels))
        raise InputError(f"--positive: '{shown(positive)}' is no label of {train.source}; its labels are {both}")
    return Task(SINGLE_LABEL, (*(labels - {positive}), positive))


def _ordered(labels: set[str], *orders: tuple[str, ...]) -> tuple[str, ...]:
    """The labels in the first order that holds just them; else sorted, whole numbers by their size."""
    for order in orders:
        if set(order) == labels:
            return order
    if all(_WHOLE.fullmatch(label) for label in labels):
        return tuple(sorted(labels, key=int))
    return tuple(sorted(labels))


@dataclass(frozen=True)
class _Table:
    """One source of rows, opened.

    Attributes:
        place: what a row's number counts.
        orders: the label order of columns that have one.
        location: None for a hub's.
    """

    name: str
    place: str
    columns: list[str]
    rows: Iterator[tuple[int, dict[str, Any]]]
    orders: dict[str, tuple[str, ...]]
    location: Location | None


def _open(source: str, split: str) -> _Table:
    if source.startswith(HUB_PREFIX):
        hub = read_hub_table(source, split)
        return _Table(source, "row", hub.columns, hub.rows(), hub.classes, None)
    location = Location.parse(source)
    if location.is_stdin:
        raise InputError("standard input can be read only once, and a training table is read twice: name a file")
    reader = TableReader(location)
    return _Table(str(location), reader.place, reader.columns, reader.rows(), {}, location)


def as_label(value: Any) -> str:
    """A label column's value as a string; a list (as Parquet or JSON may hold) as a multi-label value.

    Raises:
        InputError: there is no label, or it cannot be one.
    """
    if isinstance(value, list):
        labels = [as_label(label) for label in value]
        if any(SEPARATOR in label for label in labels):
            raise InputError(f"a label of a list holds '{SEPARATOR}', which separates labels")
        return SEPARATOR.join(labels)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise InputError("no label")
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, (str, int, float)):
        raise InputError(f"a label must be a string or a number, not {type(value).__name__}")
    if "\0" in str(value):
        raise InputError("the label holds a NUL character")
    if isinstance(value, float) and value.is_integer():
        # A column of whole numbers comes as floats where one of its values is missing.
        value = int(value)
    return str(value).strip()


def _digest(table: _Table, texts: Sequence[Text], labels: Sequence[str]) -> str:
    if table.location is not None:
        return table.location.sha256()
    digest = hashlib.sha256()
    for row in zip_longest(texts, labels):
        digest.update(repr(row).encode())
    return digest.hexdigest()
