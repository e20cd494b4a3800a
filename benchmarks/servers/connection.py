"""A keep-alive connection that asks a server one thing at a time, and reads of HTTP what an answer needs."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

from httptools import HttpParserError, HttpResponseParser

from benchmarks.servers.trace import Fate


@dataclass(frozen=True)
class Address:
    """Where a server listens.

    Attributes:
        tls: whether it speaks HTTPS; its certificate is verified.
    """

    host: str
    port: int
    tls: bool = False

    async def connect(self, connection: Connection) -> None:
        """Opens the connection.

        Raises:
            OSError: nobody listens, or the certificate is not to be trusted.
        """
        context = ssl.create_default_context() if self.tls else None
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: connection, self.host, self.port, ssl=context)


class Owner(Protocol):
    """Who uses connections, and is told what comes of it."""

    def take(self, connection: Connection) -> None:
        """The connection is open, and was opened for no question of its own."""

    def send(self, connection: Connection, number: int) -> None:
        """The connection is open and can ask what it was opened for."""

    def answer(self, connection: Connection, answer: Answer) -> None:
        """The first answer to what the connection asked, which is free then."""

    def answer_again(self, number: int | None) -> None:
        """An answer to a request that had one, or to none."""

    def lose(self, connection: Connection, fate: Fate) -> None:
        """A connection is of no use any more; if it waits for an answer, that is what becomes of its request."""


class Answer(NamedTuple):
    status: int
    retry_after: bool
    body: bytes


class Connection(asyncio.Protocol):
    """A keep-alive connection: asks one question at a time.

    Attributes:
        number: of the request that waits for its answer; None where none does.
        asked_last: of the request before.
        free_since: when its last answer was complete, in seconds.
    """

    def __init__(self, owner: Owner, number: int | None):
        self.number = number
        self.asked_last = number
        self.free_since = 0.0
        self._owner = owner
        self._parser = HttpResponseParser(self)
        self._body: list[bytes] = []
        self._retry_after = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        if self.number is None:
            self._owner.take(self)
        else:
            self._owner.send(self, self.number)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            if self.usable:
                self._owner.lose(self, Fate.WRONG)
                self.close()

    def connection_lost(self, _error: Exception | None) -> None:
        self._owner.lose(self, Fate.BROKEN)

    def on_message_begin(self) -> None:
        """The parser's, as those below."""
        self._body.clear()
        self._retry_after = False

    def on_header(self, name: bytes, _value: bytes) -> None:
        self._retry_after |= name.lower() == b"retry-after"

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self.number is None:
            self._owner.answer_again(self.asked_last)
        else:
            answer = Answer(self._parser.get_status_code(), self._retry_after, b"".join(self._body))
            self._owner.answer(self, answer)
            if self._parser.should_keep_alive():
                return
        # Whose answer comes next over a connection with a second one could not be told.
        self.close()

    @property
    def usable(self) -> bool:
        """Whether it is open on both ends, as far as is known."""
        return self._transport is not None and not self._transport.is_closing()

    def write(self, request: bytes) -> None:
        """Sends what it is given, once it is open."""
        assert self._transport is not None
        self._transport.write(request)

    def close(self) -> None:
        """Ends it without waiting for anything."""
        if self._transport is not None:
            self._transport.abort()
