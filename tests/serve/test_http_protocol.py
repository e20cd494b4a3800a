"""Requests to classify over a real socket, past ASGI's messages: refusals at once and in turn, bodies in pieces."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import httpx
import pytest

from common.tokenization import TextEncoder
from tests.serve_process import ServerProcess, wait_until

TEXT = "Where is my parcel?"
BODY = json.dumps({"inputs": [TEXT]}).encode()
KEY = "a-key-of-sixteen-characters"


def _post(path: str = "/v1/classify", body: bytes = BODY, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class _Connection:
    """One connection, whose answers are read in turn."""

    def __init__(self, port: int):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._file = self._socket.makefile("rb")
        self.send = self._socket.sendall

    def answer(self) -> tuple[int, dict[str, str], Any]:
        """Status, headers (small letters) and JSON of the next answer."""
        response = HTTPResponse(self)  # type: ignore[arg-type]
        response.begin()
        body = response.read(int(response.headers["content-length"]))
        return response.status, {name.lower(): value for name, value in response.headers.items()}, json.loads(body)

    def makefile(self, _mode: str) -> Any:
        """What `HTTPResponse` asks a socket for; one buffer for all answers, or they would lose what comes behind."""
        return _Unclosed(self._file)

    def at_end(self) -> bool:
        return self._file.read(1) == b""

    def close(self) -> None:
        self._file.close()
        self._socket.close()


class _Unclosed:
    def __init__(self, file: Any):
        self._file = file

    def close(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def _connected(server: ServerProcess) -> Iterator[_Connection]:
    connection = _Connection(server.port)
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def _full(bundle: Path, *options: str) -> Iterator[ServerProcess]:
    """A server whose queue one text fills, which its worker does not answer while the context lasts."""
    tokens = TextEncoder.load(bundle).encode([TEXT])[0].tokens
    with ServerProcess(bundle, "--max-queue-tokens", str(tokens), *options) as server, ThreadPoolExecutor(1) as caller:
        worker = int(Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()[0])
        os.kill(worker, signal.SIGSTOP)
        try:
            held = caller.submit(httpx.post, f"{server.url}/v1/classify", content=BODY, timeout=30)
            wait_until(lambda: f"understudy_queue_tokens {tokens}.0" in httpx.get(f"{server.url}/metrics").text)
            yield server
        finally:
            os.kill(worker, signal.SIGCONT)
        assert held.result().status_code == 200


def test_refusals_are_whole_in_order_and_counted(bundle: Path, tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    infer = "/v2/models/bundle/infer"
    with _full(bundle, "--access-log", str(log)) as server, _connected(server) as connection:
        connection.send(_post() + _post("/predict") + _post(infer, BODY, "X-Request-ID: mine"))
        answers = [connection.answer() for _ in range(3)]
        assert [status for status, _, _ in answers] == [429, 429, 429]
        assert all(int(headers["retry-after"]) >= 1 and "date" in headers for _, headers, _ in answers)
        assert all(headers["content-type"] == "application/json" for _, headers, _ in answers)
        ids = [headers["x-request-id"] for _, headers, _ in answers]
        assert len(set(ids)) == 3
        assert ids[2] == "mine"
        message = "the queue is full; try again later"
        assert answers[0][2] == {"error": {"code": "overloaded", "message": message}}
        assert answers[1][2] == {"error": message, "error_type": "Overloaded"}
        assert answers[2][2] == {"error": message}
        # The connection is as good as before.
        connection.send(b"GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.answer()[0] == 200
        shown = httpx.get(f"{server.url}/metrics").text
        assert 'understudy_requests_total{route="/v1/classify",status="429"} 1.0' in shown
        assert 'understudy_requests_total{route="/v2/models/{name}/infer",status="429"} 1.0' in shown
        refused = [line for line in map(json.loads, log.read_text().splitlines()) if line["status"] == 429]
        assert [line["request_id"] for line in refused] == ids


def test_a_thousand_refusals_behind_an_answer(bundle: Path) -> None:
    with _full(bundle) as server, _connected(server) as connection:
        # The first is none, so that all the others wait behind it.
        connection.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" + _post() * 1000)
        first = HTTPResponse(connection)  # type: ignore[arg-type]
        first.begin()
        first.read(int(first.headers["content-length"]))
        assert [connection.answer()[0] for _ in range(1000)] == [429] * 1000


def test_a_caller_without_a_key_is_told_so_even_under_load(bundle: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    with ServerProcess(bundle, "--keys", str(keys)) as server, _connected(server) as connection:
        connection.send(_post() + _post("/v1/classify", BODY, f"Authorization: Bearer {KEY}"))
        status, headers, body = connection.answer()
        assert (status, headers["www-authenticate"], body["error"]["code"]) == (401, "Bearer", "unauthorized")
        assert connection.answer()[0] == 200


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[ServerProcess]:
    with ServerProcess(bundle) as process:
        yield process


def test_a_body_may_come_late_in_pieces_and_on_invitation(server: ServerProcess) -> None:
    with _connected(server) as connection:
        head, body = _post()[: -len(BODY)], BODY
        connection.send(head + body[:5])
        connection.send(body[5:])
        whole = connection.answer()
        connection.send(
            _post("/v1/classify", b"", "Expect: 100-continue").replace(b"Length: 0", b"Length: %d" % len(body))
        )
        assert connection._file.readline().startswith(b"HTTP/1.1 100 ")
        connection._file.readline()
        connection.send(body)
        chunked = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        invited = connection.answer()
        connection.send(chunked + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        assert [answer[0] for answer in (whole, invited, connection.answer())] == [200, 200, 200]
        assert whole[2] == invited[2]


def test_who_wants_the_connection_closed_has_it_closed(server: ServerProcess) -> None:
    with _connected(server) as connection:
        connection.send(_post("/v1/classify", BODY, "Connection: close"))
        status, headers, _ = connection.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert connection.at_end()
    with _connected(server) as connection:
        connection.send(_post().replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert connection.answer()[0] == 200
        assert connection.at_end()


UPGRADE = (
    "Connection: Upgrade, HTTP2-Settings",
    "Upgrade: h2c",
    "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
)


def test_a_wish_for_another_protocol_changes_nothing(server: ServerProcess) -> None:
    """As Java's client, and curl's --http2, begin a connection."""
    whole = _post("/v1/classify", BODY, *UPGRADE)
    head = whole[: -len(BODY)]
    chunked = "\r\n".join(
        ["POST /v1/classify HTTP/1.1", "Host: x", "Transfer-Encoding: chunked", *UPGRADE, "", ""]
    ).encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    with _connected(server) as connection:
        connection.send(_post())
        status, _, expected = connection.answer()
        assert status == 200
        for parts in ([whole], [head, BODY], [head[:50], head[50:] + BODY[:5], BODY[5:]], [chunked], [whole * 30]):
            for part in parts:
                connection.send(part)
                time.sleep(0.05)
            for _ in range(30 if len(parts[0]) > 20 * len(BODY) else 1):
                status, _, answer = connection.answer()
                assert (status, answer["outputs"]) == (200, expected["outputs"])
        connection.send(b"GET /health/ready HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert connection.answer()[0] == 200


def test_a_tunnel_is_refused(server: ServerProcess) -> None:
    with _connected(server) as connection:
        connection.send(b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: elsewhere:443\r\n\r\n")
        response = HTTPResponse(connection)  # type: ignore[arg-type]
        response.begin()
        assert response.status == 400
