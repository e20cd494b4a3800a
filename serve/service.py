"""What every protocol's routes share: texts in, outcomes out, through one engine, one scheduler and its metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import orjson
from fastapi import Request
from starlette.requests import ClientDisconnect

from common.errors import (
    CallerGoneError,
    DeadlineError,
    InputError,
    MalformedError,
    NotReadyError,
    OverloadedError,
    TextError,
    TooLargeError,
    UnderstudyError,
)
from common.tokenization import Encoded, characters_of
from serve.engine import Engine, Prediction
from serve.metrics import ServerMetrics
from serve.scheduler import Outcome, Scheduler, SchedulerSettings

# One or two texts are tokenized faster than a thread is reached; more would hold up the event loop.
_INLINE_CHARACTERS = 2_000
# Until the server looks whether the caller is still there.
_WATCH_AFTER_SECONDS = 0.05
# Between two looks at the deadline.
_SLICE_CHARACTERS = 200_000


@dataclass(frozen=True)
class ServiceLimits:
    """What one request may hold.

    Attributes:
        body_bytes: refused before it is parsed, let alone tokenized.
        items: texts a request.
        waiting_characters: of all requests together, on their way through the tokenizer.
        body_seconds: until a body must have arrived.
    """

    body_bytes: int = 4 * 1024 * 1024
    items: int = 1024
    waiting_characters: int = 8_000_000
    body_seconds: float = 20.0


class Service:
    """An engine behind a scheduler."""

    def __init__(self, engine: Engine, settings: SchedulerSettings, limits: ServiceLimits):
        self.engine = engine
        self.limits = limits
        self.scheduler = Scheduler(
            engine.run,
            engine.limits,
            replace(settings, lanes=engine.model.lanes),
            on_batch=lambda report: self.metrics.batch(report),
        )
        self.metrics = ServerMetrics(lambda: self.scheduler.waiting_items, lambda: self.scheduler.admitted_tokens)
        self._timeout = settings.timeout
        self._characters = 0
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
        outcomes = await _unless_gone(request, self._answer(texts, truncate))
        predictions = [outcome for outcome in outcomes if isinstance(outcome, Prediction)]
        self.metrics.texts(
            len(predictions), len(outcomes) - len(predictions), sum(prediction.truncated for prediction in predictions)
        )
        return outcomes

    async def stop(self) -> None:
        """Answers what was admitted, then ends."""
        await self.scheduler.stop()
        self._tokenizing.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, texts: Sequence[Any], truncate: bool) -> list[Outcome]:
        if not self.scheduler.ready:
            raise NotReadyError("the server is not ready")
        deadline = asyncio.get_running_loop().time() + self._timeout
        size = sum(map(characters_of, texts))
        if size <= _INLINE_CHARACTERS:
            prepared = self.engine.prepare(texts, truncate=truncate)
        else:
            try:
                async with asyncio.timeout_at(deadline):
                    prepared = await self._prepare_aside(texts, size, truncate)
            except TimeoutError:
                raise DeadlineError(f"no answer within {self._timeout:g} s") from None
        encoded = [entry for entry in prepared if isinstance(entry, Encoded)]
        answers = iter(await self.scheduler.submit(encoded, deadline) if encoded else [])
        return [next(answers) if isinstance(entry, Encoded) else entry for entry in prepared]

    async def _prepare_aside(self, texts: Sequence[Any], size: int, truncate: bool) -> list[Encoded | TextError]:
        """Checks and tokenizes on a thread, slice by slice, so that a deadline or hang-up ends it.

        Args:
            size: characters of the texts together.

        Raises:
            OverloadedError: too many characters wait for the tokenizer already.
        """
        if self._characters and self._characters + size > self.limits.waiting_characters:
            raise OverloadedError("too much text waits for the tokenizer; try again later")
        loop = asyncio.get_running_loop()
        self._characters += size
        try:
            prepared: list[Encoded | TextError] = []
            for part in _slices(texts):
                prepared += await loop.run_in_executor(
                    self._tokenizing,
                    lambda part=part: self.engine.prepare(part, truncate=truncate),  # type: ignore[misc]
                )
            return prepared
        finally:
            self._characters -= size


def _slices(texts: Sequence[Any]) -> Iterator[list[Any]]:
    """The texts in order, about `_SLICE_CHARACTERS` at a time."""
    part: list[Any] = []
    size = 0
    for text in texts:
        part.append(text)
        size += characters_of(text)
        if size >= _SLICE_CHARACTERS:
            yield part
            part, size = [], 0
    if part:
        yield part


async def read_json_body(request: Request, limits: ServiceLimits) -> Any:
    """The request's body as JSON.

    Raises:
        TooLargeError: more bytes than the limit, by its header or in fact.
        MalformedError: not JSON.
        DeadlineError: it does not arrive in time.
        CallerGoneError: the caller hung up on the way.
    """
    limit = limits.body_bytes
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise TooLargeError(f"the body has {int(declared):,} bytes; the limit is {limit:,}")
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise TooLargeError(f"the body has more than {limit:,} bytes")
    except TimeoutError:
        raise DeadlineError(f"the body did not arrive within {limits.body_seconds:g} s") from None
    except ClientDisconnect:
        raise CallerGoneError("the caller hung up") from None
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


async def _unless_gone(request: Request, answer: Coroutine[Any, Any, list[Outcome]]) -> list[Outcome]:
    """The answer, unless the caller hangs up first: then the work is called off.

    The watch begins only when the answer takes longer than most, since two tasks a request cost as much as the rest.
    """
    caller = asyncio.current_task()
    assert caller is not None
    gone = False
    watch: asyncio.Task[None] | None = None

    async def call_off() -> None:
        nonlocal gone
        await _disconnected(request)
        gone = True
        caller.cancel()

    def begin() -> None:
        nonlocal watch
        watch = asyncio.ensure_future(call_off())

    timer = asyncio.get_running_loop().call_later(_WATCH_AFTER_SECONDS, begin)
    try:
        return await answer
    except asyncio.CancelledError:
        if not gone or caller.uncancel() > 0:
            raise
        raise CallerGoneError("the caller hung up") from None
    finally:
        timer.cancel()
        if watch is not None:
            watch.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
