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
from typing import Any, Literal

import numpy as np
import orjson
import uvloop
from numpy.typing import NDArray

from benchmarks.servers.connection import Answer, Connection
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


@dataclass(frozen=True)
class Question:
    """One text, and what the server must answer.

    Attributes:
        score: of the label.
        tokens: that were read.
    """

    text: str
    label: str
    score: float
    tokens: int

    @property
    def body(self) -> dict[str, Any]:
        """The JSON that is posted."""
        return {"inputs": [self.text]}

    def request(self) -> bytes:
        """The whole request as it is sent."""
        body = json.dumps(self.body).encode()
        head = f"POST {PATH} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        return f"{head}\r\n\r\n".encode() + body

    def is_answered_by(self, body: bytes, tolerance: float) -> bool:
        """Whether a body has this text's label, its score within the tolerance, and its tokens."""
        try:
            (output,) = orjson.loads(body)["outputs"]
            near = abs(output["score"] - self.score) <= tolerance
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
    """

    connections: int = 2000
    late: float = 0.25
    patience: float = 35.0


def schedule(rate: float, seconds: float, spacing: Spacing, draw: np.random.Generator) -> NDArray[np.float64]:
    """Rising times in seconds from 0 until before `seconds`, at `rate` a second on average."""
    if spacing == "even":
        return np.arange(int(rate * seconds)) / rate
    # Given their number, the arrivals of a Poisson process lie anywhere alike.
    return np.sort(draw.uniform(0, seconds, draw.poisson(rate * seconds)))


def offer(
    port: int,
    questions: Sequence[Question],
    times: NDArray[np.float64],
    seconds: float,
    tolerance: float,
    limits: Limits,
) -> Trace:
    """Sends the questions in turn to a server on this machine and waits for the answers.

    Args:
        times: rising, in seconds from the start.
        seconds: over which they spread.
        tolerance: greatest difference between a score and the expected one.
    """
    collecting = gc.isenabled()
    gc.disable()  # its pauses would be the generator's lag
    try:
        return uvloop.run(_Generator(port, questions, times, tolerance, limits).run(seconds))
    finally:
        if collecting:
            gc.enable()


class _Generator:
    """One load: which requests are due, which connections are free, and what became of each request."""

    def __init__(
        self,
        port: int,
        questions: Sequence[Question],
        times: NDArray[np.float64],
        tolerance: float,
        limits: Limits,
    ):
        count = len(times)
        self._port = port
        self._questions = questions
        self._requests = [question.request() for question in questions]
        self._tolerance = tolerance
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
        right = answer.status != OK or question.is_answered_by(answer.body, self._tolerance)
        self._settle(number, answer.status if right else Fate.WRONG)
        connection.asked_last, connection.number = number, None
        self._free.append(connection)

    def answer_again(self, number: int) -> None:
        """Counts an answer to a question that had one."""
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
        connection = Connection(self, number)
        self._connections.add(connection)
        self._most = max(self._most, len(self._connections))
        opening = self._loop.create_task(self._open(connection))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _open(self, connection: Connection) -> None:
        try:
            await self._loop.create_connection(lambda: connection, HOST, self._port)
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
