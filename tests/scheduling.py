"""A scheduler to be tested: over a model that answers with the text's own tokens, at once or when it is let go."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.batching import BatchLimits
from common.labels import SINGLE_LABEL, Task
from common.tokenization import Encoded
from serve.codec import Prediction
from serve.model_process import BatchResult
from serve.scheduler import BatchReport, Outcome, Scheduler, SchedulerSettings

TASK = Task(SINGLE_LABEL, ("a", "b"))


@dataclass(eq=False)
class Model:
    """What the scheduler asks of a loaded model."""

    number: int = 0
    padding_cost: float = 1.0


MODEL: Any = Model()


def text_of(identity: int, length: int = 3) -> Encoded:
    return Encoded([identity] * length, [0] * length, False)


def _answers(batch: Sequence[Encoded]) -> list[Outcome]:
    """Each text's own number as its score."""
    scores = [np.array([text.ids[0], 0], np.float32) for text in batch]
    return [
        Prediction(TASK, score, np.zeros(2, np.float32), text.tokens, False)
        for score, text in zip(scores, batch, strict=True)
    ]


class Runner:
    """Answers at once."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.models: list[Any] = []
        self.up = asyncio.Event()
        self.up.set()

    @property
    def ready(self) -> bool:
        return self.up.is_set()

    async def wait_until_ready(self) -> None:
        await self.up.wait()

    async def run(self, model: Any, batch: Sequence[Encoded]) -> BatchResult:
        self.models.append(model)
        await self.work(batch)
        self.seen += [text.ids[0] for text in batch]
        return BatchResult(_answers(batch), 0.001)

    async def work(self, _batch: Sequence[Encoded]) -> None:
        await asyncio.sleep(0)


class Gate(Runner):
    """Waits until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()

    async def work(self, _batch: Sequence[Encoded]) -> None:
        await asyncio.wait_for(self.open.wait(), 10)


def make_scheduler(  # type: ignore[no-untyped-def]
    runner: Runner | None = None,
    limits: BatchLimits | None = None,
    reports: list[BatchReport] | None = None,
    **settings,
) -> Scheduler:
    note = reports.append if reports is not None else lambda _report: None
    return Scheduler(runner or Runner(), limits or BatchLimits(), SchedulerSettings(**settings), note)


async def submit(scheduler: Scheduler, texts: Sequence[Encoded], model: Any = MODEL) -> list[Outcome]:
    """As one request."""
    with scheduler.admitted(model, texts):
        return await scheduler.answer(model, texts)


async def until(condition) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)
