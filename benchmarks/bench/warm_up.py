"""When a model is warm: found in its own times, not guessed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.bench.contestants import IN_PROCESS, Contestant
from common.errors import WorkFailedError
from common.tokenization import Text

# Calls whose median is held against that of as many before them, and the share by which it may still fall.
WINDOW = 10
STILL_FALLING = 0.02
# No model is given longer: one whose times fall and fall is on a machine that will not do.
MOST_SECONDS = 10.0


@dataclass(frozen=True)
class WarmUp:
    """
    Attributes:
        calls: that were made, and count for nothing.
        settled: whether their times had stopped falling.
    """

    calls: int
    settled: bool


def warm_up(contestant: Contestant, texts: Sequence[Text]) -> WarmUp:
    """Calls a model with one text after another until its times stop falling.

    Every window has the same few texts, so that a shorter text does not pass for a faster model, nor a longer one for
    a model that is warm.
    """
    return settle(_times(contestant, itertools.cycle(texts[:WINDOW])), MOST_SECONDS)


def settle(times: Iterable[float], most: float) -> WarmUp:
    """Takes times, in seconds, until they have stopped falling or they add up to `most`.

    They have stopped when the median of the last `WINDOW` is no more than `STILL_FALLING` under that of as many before.
    """
    seen: list[float] = []
    spent = 0.0
    for seconds in times:
        seen.append(seconds)
        spent += seconds
        if is_settled(seen):
            return WarmUp(len(seen), settled=True)
        if spent >= most and len(seen) > 1:
            break
    return WarmUp(len(seen), settled=False)


def is_settled(seen: Sequence[float]) -> bool:
    """Whether the last times are no lower than those before them, but for `STILL_FALLING`."""
    if len(seen) < 2 * WINDOW:
        return False
    return median(seen[-WINDOW:]) >= (1 - STILL_FALLING) * median(seen[-2 * WINDOW : -WINDOW])


def _times(contestant: Contestant, texts: Iterable[Text]) -> Iterable[float]:
    for text in texts:
        started = time.perf_counter()
        try:
            contestant.call([text])
        except WorkFailedError:
            if contestant.where == IN_PROCESS:
                raise
        yield time.perf_counter() - started
