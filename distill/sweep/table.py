"""What the user sees of a sweep under way: a live table on a terminal, and else a line for each run."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.live import Live
from rich.table import Table

from common.progress import say, stderr
from distill.sweep.results import Row

_SHOWN_ROWS = 12


class RunTable:
    """The runs so far, the best of them, and the one under way; see `run_table`."""

    def __init__(self, total: int, columns: Sequence[str], metric: str, *, lower_is_better: bool):
        self._total = total
        self._columns = columns
        self._metric = metric
        self._sign = -1 if lower_is_better else 1
        self._recent: deque[Row] = deque(maxlen=_SHOWN_ROWS)
        self._best: Row | None = None
        self._done = self._known = 0
        self._current: Mapping[str, Any] | None = None
        self._note = ""
        self._began = 0.0

    def known(self, row: Row) -> None:
        """A run that an earlier sweep had finished."""
        self._known += 1
        self._count(row)

    def begin(self, settings: Mapping[str, Any]) -> None:
        """A run starts."""
        if self._known == self._done and not stderr.is_terminal:
            before = f", {self._known} done before" if self._known else ""
            say(f"{self._total} runs{before}; a line for each as it ends")
        self._current, self._note, self._began = settings, "", time.monotonic()

    def listen(self, line: str) -> None:
        """What the run under way has to say."""
        self._note = line.strip()

    def end(self, row: Row) -> None:
        """The run under way is finished."""
        self._current = None
        self._count(row)
        if not stderr.is_terminal:
            named = ", ".join(f"{name} {_shown(row.settings[name])}" for name in self._columns)
            say(f"[{self._done}/{self._total}] {named}: {self._outcome(row)}{self._best_so_far()}")

    def __rich__(self) -> Table:
        """The table as it stands; rich asks for it a few times a second."""
        title = f"{self._done} of {self._total} runs{self._best_so_far()}"
        table = Table(title=title, title_justify="left", title_style="bold")
        for name in (*self._columns, self._metric):
            table.add_column(name, justify="right" if name not in ("method", "init") else "left")
        shown = list(self._recent)
        if self._best is not None and self._best not in shown:
            shown.insert(0, self._best)
        for row in shown:
            style = "bold green" if row is self._best else "red" if row.failed else None
            table.add_row(*self._cells(row.settings), self._outcome(row), style=style)
        if self._current is not None:
            running = f"{time.monotonic() - self._began:.0f} s  {self._note}"
            table.add_row(*self._cells(self._current), running, style="cyan")
        return table

    def _count(self, row: Row) -> None:
        self._done += 1
        self._recent.append(row)
        if row.chosen_on is not None and (self._best is None or self._score(row) > self._score(self._best)):
            self._best = row

    def _score(self, row: Row) -> float:
        assert row.chosen_on is not None
        return self._sign * row.chosen_on[self._metric]

    def _cells(self, settings: Mapping[str, Any]) -> list[str]:
        return [_shown(settings[name]) for name in self._columns]

    def _outcome(self, row: Row) -> str:
        if row.chosen_on is None:
            return f"failed: {row.failed}"
        return f"{self._metric} {row.chosen_on[self._metric]:.4f} in {row.wall_time_s:.0f} s"

    def _best_so_far(self) -> str:
        if self._best is None or self._best.chosen_on is None:
            return ""
        return f"; best {self._metric} {self._best.chosen_on[self._metric]:.4f}"


@contextmanager
def run_table(table: RunTable) -> Iterator[RunTable]:
    """Shows the table on a terminal while the block runs."""
    if not stderr.is_terminal:
        yield table
        return
    with Live(get_renderable=table.__rich__, console=stderr, refresh_per_second=4, transient=True):
        yield table


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)
