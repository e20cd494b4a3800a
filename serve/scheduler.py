"""The scheduler between HTTP and the models: a queue bounded in tokens and time, batches of like length, deadlines.

All of its state lives on the event loop; only the models' work leaves it. All models of a server share one queue and
its lanes, since they share the cores: a batch is of one model, and a model that nobody asks costs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

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
from serve.backlog import Backlog
from serve.batch_choice import choose_batch
from serve.codec import Prediction
from serve.model_process import BatchResult, LoadedModel

_LOG = logging.getLogger("understudy.serve")

Outcome = Prediction | UnderstudyError

# Until what was admitted must be answered when the server ends; its callers have had their grace by then.
_STOP_SECONDS = 5.0
# Between two looks for what is late.
_CLOCK_SECONDS = 0.1
# Texts of a batch that nobody waits for, so that whoever comes meanwhile waits little; and the seconds after which one
# such batch runs even though others wait, so that what is done in the background gets on under any load.
_BACKGROUND_ITEMS = 8
_BACKGROUND_SECONDS = 1.0


@dataclass(frozen=True)
class SchedulerSettings:
    """What the queue holds and how long.

    Attributes:
        max_queue_tokens: tokens admitted and not yet answered; more is refused.
        max_wait: seconds that what is admitted may keep a new request waiting, by the rate measured of late; where it
            is more, the new one is refused.
        timeout: seconds from admission until a request is given up.
        window: how many of the oldest waiting texts a batch is chosen from.
        lanes: batches that run at once.
    """

    max_queue_tokens: int = 65_536
    max_wait: float = 2.0
    timeout: float = 30.0
    window: int = 128
    lanes: int = 1

    def __post_init__(self) -> None:
        limits = (self.max_queue_tokens, self.max_wait, self.timeout, self.window, self.lanes)
        if not all(0 < limit < math.inf for limit in limits):  # nor is it true of what is no number
            raise InputError("max_queue_tokens, max_wait, timeout, window and lanes must be numbers above 0")


class Runner(Protocol):
    """What runs batches, as `ModelProcess` does."""

    @property
    def ready(self) -> bool: ...

    async def wait_until_ready(self) -> None: ...

    async def run(self, model: LoadedModel, batch: Sequence[Encoded]) -> BatchResult: ...


@dataclass(eq=False, slots=True)
class _Job:
    model: LoadedModel
    text: Encoded
    outcome: asyncio.Future[Outcome]
    deadline: float = math.inf
    arrived: float = field(default_factory=time.monotonic)


@dataclass
class BatchReport:
    """What one batch was, for the metrics: its model, texts, their tokens, seconds of work, longest wait before it."""

    model: LoadedModel
    items: int
    tokens: int
    padded_tokens: int
    seconds: float
    waited: float


class Scheduler:
    """Answers texts through a runner."""

    def __init__(
        self,
        runner: Runner,
        limits: BatchLimits,
        settings: SchedulerSettings,
        on_batch: Callable[[BatchReport], None] = lambda _report: None,
    ):
        self._runner = runner
        self._limits = limits
        self._settings = settings
        self._on_batch = on_batch
        self._waiting: deque[_Job] = deque()
        self._background: deque[_Job] = deque()
        self._background_ran = 0.0
        self._backlog = Backlog()
        self._wake = asyncio.Event()
        self._workers: list[asyncio.Task[None]] = []
        self._running: set[_Job] = set()
        self._clock: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def ready(self) -> bool:
        """Whether a text would be worked on."""
        return bool(self._workers) and not self._closing and self._runner.ready

    @property
    def waiting_items(self) -> int:
        """Texts admitted, not yet begun and still wanted."""
        return sum(not job.outcome.done() for job in self._waiting)

    @property
    def admitted_tokens(self) -> int:
        """Tokens admitted and not yet answered."""
        return self._backlog.tokens

    @property
    def wait(self) -> float:
        """Seconds until what is admitted is answered, as `Backlog.seconds`."""
        return self._backlog.seconds

    def start(self) -> None:
        """Begins to work; called on the event loop."""
        self._clock = asyncio.create_task(self._watch_deadlines(), name="deadlines")
        for lane in range(self._settings.lanes):
            self._workers.append(asyncio.create_task(self._work(), name=f"scheduler {lane}"))

    async def stop(self, *, at_once: bool = False) -> None:
        """Admits nothing more, answers what was admitted as far as that can be done in a few seconds, ends."""
        self._closing = True
        self._wake.set()
        if self._workers:
            seconds = 0 if at_once or not self._runner.ready else _STOP_SECONDS
            _, late = await asyncio.wait(self._workers, timeout=seconds)
            for worker in late:
                worker.cancel()
            await asyncio.wait(self._workers)
        if self._clock is not None:
            self._clock.cancel()
        for job in (*self._running, *self._waiting, *self._background):
            _settle(job, NotReadyError("the server is stopping"))

    def check_room(self) -> None:
        """Refuses early what could not be admitted, before anything is spent on it.

        Raises:
            OverloadedError: the queue is full, or its wait is too long.
            NotReadyError: the scheduler is not running, or the worker was lost.
        """
        if not self.ready:
            raise NotReadyError("the server is not ready")
        if self._backlog.tokens >= self._settings.max_queue_tokens or self.wait > self._settings.max_wait:
            raise self._overloaded()

    @contextlib.contextmanager
    def admitted(self, model: LoadedModel, texts: Sequence[Encoded]) -> Iterator[None]:
        """Within, the texts of a request to a model have their place in the queue, all of them or none.

        Raises:
            TooLargeError: more tokens than the queue could ever hold.
            OverloadedError: more than it can hold now, or what it holds takes too long.
            NotReadyError: the scheduler is not running, or the worker was lost.
        """
        tokens = sum(text.tokens for text in texts)
        if tokens > self._settings.max_queue_tokens:
            raise TooLargeError(
                f"the request has {tokens:,} tokens; the queue holds {self._settings.max_queue_tokens:,}: split it"
            )
        self.check_room()
        if tokens + self._backlog.tokens > self._settings.max_queue_tokens:
            raise self._overloaded()
        with self._backlog.admitted(model, texts):
            yield

    async def answer(
        self, model: LoadedModel, texts: Sequence[Encoded], deadline: float | None = None, *, first: bool = False
    ) -> list[Outcome]:
        """The outcomes of admitted texts, in their order.

        Args:
            deadline: by the event loop's clock; by default `timeout` seconds from now.
            first: before all that waits, for texts whose request has waited already, with another model.

        Raises:
            NotReadyError: the worker that held one of them was lost.
            DeadlineError: the time was up; what had not begun is skipped.
        """
        loop = asyncio.get_running_loop()
        deadline = deadline or loop.time() + self._settings.timeout
        jobs = [_Job(model, text, loop.create_future(), deadline) for text in texts]
        if first:
            self._waiting.extendleft(reversed(jobs))
        else:
            self._waiting.extend(jobs)
        self._wake.set()
        more = sum(text.tokens for text in texts) if first else 0
        with self._backlog.owing(model, more):
            return await _outcomes(jobs)

    async def answer_in_background(self, model: LoadedModel, texts: Sequence[Encoded]) -> list[Outcome]:
        """The outcomes of texts that nobody waits for; they run while nothing else does, and else a few a second.

        Raises:
            NotReadyError: as `answer`.
        """
        loop = asyncio.get_running_loop()
        jobs = [_Job(model, text, loop.create_future()) for text in texts]
        self._background.extend(jobs)
        self._wake.set()
        return await _outcomes(jobs)

    def _overloaded(self) -> OverloadedError:
        return OverloadedError("the queue is full; try again later", max(1, math.ceil(self.wait)))

    async def _work(self) -> None:
        while True:
            if not self._runner.ready:
                await self._runner.wait_until_ready()
            batch = self._overdue_background_batch() or self._next_batch() or self._next_background_batch()
            if not batch:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            started = time.monotonic()
            self._running.update(batch)
            outcomes: Sequence[Outcome]
            try:
                result = await self._runner.run(batch[0].model, [job.text for job in batch])
                outcomes = result.outcomes
                self._report(batch, started, result.seconds)
            except UnderstudyError as error:
                outcomes = [error] * len(batch)
            except Exception:
                _LOG.exception("a batch was lost")
                outcomes = [WorkFailedError("the model failed on this text")] * len(batch)
            self._running.difference_update(batch)
            for job, outcome in zip(batch, outcomes, strict=True):
                _settle(job, outcome)

    async def _watch_deadlines(self) -> None:
        """Gives up what is late. One look at all of them now and then costs less than a timer for each."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(_CLOCK_SECONDS, self._settings.timeout / 4))
            now = loop.time()
            late = [job for job in (*self._waiting, *self._running) if job.deadline < now]
            for job in late:
                _settle(job, DeadlineError(f"no answer within {self._settings.timeout:g} s"))

    def _report(self, batch: list[_Job], started: float, seconds: float) -> None:
        report = BatchReport(
            model=batch[0].model,
            items=len(batch),
            tokens=sum(job.text.tokens for job in batch),
            padded_tokens=len(batch) * max(job.text.tokens for job in batch),
            seconds=seconds,
            waited=started - min(job.arrived for job in batch),
        )
        took = max(time.monotonic() - started, 1e-6)
        self._backlog.ran(report.model, report.tokens, self._settings.lanes * report.tokens / took)
        try:
            self._on_batch(report)
        except Exception:
            _LOG.exception("a batch could not be counted")

    def _next_batch(self) -> list[_Job]:
        """The oldest waiting text and those of the window that are of its model and most like it in length."""
        while self._waiting and self._waiting[0].outcome.done():
            self._waiting.popleft()
        if not self._waiting:
            return []
        window = [self._waiting[index] for index in range(min(len(self._waiting), self._settings.window))]
        oldest = self._waiting[0]
        live = sorted(
            (job for job in window if job.model is oldest.model and not job.outcome.done()),
            key=lambda job: job.text.tokens,
        )
        # A share for each lane, and one that is on its way in or out, so that neither lanes nor callers wait in turn.
        share = -(-self._backlog.items // (self._settings.lanes + 1))
        limits = BatchLimits(min(self._limits.items, max(1, share)), self._limits.tokens)
        chosen = choose_batch([job.text.tokens for job in live], live.index(oldest), limits, oldest.model.padding_cost)
        batch = [live[index] for index in chosen]
        taken = set(map(id, batch))
        rest = [job for job in window if id(job) not in taken and not job.outcome.done()]
        for _ in window:
            self._waiting.popleft()
        self._waiting.extendleft(reversed(rest))
        return batch

    def _overdue_background_batch(self) -> list[_Job]:
        if not self._background or time.monotonic() - self._background_ran < _BACKGROUND_SECONDS:
            return []
        return self._next_background_batch()

    def _next_background_batch(self) -> list[_Job]:
        batch: list[_Job] = []
        tokens = 0
        while self._background and len(batch) < _BACKGROUND_ITEMS:
            job = self._background[0]
            longest = max(tokens, job.text.tokens)
            if batch and (job.model is not batch[0].model or longest * (len(batch) + 1) > self._limits.tokens):
                break
            self._background.popleft()
            if not job.outcome.done():
                batch.append(job)
                tokens = longest
        self._background_ran = time.monotonic()
        return batch


async def _outcomes(jobs: Sequence[_Job]) -> list[Outcome]:
    try:
        outcomes = [await job.outcome for job in jobs]
    finally:
        # Whether the time was up or the caller went away: nobody waits for these any more.
        for job in jobs:
            job.outcome.cancel()
    for outcome in outcomes:
        if isinstance(outcome, NotReadyError | DeadlineError):
            raise outcome
    return outcomes


def _settle(job: _Job, outcome: Outcome) -> None:
    if not job.outcome.done():
        job.outcome.set_result(outcome)
