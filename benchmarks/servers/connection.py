"""A keep-alive connection that asks a server one thing at a time, and reads of HTTP what an answer needs."""

from __future__ import annotations

import asyncio
from typing import NamedTuple, Protocol, cast

from benchmarks.servers.trace import Fate


class Owner(Protocol):
    """Who uses connections, and is told what comes of it."""

    def send(self, connection: Connection, number: int) -> None:
        """The connection is open and can ask what it was opened for."""

    def answer(self, connection: Connection, answer: Answer) -> None:
        """The first answer to what the connection asked, which is free then."""

    def answer_again(self, number: int) -> None:
        """An answer to a request that had one."""

    def lose(self, connection: Connection, fate: Fate) -> None:
        """A connection is of no use any more; if it waits for an answer, that is what becomes of its request."""


class Answer(NamedTuple):
    status: int
    retry_after: bool
    closes: bool
    body: bytes
    size: int


class Connection(asyncio.Protocol):
    """A keep-alive connection: asks one question at a time.

    Attributes:
        number: of the request that waits for its answer; None where none does.
        asked_last: of the request before.
        free_since: when its last answer was complete, in seconds.
    """

    def __init__(self, owner: Owner, number: int):
        self.number: int | None = number
        self.asked_last = number
        self.free_since = 0.0
        self._owner = owner
        self._read = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        assert self.number is not None
        self._owner.send(self, self.number)

    def data_received(self, data: bytes) -> None:
        self._read = self._read + data if self._read else data
        while self._read:
            try:
                answer = _parse(self._read)
            except ValueError:
                self._owner.lose(self, Fate.WRONG)
                self.close()
                return
            if answer is None:
                return
            self._read = self._read[answer.size :]
            if self.number is None:
                self._owner.answer_again(self.asked_last)
            else:
                self._owner.answer(self, answer)
                if not answer.closes:
                    continue
            # Whose answer comes next over a connection with a second one could not be told.
            self.close()

    def connection_lost(self, _error: Exception | None) -> None:
        self._owner.lose(self, Fate.BROKEN)

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


def _parse(data: bytes) -> Answer | None:
    """The first answer in the bytes; None as long as it is not complete.

    Raises:
        ValueError: it has no status or no length.
    """
    head_size = data.find(b"\r\n\r\n")
    if head_size < 0:
        return None
    head = data[:head_size].lower()
    length = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
    size = head_size + 4 + length
    if len(data) < size:
        return None
    return Answer(
        status=int(head[9:12]),
        retry_after=b"\r\nretry-after:" in head,
        closes=b"\r\nconnection: close" in head,
        body=data[head_size + 4 : size],
        size=size,
    )
