"""Open-loop load on one model: texts come when they will, whatever became of those before.

A closed loop asks again when it has its answer. It slows down with what it measures, and never sees a queue; its
percentiles leave out the waiting that callers of their own would have had ("coordinated omission": Tene 2013, "How NOT
to Measure Latency"). Here each text has a time at which it is meant to be sent, and its latency counts from there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench.dialects import Reading
from benchmarks.bench.remote import TIMEOUT_SECONDS, RemoteError, RemoteModel
from benchmarks.servers.open_loop import Limits, offer
from benchmarks.servers.trace import OK, Fate, Trace
from common.errors import WorkFailedError
from common.tokenization import Encoded, Text
from serve.batch_choice import choose_batch
from serve.engine import Engine

# Of the oldest waiting texts a batch is chosen from, as the server has it.
_WINDOW = 128
# Seconds after which Python lets the generator's thread run while another one computes; 5 ms is the usual.
_SWITCH_SECONDS = 0.0002
_FAILED = 500
_KINDS = {Fate.MISSING: "timeout", Fate.BROKEN: "connection", Fate.WRONG: "malformed"}
_LIMITS = Limits(connections=512, patience=TIMEOUT_SECONDS, ready=32)


def offer_to_engine(engine: Engine, texts: Sequence[Text], times: NDArray[np.float64]) -> Trace:
    """Puts the texts in turn into a queue before the engine, each at its time, and waits until all are answered.

    A thread takes what waits whenever the engine is free, tokenizes it and runs the batch that the server would choose.

    Args:
        times: rising, in seconds from the start.
    """
    sent, answered = np.full(len(times), np.nan), np.full(len(times), np.nan)
    fate = np.full(len(times), Fate.MISSING, np.int16)
    queue: SimpleQueue[int | None] = SimpleQueue()
    cpu, started = time.process_time(), time.perf_counter()

    def settle(numbers: Sequence[int], status: int) -> None:
        answered[numbers], fate[numbers] = time.perf_counter() - started, status

    with _prompt_threads(), ThreadPoolExecutor(1, thread_name_prefix="engine") as threads:
        working = threads.submit(_answer, engine, texts, queue, settle)
        for number, due in enumerate(times.tolist()):
            pause = due - (time.perf_counter() - started)
            if pause > 0:
                time.sleep(pause)
            sent[number] = time.perf_counter() - started
            queue.put(number)
        queue.put(None)
        working.result()
    none = np.zeros(len(times), np.int16)
    return Trace(
        seconds=_duration(times),
        scheduled=times,
        sent=sent,
        answered=answered,
        fate=fate,
        doubled=none,
        retry_after=none.astype(bool),
        opening=none.astype(bool),
        connections=0,
        cpu_seconds=time.process_time() - cpu,
    )


def offer_over_http(model: RemoteModel, texts: Sequence[Text], times: NDArray[np.float64]) -> Trace:
    """Sends the texts in turn to a server, each at its time in a request of its own, and waits for the answers.

    What went out is counted by the model as its other requests and errors are.

    Args:
        times: rising, in seconds from the start.
    """
    questions = [_RemoteQuestion(model, text) for text in texts[: len(times)]]
    trace = offer(model.source.address, questions, times, _duration(times), _LIMITS)
    model.requests += int((~np.isnan(trace.sent)).sum())
    for fate, count in zip(*np.unique(trace.fate, return_counts=True), strict=True):
        if fate not in (OK, Fate.LATE, Fate.CROWDED):
            model.errors[_KINDS.get(fate, str(fate))] += int(count)
    return trace


@dataclass(frozen=True)
class _RemoteQuestion:
    """A text whose answer is right if it is one; see `benchmarks.servers.open_loop.Question`."""

    model: RemoteModel
    text: Text

    def request(self) -> bytes:
        return self.model.request(self.text)

    def is_answered_by(self, body: bytes) -> bool:
        try:
            return isinstance(self.model.read(body, 1)[0], Reading)
        except RemoteError:
            return False


def _answer(
    engine: Engine,
    texts: Sequence[Text],
    queue: SimpleQueue[int | None],
    settle: Callable[[Sequence[int], int], None],
) -> None:
    """Answers what comes, by number, until None has come and nothing waits."""
    waiting: list[tuple[int, Encoded]] = []
    open_ = True
    while open_ or waiting:
        come: list[int] = []
        while open_ and not (queue.empty() and (waiting or come)):
            number = queue.get()
            if number is None:
                open_ = False
            else:
                come.append(number)
        waiting += zip(come, engine.encoder.encode([texts[number % len(texts)] for number in come]), strict=True)
        if not waiting:
            continue
        window = sorted(range(min(len(waiting), _WINDOW)), key=lambda place: waiting[place][1].tokens)
        lengths = [waiting[place][1].tokens for place in window]
        chosen = choose_batch(lengths, window.index(0), engine.limits, engine.model.padding_cost)
        places = [window[index] for index in chosen]
        numbers = [waiting[place][0] for place in places]
        try:
            engine.run([waiting[place][1] for place in places])
            settle(numbers, OK)
        except WorkFailedError:
            settle(numbers, _FAILED)
        taken = set(places)
        waiting = [entry for place, entry in enumerate(waiting) if place not in taken]


@contextmanager
def _prompt_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _duration(times: NDArray[np.float64]) -> float:
    return float(times[-1]) if len(times) else 0.0
