"""Open-loop load: requests go out on a schedule, whatever the answers do, and every answer is checked.

A closed loop slows down with the server, and so never shows an overload. The generator shares the cores with the
server: it is one event loop that writes ready-made bytes, and reads of an answer no more than it must.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import orjson
import uvloop
from numpy.typing import NDArray

from benchmarks.servers.connection import Address, Answer, Connection
from benchmarks.servers.processes import HOST
from benchmarks.servers.trace import OK, Fate, Trace

PATH = "/v1/classify"
Spacing = Literal["poisson", "even"]
# The event loop's timers know no less.
_TICK_SECONDS = 0.001
# A connection that waited longer may be closed by the server just when it is used; uvicorn does so after 5.
_FRESH_SECONDS = 3.0
# In which a second answer to the last request would come.
_LINGER_SECONDS = 0.1
# Greatest difference between float32 scores, whatever shares a batch with a text.
ROUNDING = 1e-5


class Question(Protocol):
    """What is asked, and how its answer is told from a wrong one."""

    def request(self) -> bytes:
        """The whole request as it is sent."""

    def is_answered_by(self, body: bytes) -> bool:
        """Whether the body of an answer with status 200 is right."""


def post(host: str, path: str, body: bytes, headers: Sequence[str] = ()) -> bytes:
    """A POST request of JSON as HTTP/1.1 has it.

    Args:
        headers: further lines of its head.
    """
    head = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*head, *headers, "", ""]).encode() + body


@dataclass(frozen=True)
class KnownQuestion:
    """One text, and what our server must answer.

    Attributes:
        score: of the label.
        tokens: that were read.
        tolerance: greatest difference between the score answered and this one.
    """

    text: str
    label: str
    score: float
    tokens: int
    tolerance: float = ROUNDING

    @property
    def body(self) -> dict[str, Any]:
        """The JSON that is posted."""
        return {"inputs": [self.text]}

    def request(self) -> bytes:
        """The whole request as it is sent."""
        return post(HOST, PATH, json.dumps(self.body).encode())

    def is_answered_by(self, body: bytes) -> bool:
        """Whether a body has this text's label, its score within the tolerance, and its tokens."""
        try:
            (output,) = orjson.loads(body)["outputs"]
            near = abs(output["score"] - self.score) <= self.tolerance
            return bool(near and output["label"] == self.label and output["tokens"] == self.tokens)
        except (LookupError, TypeError, ValueError):
            return False


@dataclass(frozen=True)
class Limits:
    """What the generator allows itself and the server.

    Attributes:
        connections: open at a time; a request that finds none free at the limit is not sent.
        late: seconds behind its schedule from which a request is not sent, so that a generator which cannot hold the
            rate sends less rather than ever later.
        patience: seconds from the last request until an answer counts as missing; above the server's own deadline,
            at which it answers with an error.
        ready: connections that are open before the first request.
    """

    connections: int = 2000
    late: float = 0.25
    patience: float = 35.0
    ready: int = 0


def schedule(rate: float, seconds: float, spacing: Spacing, draw: np.random.Generator) -> NDArray[np.float64]:
    """Rising times in seconds from 0 until before `seconds`, at `rate` a second on average."""
    if spacing == "even":
        return np.arange(int(rate * seconds)) / rate
    # Given their number, the arrivals of a Poisson process lie anywhere alike.
    return np.sort(draw.uniform(0, seconds, draw.poisson(rate * seconds)))


def offer(
    address: Address, questions: Sequence[Question], times: NDArray[np.float64], seconds: float, limits: Limits
) -> Trace:
    """Sends the questions in turn to a server and waits for the answers.

    Args:
        times: rising, in seconds from the start.
        seconds: over which they spread.
    """
    collecting = gc.isenabled()
    gc.disable()  # its pauses would be the generator's lag
    try:
        return uvloop.run(_Generator(address, questions, times, limits).run(seconds))
    finally:
        if collecting:
            gc.enable()


class _Generator:
    """One load: which requests are due, which connections are free, and what became of each request."""

    def __init__(self, address: Address, questions: Sequence[Question], times: NDArray[np.float64], limits: Limits):
        count = len(times)
        self._address = address
        self._questions = questions
        self._requests = [question.request() for question in questions]
        self._limits = limits
        # Lists, since writing single values to arrays takes several times as long.
        self._times: list[float] = times.tolist()
        self._sent = [float("nan")] * count
        self._answered = [float("nan")] * count
        self._fate = [int(Fate.MISSING)] * count
        self._doubled = [0] * count
        self._retry_after = [False] * count
        self._opens = [False] * count
        self._next = 0
        self._pending = count
        # The one used last is the next to be used, so that the others grow old and are closed.
        self._free: list[Connection] = []
        self._connections: set[Connection] = set()
        self._most = 0
        self._opening: set[asyncio.Task[None]] = set()
        self._all_settled = asyncio.Event()

    async def run(self, seconds: float) -> Trace:
        self._loop = asyncio.get_running_loop()
        await asyncio.gather(*(self._open(self._new_connection(None)) for _ in range(self._limits.ready)))
        cpu = time.process_time()
        self._start = time.perf_counter()
        self._send_due()
        last = self._times[-1] if self._times else 0.0
        try:
            async with asyncio.timeout(last + self._limits.patience):
                if self._pending:
                    await self._all_settled.wait()
            await asyncio.sleep(_LINGER_SECONDS)
        except TimeoutError:
            pass  # what has no answer by now is missing
        return self._close(seconds, cpu)

    def take(self, connection: Connection) -> None:
        """Keeps an open connection until a question needs it."""
        self._free.append(connection)

    def send(self, connection: Connection, number: int) -> None:
        """Asks a question over an open connection."""
        connection.number = number
        self._sent[number] = self._now()
        connection.write(self._requests[number % len(self._requests)])

    def answer(self, connection: Connection, answer: Answer) -> None:
        """Takes the first answer to what the connection asked, which is free then."""
        number = connection.number
        assert number is not None
        self._answered[number] = connection.free_since = self._now()
        self._retry_after[number] = answer.retry_after
        question = self._questions[number % len(self._questions)]
        right = answer.status != OK or question.is_answered_by(answer.body)
        self._settle(number, answer.status if right else Fate.WRONG)
        connection.asked_last, connection.number = number, None
        self._free.append(connection)

    def answer_again(self, number: int | None) -> None:
        """Counts an answer to a question that had one."""
        if number is not None:
            self._doubled[number] += 1

    def lose(self, connection: Connection, fate: Fate) -> None:
        """A connection is of no use any more; if it has asked, that is what becomes of its request."""
        self._connections.discard(connection)
        if connection.number is not None:
            self._settle(connection.number, fate)
            connection.number = None

    def _send_due(self) -> None:
        now = self._now()
        while self._next < len(self._times) and self._times[self._next] <= now:
            number, self._next = self._next, self._next + 1
            if now - self._times[number] > self._limits.late:
                self._settle(number, Fate.LATE)
            elif connection := self._free_connection(now):
                self.send(connection, number)
            elif len(self._connections) < self._limits.connections:
                self._open_for(number)
            else:
                self._settle(number, Fate.CROWDED)
            now = self._now()
        if self._next < len(self._times):
            self._loop.call_later(max(_TICK_SECONDS, self._times[self._next] - now), self._send_due)

    def _free_connection(self, now: float) -> Connection | None:
        while self._free:
            connection = self._free.pop()
            if connection.usable and now - connection.free_since <= _FRESH_SECONDS:
                return connection
            connection.close()
        return None

    def _open_for(self, number: int) -> None:
        self._opens[number] = True
        opening = self._loop.create_task(self._open(self._new_connection(number)))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    def _new_connection(self, number: int | None) -> Connection:
        connection = Connection(self, number)
        self._connections.add(connection)
        self._most = max(self._most, len(self._connections))
        return connection

    async def _open(self, connection: Connection) -> None:
        try:
            await self._address.connect(connection)
        except OSError:
            self.lose(connection, Fate.BROKEN)

    def _settle(self, number: int, fate: int) -> None:
        self._fate[number] = fate
        self._pending -= 1
        if not self._pending:
            self._all_settled.set()

    def _now(self) -> float:
        return time.perf_counter() - self._start

    def _close(self, seconds: float, cpu: float) -> Trace:
        trace = Trace(
            seconds=seconds,
            scheduled=np.array(self._times),
            sent=np.array(self._sent),
            answered=np.array(self._answered),
            fate=np.array(self._fate, np.int16),
            doubled=np.array(self._doubled, np.int16),
            retry_after=np.array(self._retry_after, bool),
            opening=np.array(self._opens, bool),
            connections=self._most,
            cpu_seconds=time.process_time() - cpu,
        )
        for opening in self._opening:
            opening.cancel()
        for connection in list(self._connections):
            connection.close()
        return trace
