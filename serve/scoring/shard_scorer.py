"""A shard's answers as its part of the output and what there is to count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from common.errors import InputError
from common.examples import Columns, as_label
from common.labels import MULTI_LABEL, REGRESSION, Task
from common.metrics import Tally
from common.table_writer import AddedColumn, TableWriter
from common.tables import Chunk
from serve.codec import Prediction
from serve.engine import Engine
from serve.scoring.journal import ShardRecord
from serve.scoring.shards import Shard
from serve.windows import Answer, OnBatch, classify_windows


def added_columns(task: Task, *, all_scores: bool, prefix: str) -> tuple[AddedColumn, ...]:
    """The columns that scoring adds."""
    added = [
        AddedColumn("prediction", pa.float32() if task.problem_type == REGRESSION else pa.string()),
        AddedColumn("score", pa.float32()),
        AddedColumn("truncated", pa.bool_()),
        *([AddedColumn("scores", pa.string())] if all_scores else []),
        AddedColumn("error", pa.string()),
    ]
    return tuple(AddedColumn(prefix + column.name, column.kind) for column in added)


@dataclass(frozen=True)
class ShardScorer:
    """What makes a shard's part of the output, the same wherever it is done.

    Attributes:
        task: the model's.
        columns: the input's, found.
        writer: of the output, whose added columns are `added_columns`.
        prefix: of their names.
        truncate: as in `Engine.prepare`.
    """

    task: Task
    columns: Columns
    writer: TableWriter
    prefix: str
    truncate: bool

    def score(
        self, engine: Engine, shards: Iterable[Shard], on_batch: OnBatch | None = None
    ) -> Iterator[tuple[ShardRecord, bytes]]:
        """Each shard's record and part, in order; `on_batch` is as in `classify_windows`."""
        windows = ((shard, [self.columns.text_of(row) for row in shard.chunk.rows]) for shard in shards)
        for shard, answers in classify_windows(engine, windows, truncate=self.truncate, on_batch=on_batch):
            try:
                part = self.writer.part(shard.chunk, self._values(answers))
            except InputError as error:
                raise InputError(f"{shard.source}: {error}") from None
            yield self._record(shard, answers), part

    def _values(self, answers: Sequence[Answer]) -> dict[str, list[Any]]:
        good = [answer if isinstance(answer, Prediction) else None for answer in answers]
        scores = [answer and answer.score for answer in good]
        is_number = self.task.problem_type == REGRESSION
        values: dict[str, list[Any]] = {
            "prediction": scores if is_number else [answer and answer.answer for answer in good],
            "score": scores,
            "truncated": [answer and answer.truncated for answer in good],
            "error": [None if isinstance(answer, Prediction) else str(answer) for answer in answers],
        }
        if any(column.name == self.prefix + "scores" for column in self.writer.added):
            values["scores"] = [answer and orjson.dumps(dict(answer.ranked())).decode() for answer in good]
        return {self.prefix + name: column for name, column in values.items()}

    def _record(self, shard: Shard, answers: Sequence[Answer]) -> ShardRecord:
        record = ShardRecord(shard.id, shard.share, rows=len(answers))
        for number, answer in zip(shard.chunk.numbers, answers, strict=True):
            if isinstance(answer, Prediction):
                record.truncated += answer.truncated
                record.tokens += answer.tokens
                if self.task.problem_type != REGRESSION:
                    record.labels.update(answer.chosen)
                continue
            record.errors += 1
            record.first_error = record.first_error or f"{shard.source}, {shard.place} {number}: {answer}"
        if self.columns.label is not None:
            tally = Tally(self.task)
            record.unknown_labels = _count_labelled(tally, self.task, shard.chunk, self.columns.label, answers)
            record.answers = tally.state()
        return record


def _count_labelled(tally: Tally, task: Task, chunk: Chunk, column: str, answers: Sequence[Answer]) -> int:
    """Counts the chunk's labelled answers; returns how many labels the model has not."""
    unknown = 0
    labels: list[str] = []
    scores: list[NDArray[np.float32]] = []
    for row, answer in zip(chunk.rows, answers, strict=True):
        value = row.get(column)
        # No label is an answer only where a row may have several.
        if not isinstance(answer, Prediction) or value is None or (value == "" and task.problem_type != MULTI_LABEL):
            continue
        try:
            labels.append(as_label(value))
            scores.append(answer.scores)
        except InputError:
            unknown += 1
    fits = {label: _is_known(label, task) for label in set(labels)}
    known = [place for place, label in enumerate(labels) if fits[label]]
    if known:
        targets = task.targets([labels[place] for place in known], [""] * len(known))
        tally.add(np.stack([scores[place] for place in known]), targets)
    return unknown + len(labels) - len(known)


def _is_known(label: str, task: Task) -> bool:
    try:
        task.targets([label], [""])
    except InputError:
        return False
    return True
