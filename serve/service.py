"""What every protocol's routes share: texts in, outcomes out, through one engine, one scheduler and its metrics."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import Request

from common.errors import CallerGoneError, InputError, MalformedError, TooLargeError, UnderstudyError
from common.tokenization import Encoded
from serve.engine import Engine, Prediction
from serve.metrics import ServerMetrics
from serve.scheduler import Outcome, Scheduler, SchedulerSettings

# One or two texts are tokenized faster than a thread is reached; more would hold up the event loop.
_INLINE_CHARACTERS = 2_000


@dataclass(frozen=True)
class ServiceLimits:
    """What one request may hold.

    Attributes:
        body_bytes: refused before it is parsed, let alone tokenized.
        items: texts a request.
    """

    body_bytes: int = 4 * 1024 * 1024
    items: int = 1024


class Service:
    """An engine behind a scheduler."""

    def __init__(self, engine: Engine, settings: SchedulerSettings, limits: ServiceLimits):
        self.engine = engine
        self.limits = limits
        self.scheduler = Scheduler(
            engine.run, engine.limits, settings, on_batch=lambda report: self.metrics.batch(report)
        )
        self.metrics = ServerMetrics(lambda: self.scheduler.waiting_items, lambda: self.scheduler.admitted_tokens)
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")

    @property
    def version(self) -> str:
        """The first digits of the model file's hash: two bundles share a version only if they share the model."""
        return str(self.engine.bundle.manifest.files["model.onnx"]["sha256"])[:12]

    async def classify(self, request: Request, texts: Sequence[Any], *, truncate: bool) -> list[Outcome]:
        """Outcomes in the order of the texts; a caller that goes away stops the work that has not begun.

        Raises:
            TooLargeError: too many texts, or more tokens than the queue could ever hold.
            OverloadedError, NotReadyError, DeadlineError: as `Scheduler.submit`.
            CallerGoneError: the caller hung up.
        """
        if not texts:
            raise InputError("inputs is empty")
        if len(texts) > self.limits.items:
            raise TooLargeError(f"{len(texts):,} inputs; the limit is {self.limits.items:,} a request")
        prepared = await self._prepare(texts, truncate)
        encoded = [entry for entry in prepared if isinstance(entry, Encoded)]
        answers = iter(await _unless_gone(request, self.scheduler, encoded) if encoded else [])
        outcomes: list[Outcome] = [next(answers) if isinstance(entry, Encoded) else entry for entry in prepared]
        predictions = [outcome for outcome in outcomes if isinstance(outcome, Prediction)]
        self.metrics.texts(
            len(predictions), len(outcomes) - len(predictions), sum(prediction.truncated for prediction in predictions)
        )
        return outcomes

    async def _prepare(self, texts: Sequence[Any], truncate: bool) -> list[Any]:
        size = sum(len(text) if isinstance(text, str) else _INLINE_CHARACTERS for text in texts)
        if size <= _INLINE_CHARACTERS:
            return list(self.engine.prepare(texts, truncate=truncate))
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._tokenizing, lambda: list(self.engine.prepare(texts, truncate=truncate)))


async def read_json_body(request: Request, limit: int) -> Any:
    """The request's body as JSON.

    Raises:
        TooLargeError: more than `limit` bytes, by its header or in fact.
        MalformedError: not JSON.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise TooLargeError(f"the body has {int(declared):,} bytes; the limit is {limit:,}")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise TooLargeError(f"the body has more than {limit:,} bytes")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedError(f"the body is not valid JSON: {error}") from None


def all_predictions(outcomes: Sequence[Outcome]) -> list[Prediction]:
    """The predictions, for protocols that fail whole.

    Raises:
        UnderstudyError: the first failed text's error, with its position.
    """
    predictions = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, UnderstudyError):
            raise type(outcome)(f"input {index}: {outcome}")
        predictions.append(outcome)
    return predictions


async def _unless_gone(request: Request, scheduler: Scheduler, encoded: list[Encoded]) -> list[Outcome]:
    """Submits, and takes the texts back when the caller hangs up."""
    work = asyncio.ensure_future(scheduler.submit(encoded))
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise CallerGoneError("the caller hung up")
        return work.result()
    finally:
        for task in (work, gone):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await gone


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
