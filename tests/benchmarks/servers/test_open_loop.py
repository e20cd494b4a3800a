"""The generator sends on schedule, checks every answer, and counts what does not come, comes twice or comes wrong."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.servers.connection import Address
from benchmarks.servers.open_loop import KnownQuestion, Limits, offer, schedule
from benchmarks.servers.processes import HOST, free_ports
from benchmarks.servers.trace import Fate, Trace

RIGHT = {"label": "yes", "score": 0.75, "tokens": 4}
IMPATIENT = Limits(patience=0.3)


def question(text: str) -> KnownQuestion:
    return KnownQuestion(text, **RIGHT)


def http(output: dict[str, object], status: str = "200 OK", header: str = "") -> bytes:
    body = json.dumps({"model": "m", "outputs": [output]}).encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{header}\r\n".encode() + body


def chunks(output: dict[str, object]) -> list[bytes]:
    """The body in chunks of five bytes."""
    body = http(output).partition(b"\r\n\r\n")[2]
    parts = [body[start : start + 5] for start in range(0, len(body), 5)]
    return [b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in parts)]


# What the server does to each text: pieces that it writes one by one; None hangs up.
BEHAVIOURS: dict[str, list[bytes | None]] = {
    "right": [http(RIGHT)],
    "near": [http({**RIGHT, "score": 0.750_001})],
    "in pieces": [http(RIGHT)[:9], http(RIGHT)[9:50], http(RIGHT)[50:]],
    "right, then closes": [http(RIGHT, header="Connection: close\r\n"), None],
    "label": [http({**RIGHT, "label": "no"})],
    "score": [http({**RIGHT, "score": 0.76})],
    "tokens": [http({**RIGHT, "tokens": 5})],
    "item error": [http({"error": {"code": "invalid_text"}})],
    "no json": [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{]"],
    "no http": [b"SSH-2.0\r\n\r\n"],
    "in chunks": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *chunks(RIGHT), b"0\r\n\r\n"],
    "no body": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
    "twice": [http(RIGHT) * 2],
    "thrice": [http(RIGHT) * 3],
    "again later": [http(RIGHT), b"", http(RIGHT)],
    "refused": [http({}, "429 Too Many Requests", "Retry-After: 1\r\n")],
    "refused curtly": [http({}, "429 Too Many Requests")],
    "deadline": [http({}, "504 Gateway Timeout")],
    "never": [],
    "half": [http(RIGHT)[:60]],
    "hangs up": [None],
    "half, then hangs up": [http(RIGHT)[:60], None],
}


class Server:
    """Does to each text as it is told above; on an event loop in a thread of its own."""

    def __init__(self) -> None:
        self.connections = 0
        self.bodies: list[object] = []
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._started.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._connected, HOST, 0)
        self.port: int = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                self.bodies.append(body)
                for piece in BEHAVIOURS[body["inputs"][0]]:
                    if piece is None:
                        writer.close()
                        return
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.005)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.stop()


def ask(server: Server, *texts: str, every: float = 0.0, limits: Limits = IMPATIENT) -> Trace:
    """Each text once."""
    times = np.arange(len(texts)) * every
    return offer(Address(HOST, server.port), [question(text) for text in texts], times, 1.0, limits)


@pytest.mark.parametrize(
    ("text", "fate"),
    [
        *((text, 200) for text in ("right", "near", "in pieces", "in chunks", "right, then closes")),
        *((text, Fate.WRONG) for text in ("label", "score", "tokens", "item error", "no json", "no http", "no body")),
        *((text, Fate.BROKEN) for text in ("hangs up", "half, then hangs up")),
        *((text, Fate.MISSING) for text in ("never", "half")),
        *((text, 200) for text in ("twice", "thrice", "again later")),
        *((text, 429) for text in ("refused", "refused curtly")),
        ("deadline", 504),
    ],
)
def test_every_answer_is_told_apart(text: str, fate: int, server: Server) -> None:
    trace = ask(server, text)
    assert trace.fate.tolist() == [fate]
    assert trace.doubled.tolist() == [{"twice": 1, "thrice": 2, "again later": 1}.get(text, 0)]
    assert trace.retry_after.tolist() == [text == "refused"]
    answered = fate >= 100 or text in ("label", "score", "tokens", "item error", "no json", "no body")
    assert np.isnan(trace.answered).tolist() == [not answered]
    assert trace.sent[0] >= trace.scheduled[0]


def test_each_text_is_checked_against_its_own_answer(server: Server) -> None:
    questions = [question("right"), KnownQuestion("right", "no", 0.75, 4), question("refused")]
    trace = offer(Address(HOST, server.port), questions, np.zeros(9), 1.0, IMPATIENT)
    assert trace.fate.tolist() == 3 * [200, Fate.WRONG, 429]


def test_the_schedule_does_not_wait_for_answers(server: Server) -> None:
    trace = ask(server, "never", "right", "never", "right", every=0.02)
    assert trace.fate.tolist() == [Fate.MISSING, 200, Fate.MISSING, 200]
    assert (trace.sent >= trace.scheduled).all()
    assert trace.connections >= 3


def test_the_server_is_asked_for_the_text_as_it_is(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'naïve „quoted“\n\t\\ "text" 🙂'
    monkeypatch.setitem(BEHAVIOURS, text, [http(RIGHT)])
    assert ask(server, text).fate.tolist() == [200]
    assert server.bodies == [{"inputs": [text]}]


def test_a_connection_is_used_again(server: Server) -> None:
    trace = ask(server, *["right"] * 5, every=0.1)
    assert trace.fate.tolist() == [200] * 5
    assert server.connections == trace.opening.sum() < 5


def test_a_request_that_finds_no_connection_is_not_sent(server: Server) -> None:
    trace = ask(server, *["never"] * 3, "right", limits=Limits(connections=2, patience=0.2))
    assert trace.fate.tolist() == [Fate.MISSING, Fate.MISSING, Fate.CROWDED, Fate.CROWDED]
    assert np.isnan(trace.sent).tolist() == [False, False, True, True]
    assert (trace.connections, server.connections) == (2, 2)


def test_a_request_that_would_go_out_too_late_is_not_sent(server: Server) -> None:
    trace = offer(Address(HOST, server.port), [question("right")], np.array([-60.0, 0.0]), 1.0, Limits(late=30))
    assert trace.fate.tolist() == [Fate.LATE, 200]
    assert not trace.held


def test_nobody_listening_is_a_connection_error() -> None:
    trace = offer(Address(HOST, free_ports(1)[0]), [question("right")], np.zeros(2), 1.0, IMPATIENT)
    assert trace.fate.tolist() == [Fate.BROKEN, Fate.BROKEN]
    assert trace.faults == 2


def test_nothing_to_send_is_an_empty_trace(server: Server) -> None:
    trace = offer(Address(HOST, server.port), [question("right")], np.zeros(0), 1.0, IMPATIENT)
    assert (len(trace.fate), trace.connections, trace.held) == (0, 0, True)
    assert trace.figures()["ok_ms"] is None


@pytest.mark.parametrize("spacing", ["poisson", "even"])
def test_a_schedule_rises_within_its_seconds_and_comes_again_from_its_seed(spacing: str) -> None:
    first, again, other = (
        schedule(500, 4, spacing, np.random.default_rng(seed))  # type: ignore[arg-type]
        for seed in (1, 1, 2)
    )
    assert first.tolist() == again.tolist()
    assert (first.tolist() == other.tolist()) == (spacing == "even")
    assert (np.diff(first) >= 0).all()
    assert first[0] >= 0
    assert first[-1] < 4
    assert len(first) == pytest.approx(2000, rel=0.1)


def test_connections_that_are_ready_are_used_first(server: Server) -> None:
    trace = ask(server, *["right"] * 4, limits=Limits(patience=0.3, ready=3))
    assert trace.fate.tolist() == [200] * 4
    assert (trace.opening.sum(), trace.connections, server.connections) == (1, 4, 4)
