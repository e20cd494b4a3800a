"""Each request's id, count and line in the access log, outside of everything that could answer it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import NamedTuple, TextIO

import orjson
from fastapi import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.errors import InputError, NotReadyError
from serve.metrics import ServerMetrics
from serve.responses import error_response

_LONGEST_ID = 128
_PRINTABLE = frozenset(range(0x21, 0x7F))


class Entry(NamedTuple):
    """A request under way: its id, and when it came."""

    identifier: bytes
    started: float


class RequestLog:
    """Middleware that names, counts and logs.

    A request keeps the id that it came with, if that is a plain word, so that one id leads through several services.

    Args:
        draining: whether the server is about to end, which callers who keep their connection are then told.
        log: gets a line of JSON for each request, without a word of its texts; None for none.
    """

    def __init__(self, app: ASGIApp, metrics: ServerMetrics, draining: Callable[[], bool], log: TextIO | None = None):
        self._app = app
        self._metrics = metrics
        self._draining = draining
        self._log = log
        # A number behind a random word is as unique as a random word and costs next to nothing.
        self._prefix = secrets.token_hex(6).encode()
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        entry = self.begin(scope)
        status = sent = 0

        async def noting(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *self._headers(entry)]
            else:
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except asyncio.CancelledError:
            # The grace period is over while this request was under way.
            if status == 0:
                stopping = error_response(NotReadyError("the server is stopping"), scope["path"])
                await stopping(scope, receive, noting)
        finally:
            self._note(entry, scope, status or 500, sent)

    def begin(self, scope: Scope) -> Entry:
        """A request has come."""
        return Entry(_given_id(scope) or b"%s-%x" % (self._prefix, next(self._numbers)), time.monotonic())

    def ended(self, entry: Entry, scope: Scope, response: Response) -> Response:
        """The request has this response, which gets the request's id."""
        response.raw_headers += self._headers(entry)
        self._note(entry, scope, response.status_code, len(response.body))
        return response

    def _headers(self, entry: Entry) -> list[tuple[bytes, bytes]]:
        headers = [(b"x-request-id", entry.identifier)]
        if self._draining():
            headers.append((b"connection", b"close"))
        return headers

    def _note(self, entry: Entry, scope: Scope, status: int, sent: int) -> None:
        # The route, not the path, which callers could make up without end.
        route = getattr(scope.get("route"), "path", "unknown")
        seconds = time.monotonic() - entry.started
        self._metrics.request(route, status, seconds)
        if self._log is not None:
            self._write(scope, entry.identifier, route, status, seconds, sent)

    def _write(self, scope: Scope, identifier: bytes, route: str, status: int, seconds: float, sent: int) -> None:
        assert self._log is not None
        client = scope.get("client")
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": identifier.decode(),
            "client": client[0] if client else None,
            "method": scope["method"],
            "route": route,
            "status": status,
            "seconds": round(seconds, 6),
            "bytes": sent,
            **scope.get("texts", {}),
        }
        # A full disk is no reason to fail a request that has been answered.
        with contextlib.suppress(OSError):
            self._log.write(orjson.dumps(line).decode() + "\n")


def open_access_log(path: Path | None) -> TextIO | None:
    """The file that the lines go to; '-' is standard output.

    Raises:
        InputError: it cannot be written.
    """
    if path is None:
        return None
    if str(path) == "-":
        assert isinstance(sys.stdout, TextIOWrapper)
        sys.stdout.reconfigure(line_buffering=True)
        return sys.stdout
    try:
        return path.open("a", encoding="utf-8", buffering=1)
    except OSError as error:
        raise InputError(f"--access-log {path}: {error.strerror or error}") from None


def _given_id(scope: Scope) -> bytes | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return value if 0 < len(value) <= _LONGEST_ID and _PRINTABLE.issuperset(value) else None
    return None
