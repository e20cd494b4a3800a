"""What the commands show while they work: bars on a terminal for work over two seconds, and plain lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

# Results go to standard output so that they can be piped; progress and errors do not mix with them.
console = Console(highlight=False, emoji=False, soft_wrap=True)
stderr = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

SHOW_AFTER_SECONDS = 2.0

Advance = Callable[..., None]

# Who is told instead of the user, where somebody is.
_listener: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)


class _Rate(ProgressColumn):
    """Units a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        unit = task.fields["unit"]
        return Text("" if speed is None or not unit else f"{speed:,.0f} {unit}/s", style="cyan")


def say(message: str) -> None:
    """One line on standard output, taken literally (brackets are no markup)."""
    listener = _listener.get()
    if listener is None:
        console.print(message, markup=False)
    else:
        listener(message)


@contextmanager
def told_to(listener: Callable[[str], None]) -> Iterator[None]:
    """While the block runs, lines and bars go to `listener`, each state of a bar as a line, and not to the user.

    For work that is one part of many, whose own table the user sees.
    """
    before = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(before)


@contextmanager
def progress(description: str, total: float | None, unit: str) -> Iterator[Advance]:
    """Yields `advance(amount, note="", completed=None, total=None)`; the bar appears after two seconds, if at all.

    An empty `unit` shows no rate. `completed` and `total` set the position outright, for work whose size shows only on
    the way.
    """
    listener = _listener.get()
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        _Rate(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[note]}", markup=False),
        console=stderr,
        transient=True,
        disable=not stderr.is_terminal,
    )
    task = bar.add_task(description, total=total, unit=unit, note="")
    started = time.monotonic()
    visible = False

    def advance(amount: float = 0, note: str = "", completed: float | None = None, total: float | None = None) -> None:
        nonlocal visible
        if completed is None:
            bar.update(task, advance=amount, note=note)
        else:
            bar.update(task, completed=completed, total=total, note=note)
        if listener is not None:
            listener(f"{description} {bar.tasks[0].percentage:.0f} % {note}".rstrip())
        elif not visible and time.monotonic() - started > SHOW_AFTER_SECONDS:
            bar.start()
            visible = True

    try:
        yield advance
    finally:
        if visible:
            bar.stop()


@contextmanager
def working(description: str) -> Iterator[None]:
    """A spinner, on a terminal alone, over work whose progress cannot be told."""
    if not stderr.is_terminal or _listener.get() is not None:
        yield
        return
    with stderr.status(Text(description)):
        yield
