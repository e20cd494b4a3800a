"""The scheduler between HTTP and the engine: a queue bounded in tokens, batches of like length, deadlines.

All of its state lives on the event loop; only the model's work leaves it, on one thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from common.batching import BatchLimits
from common.errors import (
    DeadlineError,
    InputError,
    NotReadyError,
    OverloadedError,
    TooLargeError,
    UnderstudyError,
    WorkFailedError,
)
from common.tokenization import Encoded
from serve.engine import Prediction

_LOG = logging.getLogger("understudy.serve")

Outcome = Prediction | UnderstudyError


@dataclass(frozen=True)
class SchedulerSettings:
    """What the queue holds and how long.

    Attributes:
        max_queue_tokens: tokens admitted and not yet answered; more is refused.
        timeout: seconds from admission until a request is given up.
        window: how many of the oldest waiting texts a batch is chosen from.
    """

    max_queue_tokens: int = 65_536
    timeout: float = 30.0
    window: int = 128

    def __post_init__(self) -> None:
        if self.max_queue_tokens < 1 or self.timeout <= 0 or self.window < 1:
            raise InputError("max_queue_tokens, timeout and window must be above 0")


@dataclass(eq=False, slots=True)
class _Job:
    text: Encoded
    outcome: asyncio.Future[Outcome]
    arrived: float = field(default_factory=time.monotonic)


@dataclass
class BatchReport:
    """What one batch was, for the metrics: its texts, their tokens, seconds of work, longest wait before it."""

    items: int
    tokens: int
    padded_tokens: int
    seconds: float
    waited: float


class Scheduler:
    """Answers requests through `run`, a function from a batch to its predictions."""

    def __init__(
        self,
        run: Callable[[Sequence[Encoded]], list[Prediction]],
        limits: BatchLimits,
        settings: SchedulerSettings,
        on_batch: Callable[[BatchReport], None] = lambda _report: None,
    ):
        self._run = run
        self._limits = limits
        self._settings = settings
        self._on_batch = on_batch
        self._waiting: deque[_Job] = deque()
        self._running: list[_Job] = []
        self._admitted = 0
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._worker: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def ready(self) -> bool:
        """Whether a request would be worked on."""
        return self._worker is not None and not self._worker.done() and not self._closing

    @property
    def lost(self) -> bool:
        """Whether the worker ended by itself, which only a new process mends."""
        return self._worker is not None and self._worker.done() and not self._closing

    @property
    def waiting_items(self) -> int:
        """Texts admitted, not yet begun and still wanted."""
        return sum(not job.outcome.done() for job in self._waiting)

    @property
    def admitted_tokens(self) -> int:
        """Tokens admitted and not yet answered."""
        return self._admitted

    def start(self) -> None:
        """Begins to work; called on the event loop."""
        self._worker = asyncio.create_task(self._work(), name="scheduler")
        self._worker.add_done_callback(self._worker_ended)

    async def stop(self) -> None:
        """Admits nothing more, answers what was admitted, ends the worker."""
        self._closing = True
        self._wake.set()
        if self._worker is not None:
            # However it ended, its callers have been told.
            await asyncio.wait([self._worker])
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def submit(self, texts: Sequence[Encoded], deadline: float | None = None) -> list[Outcome]:
        """One request's texts, admitted whole or not at all; the outcomes come in their order.

        Args:
            deadline: by the event loop's clock; by default `timeout` seconds from now.

        Raises:
            TooLargeError: more tokens than the queue could ever hold.
            OverloadedError: more than it can hold now.
            NotReadyError: the scheduler is not running, or its worker was lost.
            DeadlineError: the time was up; what had not begun is skipped.
        """
        tokens = sum(text.tokens for text in texts)
        if tokens > self._settings.max_queue_tokens:
            raise TooLargeError(
                f"the request has {tokens:,} tokens; the queue holds {self._settings.max_queue_tokens:,}: split it"
            )
        if not self.ready:
            raise NotReadyError("the server is not ready")
        if tokens + self._admitted > self._settings.max_queue_tokens:
            raise OverloadedError("the queue is full; try again later")
        loop = asyncio.get_running_loop()
        jobs = [_Job(text, loop.create_future()) for text in texts]
        self._admitted += tokens
        self._waiting.extend(jobs)
        self._wake.set()
        try:
            async with asyncio.timeout_at(deadline or loop.time() + self._settings.timeout):
                outcomes = [await job.outcome for job in jobs]
        except TimeoutError:
            raise DeadlineError(f"no answer within {self._settings.timeout:g} s") from None
        finally:
            self._admitted -= tokens
            # Whether the time was up or the caller went away: nobody waits for these any more.
            for job in jobs:
                job.outcome.cancel()
        lost = next((outcome for outcome in outcomes if isinstance(outcome, NotReadyError)), None)
        if lost is not None:
            raise lost
        return outcomes

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = self._next_batch()
            if not batch:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            self._running = batch
            started = time.monotonic()
            outcomes = await loop.run_in_executor(self._thread, self._answer, [job.text for job in batch])
            for job, outcome in zip(batch, outcomes, strict=True):
                _settle(job, outcome)
            self._running = []
            self._report(batch, started)

    def _report(self, batch: list[_Job], started: float) -> None:
        report = BatchReport(
            items=len(batch),
            tokens=sum(job.text.tokens for job in batch),
            padded_tokens=len(batch) * max(job.text.tokens for job in batch),
            seconds=time.monotonic() - started,
            waited=started - min(job.arrived for job in batch),
        )
        try:
            self._on_batch(report)
        except Exception:
            _LOG.exception("a batch could not be counted")

    def _worker_ended(self, worker: asyncio.Task[None]) -> None:
        """Tells everyone who waits on a worker that is no more."""
        if not worker.cancelled() and worker.exception() is not None:
            _LOG.critical("the worker was lost", exc_info=worker.exception())
        for job in (*self._running, *self._waiting):
            _settle(job, NotReadyError("the worker that held the request was lost"))

    def _next_batch(self) -> list[_Job]:
        """The oldest waiting text and those of the window that are most like it in length."""
        while self._waiting and self._waiting[0].outcome.done():
            self._waiting.popleft()
        if not self._waiting:
            return []
        window = [self._waiting[index] for index in range(min(len(self._waiting), self._settings.window))]
        live = sorted((job for job in window if not job.outcome.done()), key=lambda job: job.text.tokens)
        oldest = self._waiting[0]
        chosen = choose_batch([job.text.tokens for job in live], live.index(oldest), self._limits)
        batch = [live[index] for index in chosen]
        taken = set(map(id, batch))
        rest = [job for job in window if id(job) not in taken and not job.outcome.done()]
        for _ in window:
            self._waiting.popleft()
        self._waiting.extendleft(reversed(rest))
        return batch

    def _answer(self, batch: list[Encoded]) -> list[Outcome]:
        """Runs on the model's thread. A batch that fails is run text by text, so that only the guilty one fails."""
        try:
            predictions = self._run(batch)
            if len(predictions) != len(batch):
                raise WorkFailedError(f"the model gave {len(predictions)} answers to {len(batch)} texts")
            return list(predictions)
        except Exception as error:
            if len(batch) == 1:
                _LOG.exception("the model failed on a text")
                # What went wrong inside is the operator's business, not the caller's.
                reason = str(error) if isinstance(error, UnderstudyError) else "the model failed on this text"
                return [WorkFailedError(reason)]
            return [outcome for text in batch for outcome in self._answer([text])]


def _settle(job: _Job, outcome: Outcome) -> None:
    if not job.outcome.done():
        job.outcome.set_result(outcome)


def choose_batch(lengths: Sequence[int], anchor: int, limits: BatchLimits) -> range:
    """A run of neighbours in rising lengths that holds `anchor` and keeps within the limits.

    Shorter neighbours come first, since they cost padding only; longer ones are added while the limits allow.
    """
    fits = max(1, min(limits.items, limits.tokens // max(lengths[anchor], 1)))
    first = max(0, anchor - fits + 1)
    last = anchor + 1
    while (
        last < len(lengths) and last + 1 - first <= limits.items and (last + 1 - first) * lengths[last] <= limits.tokens
    ):
        last += 1
    return range(first, last)
