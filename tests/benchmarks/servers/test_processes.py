"""Servers start, answer and stop; those that do not are reported with what they said last."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.servers.processes import ServerProcess, free_ports
from common.errors import WorkFailedError

# Ready at the second question; answers what is posted, but for `null`; stops on SIGTERM with 0.
SERVER = """
import http.server, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
class Handler(http.server.BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Handler.asked += 1
        self.answer(200 if Handler.asked > 1 else 503, b"")
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(422 if body == b"null" else 200, body)
    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_server_is_waited_for_asked_and_stopped(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    server = ServerProcess([sys.executable, "-c", SERVER, port], port, "/ready", tmp_path / "log", {})
    with server:
        assert server.post("/x", {"text": "né"}) == {"text": "né"}
        with pytest.raises(WorkFailedError, match="it answered 422"):
            server.post("/x", None)
        cpu = server.cpu_seconds()
        assert cpu is None or cpu > 0
        memory = server.memory_bytes()
        assert memory is None or 1e6 < memory < 1e9  # an interpreter's
    assert server.exit_code == 0
    with pytest.raises(WorkFailedError, match="it did not answer"):
        server.post("/x", {})


def test_a_server_that_ends_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import os, sys; sys.exit('no ' + os.environ['WHAT'])"]
    with (
        pytest.raises(WorkFailedError, match="it ended with 1: no model"),
        ServerProcess(command, free_ports(1)[0], "/ready", tmp_path / "log", {"WHAT": "model"}),
    ):
        pass


def test_ports_differ() -> None:
    assert len(set(free_ports(3))) == 3
