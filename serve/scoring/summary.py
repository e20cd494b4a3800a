"""What a scoring run did, counted over its shards."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from common.labels import REGRESSION, Task
from common.metrics import METRICS, Tally
from common.progress import say
from serve.scoring.journal import Done, DoneShard, ShardRecord
from serve.scoring.shards import ShardId

# Labels that the closing lines count one by one.
_LABELS_SHOWN = 12


@dataclass
class ScoreSummary:
    """What a run did.

    Attributes:
        rows: read and written.
        errors: of them kept with a reason in place of an answer.
        first_error: the first one's place and reason.
        truncated: rows answered from their first tokens.
        tokens: run through the model, padding left out.
        labels: how many rows got each label.
        resumed_rows: rows that an earlier process of the same run had done.
        seconds: wall time of this process, reading and writing included.
        metrics: over the labelled rows; empty without a label column.
        labelled_rows: that the metrics are of.
        unknown_labels: rows whose label the model has not, or that is no number; the metrics leave them out.
    """

    rows: int = 0
    errors: int = 0
    first_error: str | None = None
    truncated: int = 0
    tokens: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    resumed_rows: int = 0
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    labelled_rows: int = 0
    unknown_labels: int = 0

    @property
    def rows_per_second(self) -> float:
        """Of this process."""
        return (self.rows - self.resumed_rows) / max(self.seconds, 1e-9)

    def say(self, metric: str) -> None:
        """The closing lines; `metric` comes first."""
        say(
            f"{self.rows:,} rows, {self.errors:,} with an error, {self.truncated:,} truncated, "
            f"{self.tokens:,} tokens in {self.seconds:.1f} s ({self.rows_per_second:,.0f} rows/s)"
        )
        if self.first_error is not None:
            say(f"The first error: {self.first_error}")
        if self.labels:
            shown = self.labels.most_common(_LABELS_SHOWN)
            told = [f"{label} {count:,}" for label, count in shown]
            if len(self.labels) > len(shown):
                rest = self.labels.total() - sum(count for _, count in shown)
                told.append(f"{len(self.labels) - len(shown)} others {rest:,}")
            say("Labels: " + ", ".join(told))
        if self.metrics:
            others = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items() if name != metric)
            others = f" ({others})" if others else ""
            say(f"{metric} {self.metrics[metric]:.4f}{others} on {self.labelled_rows:,} labelled rows")
        if self.unknown_labels:
            odd = "that is no number" if metric in METRICS[REGRESSION] else "that the model has not"
            say(f"{self.unknown_labels:,} rows have a label {odd}; the metrics leave them out")

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {**vars(self), "labels": dict(self.labels.most_common()), "rows_per_second": self.rows_per_second}


class ScoreTally:
    """Counts shards as they are done; what it holds does not grow with them (but for regression: 8 bytes a row).

    Attributes:
        done: the shards.
        errors: rows with an error.
    """

    def __init__(self, task: Task):
        self.done: Done = {}
        self.errors = 0
        self._summary = ScoreSummary()
        self._first_error: tuple[ShardId, str] | None = None
        self._answers = Tally(task)

    def add(self, record: ShardRecord) -> None:
        """Counts a shard."""
        self.done[record.shard] = DoneShard(record.rows, record.sha256)
        self.errors += record.errors
        if record.first_error is not None:
            first = (record.shard, record.first_error)
            self._first_error = min(self._first_error or first, first)
        summary = self._summary
        summary.rows += record.rows
        summary.truncated += record.truncated
        summary.tokens += record.tokens
        summary.labels.update(record.labels)
        summary.unknown_labels += record.unknown_labels
        if record.answers is not None:
            self._answers.merge(record.answers)

    @property
    def rows(self) -> int:
        return self._summary.rows

    @property
    def first_error(self) -> str | None:
        return None if self._first_error is None else self._first_error[1]

    def summary(self, *, resumed_rows: int, seconds: float) -> ScoreSummary:
        """Of all shards that were counted."""
        return replace(
            self._summary,
            errors=self.errors,
            first_error=self.first_error,
            resumed_rows=resumed_rows,
            seconds=seconds,
            metrics=self._answers.metrics() if self._answers.rows else {},
            labelled_rows=self._answers.rows,
        )
