"""A request's way in: its body, read within limits, and the watch for a caller that hangs up."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from fastapi import Request
from starlette.requests import ClientDisconnect

from common.errors import CallerGoneError, DeadlineError, InputError, MalformedError, TooLargeError
from serve.http_protocol import WHOLE_BODY

# Until the server looks whether the caller is still there.
_WATCH_AFTER_SECONDS = 0.05

Answer = TypeVar("Answer")


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

    def __post_init__(self) -> None:
        if min(self.body_bytes, self.items, self.waiting_characters, self.body_seconds) <= 0:
            raise InputError("limits on a request must be above 0")


async def read_json_body(request: Request, limits: ServiceLimits, *, empty: Any = None) -> Any:
    """The request's body as JSON.

    Args:
        empty: what no body at all stands for; None for an error.

    Raises:
        TooLargeError: more bytes than the limit, by its header or in fact.
        MalformedError: not JSON.
        DeadlineError: it does not arrive in time.
        CallerGoneError: the caller hung up on the way.
    """
    body = request.scope.get(WHOLE_BODY)
    if body is not None:
        if len(body) > limits.body_bytes:
            raise TooLargeError(f"the body has {len(body):,} bytes; the limit is {limits.body_bytes:,}")
    else:
        body = await _arriving_body(request, limits)
    if not body and empty is not None:
        return empty
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedError(f"the body is not valid JSON: {error}") from None


async def _arriving_body(request: Request, limits: ServiceLimits) -> bytes:
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
    return bytes(body)


async def unless_gone(request: Request, answer: Coroutine[Any, Any, Answer]) -> Answer:
    """The answer, unless the caller hangs up first: then the work is called off.

    The watch begins only when the answer takes longer than most, since two tasks a request cost as much as the rest.

    Raises:
        CallerGoneError: the caller hung up.
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
