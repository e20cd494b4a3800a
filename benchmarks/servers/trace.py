"""What became of every request of an open-loop load, and the figures made of it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import significant

OK, REFUSED = 200, 429
# A generator that is later than this, in seconds, with more than one request of ten does not hold its rate. With one of
# a hundred, something else had the core for a moment.
HELD_LAG = 0.020


class Fate(IntEnum):
    """What became of a request that has no right answer; with one, its HTTP status stands in the place of these."""

    MISSING = 0  # no answer when the patience ended
    LATE = 1  # not sent: the generator was too far behind its schedule
    CROWDED = 2  # not sent: all connections that may be open waited for answers
    BROKEN = 3  # the connection was not made, or ended before the answer did
    WRONG = 4  # an answer, but another text's, or not HTTP


@dataclass(frozen=True)
class Trace:
    """All requests of a load in the order of their schedule; times in seconds since its start.

    Attributes:
        seconds: over which they were scheduled.
        scheduled: when each should have been sent.
        sent: when it was; NaN where it was not.
        answered: when its first answer was complete; NaN where none was.
        fate: HTTP status of an answer with nothing wrong, else a `Fate`.
        doubled: answers beyond the first.
        retry_after: whether the answer had that header.
        opening: whether a connection was opened for it; a busy server takes a while to accept one.
        connections: the most that were open at a time in the whole load.
        cpu_seconds: processor time of the generator for the whole load.
    """

    seconds: float
    scheduled: NDArray[np.float64]
    sent: NDArray[np.float64]
    answered: NDArray[np.float64]
    fate: NDArray[np.int16]
    doubled: NDArray[np.int16]
    retry_after: NDArray[np.bool_]
    opening: NDArray[np.bool_]
    connections: int
    cpu_seconds: float

    def part(self, start: float, end: float) -> Trace:
        """The requests scheduled from `start` until before `end`, by the same clock."""
        rows = (self.scheduled >= start) & (self.scheduled < end)
        arrays = {
            entry.name: getattr(self, entry.name)[rows]
            for entry in fields(self)
            if isinstance(getattr(self, entry.name), np.ndarray)
        }
        return replace(self, seconds=end - start, **arrays)

    @property
    def offered_per_s(self) -> float:
        """Requests scheduled in a second."""
        return len(self.fate) / self.seconds

    @property
    def sent_per_s(self) -> float:
        """Requests sent in a second."""
        return float((~np.isnan(self.sent)).sum() / self.seconds)

    @property
    def ok_per_s(self) -> float:
        """Requests with the right answer in a second."""
        return self.count(OK) / self.seconds

    @property
    def held(self) -> bool:
        """Whether the generator kept to its schedule, but for requests that found no connection."""
        return not self.count(Fate.LATE) and self.lag(90) <= HELD_LAG

    def lag(self, percentile: float) -> float:
        """Seconds that the generator sent requests behind their schedule; 0 where it sent none."""
        lag = _known(self.sent - self.scheduled)
        return float(np.percentile(lag, percentile)) if len(lag) else 0.0

    @property
    def faults(self) -> int:
        """Requests that went out and got neither the right answer nor a refusal, and answers beyond the first."""
        fair = np.isin(self.fate, (OK, REFUSED, Fate.LATE, Fate.CROWDED))
        return int((~fair).sum() + self.doubled.sum())

    @property
    def unannounced(self) -> int:
        """Refusals without the header that says when to try again."""
        return int(((self.fate == REFUSED) & ~self.retry_after).sum())

    def count(self, fate: int) -> int:
        """Requests with that status or `Fate`."""
        return int((self.fate == fate).sum())

    def latency(self, fate: int, *, of_sending: bool = False, on_open: bool = False) -> NDArray[np.float64]:
        """Seconds until the answers with that status.

        Args:
            of_sending: from the sending rather than from the schedule.
            on_open: of requests over connections that were open already, alone.
        """
        rows = (self.fate == fate) & ~(self.opening & on_open)
        return (self.answered - (self.sent if of_sending else self.scheduled))[rows]

    def recovery(self, start: float, usual: float, run: int) -> float | None:
        """Seconds from `start` until the server answers as usual again.

        That is until the first of `run` requests in a row which have the right answer within `usual` seconds of their
        schedule, behind the last request without the right answer. None where there are none.
        """
        rows = self.scheduled >= start
        right, near = self.fate[rows] == OK, (self.answered - self.scheduled)[rows] <= usual
        wrong = np.flatnonzero(~right)
        for row in range(int(wrong[-1]) + 1 if len(wrong) else 0, len(near) - run + 1):
            if near[row : row + run].all():
                return float(self.scheduled[rows][row]) - start
        return None

    def figures(self) -> dict[str, Any]:
        """Rates a second, counts, and milliseconds as p50, p90, p99 and max (None of nothing)."""
        statuses, counts = np.unique(self.fate[self.fate >= 100], return_counts=True)
        other = {str(status): int(count) for status, count in zip(statuses, counts, strict=True)}
        return {
            "seconds": self.seconds,
            "offered": len(self.fate),
            "offered_per_s": significant(self.offered_per_s),
            "sent_per_s": significant(self.sent_per_s),
            "held": self.held,
            "not_sent": {"late": self.count(Fate.LATE), "no_free_connection": self.count(Fate.CROWDED)},
            "lag_ms": spread(_known(self.sent - self.scheduled)),
            "ok": other.pop(str(OK), 0),
            "ok_per_s": significant(self.ok_per_s),
            "refused": other.pop(str(REFUSED), 0),
            "other_statuses": other,
            "wrong": self.count(Fate.WRONG),
            "missing": self.count(Fate.MISSING),
            "doubled": int(self.doubled.sum()),
            "connection_errors": self.count(Fate.BROKEN),
            "ok_ms": spread(self.latency(OK)),
            "ok_from_sending_ms": spread(self.latency(OK, of_sending=True)),
            "refused_from_sending_ms": spread(self.latency(REFUSED, of_sending=True)),
            "opening": int(self.opening.sum()),
            "ok_on_open_connections_ms": spread(self.latency(OK, of_sending=True, on_open=True)),
            "refused_on_open_connections_ms": spread(self.latency(REFUSED, of_sending=True, on_open=True)),
            "refused_without_retry_after": self.unannounced,
        }


def spread(seconds: NDArray[np.float64]) -> dict[str, float] | None:
    """`p50`, `p90`, `p99` and `max` in milliseconds; None of nothing."""
    if not len(seconds):
        return None
    values = np.percentile(seconds * 1e3, (50, 90, 99, 100))
    return {name: significant(float(value)) for name, value in zip(("p50", "p90", "p99", "max"), values, strict=True)}


def _known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[~np.isnan(values)]
