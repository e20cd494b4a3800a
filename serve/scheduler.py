"""The scheduler between HTTP and the engine: a queue bounded in tokens, batches of like length, deadlines.

All of its state lives on the event loop; only the model's work leaves it, on a thread a lane.
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

# What a run of the model costs beside its tokens, in tokens: the best of 1, 3, 5, 8 and 16 for a student of 3 layers
# under 32 connections, where it matters little between 3 and 8.
RUN_TOKENS = 5


@dataclass(frozen=True)
class SchedulerSettings:
    """What the queue holds and how long.

    Attributes:
        max_queue_tokens: tokens admitted and not yet answered; more is refused.
        timeout: seconds from admission until a request is given up.
        window: how many of the oldest waiting texts a batch is chosen from.
        lanes: batches that run at once.
    """

    max_queue_tokens: int = 65_536
    timeout: float = 30.0
    window: int = 128
    lanes: int = 1

    def __post_init__(self) -> None:
        if self.max_queue_tokens < 1 or self.timeout <= 0 or self.window < 1 or self.lanes < 1:
            raise InputError("max_queue_tokens, timeout, window and lanes must be above 0")


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
        # What each lane works on.
        self._running: list[list[_Job]] = [[] for _ in range(settings.lanes)]
        self._admitted = 0
        self._admitted_items = 0
        self._wake = asyncio.Event()
        self._threads = ThreadPoolExecutor(settings.lanes, thread_name_prefix="model")
        self._workers: list[asyncio.Task[None]] = []
        self._closing = False

    @property
    def ready(self) -> bool:
        """Whether a request would be worked on."""
        return bool(self._workers) and not any(worker.done() for worker in self._workers) and not self._closing

    @property
    def lost(self) -> bool:
        """Whether a worker ended by itself, which only a new process mends."""
        return any(worker.done() for worker in self._workers) and not self._closing

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
        for lane in range(self._settings.lanes):
            worker = asyncio.create_task(self._work(lane), name=f"scheduler {lane}")
            worker.add_done_callback(self._worker_ended)
            self._workers.append(worker)

    async def stop(self) -> None:
        """Admits nothing more, answers what was admitted, ends the workers."""
        self._closing = True
        self._wake.set()
        if self._workers:
            # However they ended, their callers have been told.
            await asyncio.wait(self._workers)
        self._threads.shutdown(wait=False, cancel_futures=True)

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
        self._admitted_items += len(jobs)
        self._waiting.extend(jobs)
        self._wake.set()
        try:
            async with asyncio.timeout_at(deadline or loop.time() + self._settings.timeout):
                outcomes = [await job.outcome for job in jobs]
        except TimeoutError:
            raise DeadlineError(f"no answer within {self._settings.timeout:g} s") from None
        finally:
            self._admitted -= tokens
            self._admitted_items -= len(jobs)
            # Whether the time was up or the caller went away: nobody waits for these any more.
            for job in jobs:
                job.outcome.cancel()
        lost = next((outcome for outcome in outcomes if isinstance(outcome, NotReadyError)), None)
        if lost is not None:
            raise lost
        return outcomes

    async def _work(self, lane: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = self._next_batch()
            if not batch:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            self._running[lane] = batch
            started = time.monotonic()
            outcomes = await loop.run_in_executor(self._threads, self._answer, [job.text for job in batch])
            for job, outcome in zip(batch, outcomes, strict=True):
                _settle(job, outcome)
            self._running[lane] = []
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
        """Tells everyone who waits that a worker is no more; the other lanes end too, since the process must."""
        if not worker.cancelled():
            if worker.exception() is None:
                return  # the scheduler is closing, and the other lanes may be at work yet
            _LOG.critical("the worker was lost", exc_info=worker.exception())
        for job in (*(job for batch in self._running for job in batch), *self._waiting):
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
        # A share for each lane, and one that is on its way in or out, so that neither lanes nor callers wait in turn.
        share = -(-self._admitted_items // (self._settings.lanes + 1))
        limits = BatchLimits(min(self._limits.items, max(1, share)), self._limits.tokens)
        chosen = choose_batch([job.text.tokens for job in live], live.index(oldest), limits)
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
    """A run of neighbours in rising lengths that holds `anchor`, keeps within the limits and is padded little.

    A text joins where the padding that it causes costs less than a run of its own. Few waiting texts are seldom of one
    length, and a large batch of them is mostly padding.
    """
    first, last = anchor, anchor + 1
    while True:
        joining = []
        for start, end in ((first - 1, last), (first, last + 1)):
            if start < 0 or end > len(lengths):
                continue
            count, longest = end - start, lengths[end - 1]
            padding = longest - lengths[start] if start < first else (longest - lengths[last - 1]) * (count - 1)
            if count <= limits.items and count * longest <= limits.tokens and padding <= RUN_TOKENS:
                joining.append((padding, start, end))
        if not joining:
            return range(first, last)
        _, first, last = min(joining)
