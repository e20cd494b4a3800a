"""How far a scoring run is: one line that moves on a terminal, or lines of JSON for a scheduler."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import orjson

from common.progress import progress
from serve.scoring.journal import ShardRecord
from serve.scoring.shards import Shard

_SECONDS_BETWEEN_LINES = 1.0


class ScoreProgress:
    """Told of all that happens, it shows rows, tokens and errors so far, their rates, the share done, the time left.

    Args:
        kind: one of `serve.scoring.settings.PROGRESS`.
    """

    def __init__(self, kind: str):
        self._kind = kind
        self._rows = self._errors = self._tokens = 0
        self._share: float | None = 0.0
        self._rows_before = 0
        self._share_before: float | None = 0.0
        # Shards that were read and are not done.
        self._reading: deque[Shard] = deque()
        self._rows_in_shard = 0
        self._started = self._shown = time.monotonic()
        self._open = ExitStack()

    def __enter__(self) -> ScoreProgress:
        if self._kind == "bar":
            self._advance = self._open.enter_context(progress("scoring", 1.0, ""))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def resumed(self, record: ShardRecord) -> None:
        """An earlier process has done a shard."""
        self._count(record, record.rows)
        self._rows_before, self._share_before = self._rows, self._share
        self._started = time.monotonic()

    def reading(self, shards: Iterable[Shard]) -> Iterator[Shard]:
        """The same shards, seen as they are read."""
        for shard in shards:
            self._reading.append(shard)
            yield shard

    def ran(self, texts: int, tokens: int) -> None:
        """A batch was run of the shard that was read first."""
        self._rows += texts
        self._rows_in_shard += texts
        self._tokens += tokens
        self._show()

    def finished(self, record: ShardRecord) -> None:
        """The shard that was read first is done, all its batches told of."""
        self._reading.popleft()
        # A row with an error is in no batch.
        self._count(record, record.rows - self._rows_in_shard)
        self._rows_in_shard = 0
        self._show()

    def finished_elsewhere(self, record: ShardRecord) -> None:
        """A shard is done of which nothing was told before."""
        self._tokens += record.tokens
        self._count(record, record.rows)
        self._show()

    def _count(self, record: ShardRecord, rows: int) -> None:
        self._rows += rows
        self._errors += record.errors
        self._share = None if self._share is None or record.share is None else self._share + record.share

    def closed(self, summary: dict[str, Any]) -> None:
        """The last line of JSON: the whole summary."""
        if self._kind == "json":
            self._put({"done": True, **summary})

    @property
    def share(self) -> float | None:
        """Of the inputs that is done; None where it is not known."""
        if self._share is None or not self._reading:
            return self._share
        first = self._reading[0]
        if first.share is None:
            return None
        return self._share + first.share * min(self._rows_in_shard / max(len(first.chunk.rows), 1), 1.0)

    def _show(self) -> None:
        now = time.monotonic()
        if self._kind == "none" or now - self._shown < (_SECONDS_BETWEEN_LINES if self._kind == "json" else 0.1):
            return
        self._shown = now
        seconds = max(now - self._started, 1e-9)
        rows, tokens = (self._rows - self._rows_before) / seconds, self._tokens / seconds
        share = self.share
        if self._kind == "bar":
            note = f"{self._rows:,} rows, {rows:,.0f} rows/s, {tokens:,.0f} tokens/s, {self._errors:,} errors"
            self._advance(completed=share or 0.0, total=None if share is None else 1.0, note=note)
            return
        here = None if share is None else share - (self._share_before or 0.0)
        self._put(
            {
                "done": False,
                "rows": self._rows,
                "errors": self._errors,
                "tokens": self._tokens,
                "percent": None if share is None else round(100 * share, 2),
                "rows_per_second": round(rows, 1),
                "tokens_per_second": round(tokens, 1),
                "seconds": round(seconds, 1),
                "seconds_left": round(seconds * (1 - share) / here, 1) if share is not None and here else None,
            }
        )

    def _put(self, line: dict[str, Any]) -> None:
        sys.stderr.write(orjson.dumps(line).decode() + "\n")
        sys.stderr.flush()
