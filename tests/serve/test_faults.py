"""The real server under faults: stopped or bereft of its worker under load, and callers that do not get on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.responses import Response
from uvicorn.server import ServerState

from demo.messages import DEV
from serve import http_protocol
from serve.engine import Engine, Prediction
from serve.http_protocol import PatientHttpProtocol
from tests.conftest import messages
from tests.serve_process import ServerProcess, wait_until

TEXTS = [row["text"] for row in messages(DEV)[:20]]


class _Callers:
    """Threads that ask without end, each over a connection that it keeps; what came of every request is counted."""

    def __init__(self, url: str, bundle: Path, count: int = 4):
        answers = Engine.load(bundle).classify(TEXTS)
        self._wanted = {
            text: answer for text, answer in zip(TEXTS, answers, strict=True) if isinstance(answer, Prediction)
        }
        self.outcomes: Counter[str] = Counter()
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(url,)) for _ in range(count)]

    def __enter__(self) -> _Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _call(self, url: str) -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            while not self._done.is_set():
                for text in TEXTS:
                    outcome = self._ask(client, text)
                    self.outcomes[outcome] += 1
                    if outcome == "refused":
                        return

    def _ask(self, client: httpx.Client, text: str) -> str:
        try:
            response = client.post("/v1/classify", json={"inputs": [text]})
        except httpx.ConnectError:
            return "refused"
        except httpx.TransportError as error:
            return repr(error)
        if response.status_code != 200:
            return str(response.status_code)
        output, wanted = response.json()["outputs"][0], self._wanted[text]
        right = output["label"] == wanted.label and abs(output["score"] - wanted.score) < 1e-5
        return "right" if right else "wrong"


def test_sigterm_under_load_answers_what_was_admitted(student_bundle: Path) -> None:
    with ServerProcess(student_bundle, "--drain", "5") as server, _Callers(server.url, student_bundle) as callers:
        wait_until(lambda: callers.outcomes["right"] > 40)
        began = time.monotonic()
        os.kill(server.process.pid, signal.SIGTERM)
        # Readiness falls at once, while work goes on.
        wait_until(lambda: httpx.get(f"{server.url}/health/ready").status_code == 503, 5)
        # All of this takes less than the time of draining, on a busy machine too.
        assert httpx.get(f"{server.url}/health/live").status_code == 200
        last = httpx.post(f"{server.url}/v1/classify", json={"inputs": TEXTS[:1]})
        assert (last.status_code, last.headers["connection"]) == (200, "close")
        out, err = server.process.communicate(timeout=30)
        took = time.monotonic() - began
    assert (server.process.returncode, err) == (0, "")
    assert out.endswith("Stopped.\n")
    assert 5 <= took < 40
    assert set(callers.outcomes) <= {"right", "refused"}


def test_a_killed_worker_costs_few_requests_and_none_a_wrong_answer(student_bundle: Path) -> None:
    with ServerProcess(student_bundle) as server, _Callers(server.url, student_bundle) as callers:
        for _ in range(2):
            before = callers.outcomes["right"]
            wait_until(lambda: callers.outcomes["right"] > before + 40)  # noqa: B023
            os.kill(_worker_of(server), signal.SIGKILL)
            wait_until(lambda: httpx.get(f"{server.url}/health/ready").status_code == 503, 5)
            assert httpx.get(f"{server.url}/health/live").status_code == 200
            wait_until(lambda: httpx.get(f"{server.url}/health/ready").status_code == 200)
        before = callers.outcomes["right"]
        wait_until(lambda: callers.outcomes["right"] > before + 40)
        assert "understudy_worker_restarts 2.0" in httpx.get(f"{server.url}/metrics").text
    assert set(callers.outcomes) <= {"right", "503"}


def test_a_worker_that_hangs_does_not_keep_the_server_from_ending(student_bundle: Path) -> None:
    with ServerProcess(student_bundle) as server, ThreadPoolExecutor(1) as caller:
        worker = _worker_of(server)
        os.kill(worker, signal.SIGSTOP)
        held = caller.submit(httpx.post, f"{server.url}/v1/classify", json={"inputs": TEXTS[:1]}, timeout=60)
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        # Asked twice, it ends at once.
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(15) == 0
        assert held.exception() is not None or held.result().status_code == 503
    assert not _alive(worker)


def test_the_worker_ends_with_a_server_that_is_killed(student_bundle: Path) -> None:
    with ServerProcess(student_bundle) as server:
        worker = _worker_of(server)
        server.process.kill()
        wait_until(lambda: not _alive(worker), 10)


def _worker_of(server: ServerProcess) -> int:
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    workers = [int(pid) for pid in children if b"serve.model_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return workers[-1]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_callers_that_do_not_get_on_cost_nobody_else(student_bundle: Path) -> None:
    with ServerProcess(student_bundle, "--max-body", "20000") as server:
        with ExitStack() as stack:

            def connect(sent: bytes) -> socket.socket:
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
                connection.sendall(sent)
                return connection

            head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\n"
            for _ in range(60):
                connect(b"")
                connect(b"POST /v1/cla")
                connect(head + b'Content-Length: 100\r\n\r\n{"inputs": [')
            for text in TEXTS:
                assert httpx.post(f"{server.url}/v1/classify", json={"inputs": [text]}, timeout=5).status_code == 200
            # A body over the limit is refused from its head, long before it is there, or as soon as it is over it.
            large = connect(head + b"Content-Length: 999999999\r\n\r\n")
            assert large.recv(200).startswith(b"HTTP/1.1 413 ")
            chunked = connect(head + b"Transfer-Encoding: chunked\r\n\r\n" + (b"1000\r\n" + b" " * 4096 + b"\r\n") * 6)
            assert chunked.recv(200).startswith(b"HTTP/1.1 413 ")
            assert httpx.get(f"{server.url}/health/ready").status_code == 200
        code, _, err = server.stop(signal.SIGINT)
    assert (code, err) == (0, "")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a coroutine function beside a protocol that waits a moment only; it gets the port."""
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(http_protocol, "READ_SECONDS", 0.2)

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 50_000_000})

    def run(talk: Any, direct: Any = None, idle: int = 5) -> None:
        async def go() -> None:
            config = uvicorn.Config(app, lifespan="off", log_level="critical", timeout_keep_alive=idle)
            config.load()
            state = ServerState()
            loop = asyncio.get_running_loop()
            made: list[PatientHttpProtocol] = []

            def protocol() -> PatientHttpProtocol:
                made.append(PatientHttpProtocol(direct, config, state, {}))
                return made[-1]

            server = await loop.create_server(protocol, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            try:
                await asyncio.wait_for(talk(reader, writer), 10)
                assert made
                assert not state.connections
            finally:
                writer.close()
                server.close()

        asyncio.run(go())

    return run


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHos"])
def test_a_head_that_does_not_come_ends_the_connection(impatient: Any, sent: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)

    impatient(talk)


def test_a_head_that_trickles_or_never_ends_ends_the_connection(impatient: Any) -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def write() -> None:
            writer.write(b"GET / HTTP/1.1\r\n")
            while True:
                writer.write(b"X: y\r\n")
                await writer.drain()
                await asyncio.sleep(0.02)

        with pytest.raises(ConnectionError):
            await write()
        assert reader.at_eof() or reader.exception()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 12_000)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)

    impatient(trickle)
    impatient(flood)


class _Full:
    """Refuses every request from its head."""

    def takes(self, _scope: Any) -> bool:
        return True

    def refusal(self, _scope: Any) -> Response:
        return Response(b"later", 503)


@pytest.mark.parametrize("pieces", [[b"\r\n\r\nbody"], [b"\r\n\r\n", b"body"], [b"\r\n\r\n", b"bo", b"dy"]])
def test_a_connection_is_kept_after_a_refusal_as_after_an_answer(impatient: Any, pieces: list[bytes]) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            writer.write(b"POST / HTTP/1.1\r\nContent-Length: 4")
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0.05)
            assert b"503" in await reader.readuntil(b"later")
            await asyncio.sleep(0.5)  # more than a head may take, less than a connection may be idle
        # A request that does not come to its end is waited for no longer than any other.
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbo")
        assert b"503" in await reader.readuntil(b"later")
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 2) == b""

    impatient(talk, _Full())


@pytest.mark.parametrize("after", [b"", b"\r\n"])
def test_a_connection_that_is_idle_after_a_refusal_ends(impatient: Any, after: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n")
        assert b"503" in await reader.readuntil(b"later")
        writer.write(b"body")
        await asyncio.sleep(0.05)
        writer.write(after)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 3) == b""

    impatient(talk, _Full(), idle=1)


@pytest.mark.parametrize("sent", [b"\r\n", b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\nx"])
def test_a_connection_on_which_nothing_comes_of_it_ends(
    impatient: Any, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "READ_SECONDS", 30)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        with contextlib.suppress(ConnectionError):
            while await reader.read(1 << 20):
                writer.write(b"\r\n" if sent == b"\r\n" else b"x")

    impatient(talk)


def test_what_comes_behind_a_body_is_no_header_and_takes_no_memory(
    impatient: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "OTHER_BYTES", 200_000)
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 30)
    monkeypatch.setattr(http_protocol, "READ_SECONDS", 30)

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def write() -> None:
            writer.write(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
            while True:
                writer.write(b"a: " + b"b" * 10_000 + b"\r\n")
                await writer.drain()
                await asyncio.sleep(0)

        with pytest.raises(ConnectionError):
            await asyncio.gather(write(), reader.read(-1))

    impatient(flood)


def test_an_answer_that_nobody_reads_ends_the_connection(impatient: Any) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(1)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(50_000_000)

    impatient(talk)
