"""uvicorn's HTTP protocol, which waits for nobody without end, and sends an answer in one piece.

uvicorn itself lets a connection that sends no request, or half of its head, stand for ever, and likewise one that does
not read its answer. Each takes memory and one of a limited number of connections. And it sends head and body of an
answer one after the other, for which the caller wakes twice; beside a small student that is a tenth of all work.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Coroutine
from typing import Any, Protocol, cast

import httptools
from starlette.responses import Response
from starlette.types import Receive, Scope
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

_LOG = logging.getLogger("understudy.serve")

# Until the head of a request must be there, and until a caller must read on.
HEAD_SECONDS = 20.0
READ_SECONDS = 30.0
# For what a caller sends while the server ends.
LAST_REQUEST_SECONDS = 0.25
# Of a request's line and headers, and of what there is about its body: the lengths of its chunks, and what comes behind
# it. The parser keeps a line until it ends.
HEAD_BYTES = 64 * 1024
OTHER_BYTES = 32 * 1024 * 1024


# In a request's scope: its body, if that was there when the work on it began, so that nobody needs to wait for it.
WHOLE_BODY = "understudy.whole_body"


class _Joined:
    """A transport that sends what is written in one turn of the event loop in one piece."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop):
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts and not self._transport.is_closing():
            self._transport.write(b"".join(self._parts))
        self._parts.clear()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Direct(Protocol):
    """What answers some requests without ASGI's messages, as `DirectRoutes` does."""

    def takes(self, scope: Scope) -> bool: ...

    def refusal(self, scope: Scope) -> Response | None: ...

    async def answer(self, scope: Scope, receive: Receive) -> Response: ...


class PatientHttpProtocol(HttpToolsProtocol):
    """Closes connections whose other side does not get on.

    Args:
        direct: asked first for each request. A refusal is sent before there is a task, so that it costs next to nothing
            whatever the load.
    """

    def __init__(
        self, direct: Direct | None, config: Config, server_state: ServerState, app_state: dict[str, Any]
    ) -> None:
        super().__init__(config, server_state, app_state)
        self._direct = direct
        self._in_head = self._in_message = False
        self._head_bytes = self._body_bytes = self._other_bytes = 0
        self._unread = b""
        self._head_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Joined(transport, self.loop))  # type: ignore[arg-type]
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_read_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._in_message = True
        self._head_bytes = self._body_bytes = self._other_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        # What comes behind a body looks like headers and is none.
        if self._in_head:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_headers_complete(self) -> None:
        if self._wants_upgrade:
            return
        self._in_head = False
        self._stop_head_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_message = False
        if self._wants_upgrade:
            return
        super().on_message_complete()
        cast(dict[str, Any], self.cycle.scope)[WHOLE_BODY] = self.cycle.body

    def data_received(self, data: bytes) -> None:
        self._unread = data
        while (data := self._unread) and self.parser is not None:
            self._read(data)

    def _read(self, data: bytes) -> None:
        in_head, in_message, body_bytes, cycle = self._in_head, self._in_message, self._body_bytes, self.cycle
        super().data_received(data)
        if self._unread is data:
            self._unread = b""
        if in_head and self._in_head:
            self._head_bytes += len(data)
        elif not in_head and not self._in_head:
            self._other_bytes += len(data) - (self._body_bytes - body_bytes)
        if self._head_bytes > HEAD_BYTES or self._other_bytes > OTHER_BYTES:
            self._give_up()
        # Whatever was sent, a request must follow; nearly every one has come whole, for which no timer is started.
        if self._working:
            return
        if not self._in_message and (in_message or self.cycle is not cycle):
            self._be_idle()
        else:
            self._await_head()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        scope = cast(Scope, cycle.scope)
        if self._direct is None or not self._direct.takes(scope):
            super()._start_asgi_task(cycle, app)
            return
        # One that has others behind it is answered in its turn: a thousand refusals in one another are too many.
        refusal = None if self.pipeline else self._direct.refusal(scope)
        if refusal is not None:
            self._send(cycle, refusal)
            return
        task = self.loop.create_task(self._answer(cycle, self._direct.answer(scope, cast(Receive, cycle.receive))))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _answer(self, cycle: RequestResponseCycle, answer: Coroutine[Any, Any, Response]) -> None:
        try:
            response = await answer
            if cycle.flow.write_paused and not cycle.disconnected:
                await cycle.flow.drain()
            if not cycle.disconnected:
                self._send(cycle, response)
        except Exception:
            _LOG.exception("a request was not answered")
            cycle.transport.close()

    def _send(self, cycle: RequestResponseCycle, response: Response) -> None:
        """As the cycle's `send` would, in one go."""
        headers = [*cycle.default_headers, *response.raw_headers]
        if (b"connection", b"close") in headers:
            cycle.keep_alive = False
        elif not cycle.keep_alive:
            headers.append((b"connection", b"close"))
        parts = [STATUS_LINE[response.status_code]]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        cycle.transport.write(b"".join((*parts, b"\r\n", response.body)))
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()

    @property
    def _working(self) -> bool:
        """Whether a request of this connection is not yet answered."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _wants_upgrade(self) -> bool:
        """Whether the head asks for another protocol, such as `h2c` in what Java's client sends first.

        There is none here, and then the request is one like any other (RFC 9110, section 7.8). The parser ends it at
        its head, so that it is read once more without the wish. CONNECT has no target here and is left to fail.
        """
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _should_upgrade(self) -> bool:
        return False

    def _unsupported_upgrade_warning(self) -> None:
        """The parser has ended at the head of such a request, which is what uvicorn is told by an exception."""
        if not self._wants_upgrade:
            return
        (offset,) = cast(httptools.HttpParserUpgrade, sys.exc_info()[1]).args
        line = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        headers = (b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade")
        self._unread = b"".join((line, *headers, b"\r\n", self._unread[offset:]))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own

    def shutdown(self) -> None:
        """The server is about to end: closes the connection, but not on a request that is on its way."""
        if self._working:
            super().shutdown()
        else:
            self.loop.call_later(LAST_REQUEST_SECONDS, self._shut_idle)

    def _shut_idle(self) -> None:
        if not self._working:
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._read_timer = self.loop.call_later(READ_SECONDS, self._give_up)

    def resume_writing(self) -> None:
        self._stop_read_timer()
        super().resume_writing()

    def _be_idle(self) -> None:
        """A request that was refused from its head alone has come to its end: the next may take as long to come as it
        may after an answer, whose timer ended with the first byte of this body."""
        self._stop_head_timer()
        if self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._working:  # on a request that came before
            self._await_head()
        else:
            self.transport.abort()

    def _give_up(self) -> None:
        self.transport.abort()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None
