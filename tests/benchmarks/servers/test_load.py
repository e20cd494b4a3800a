"""What wrk prints is read as it stands; wrk itself is run where it is installed."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks.servers.load import find_wrk, parse_wrk, run_wrk, write_bodies
from common.errors import WorkFailedError

ANSWERED = """\
Running 1s test @ http://127.0.0.1:8766/v1/classify
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    15.91ms    6.37ms  50.07ms   90.39%
    Req/Sec     2.06k   336.60     2.56k    70.00%
  2053 requests in 1.00s, 707.72KB read
Requests/sec:   2044.78
Transfer/sec:    704.89KB
result {"requests": 2053, "duration": 1004018, "p50": 13932, "p90": 21222, "p99": 44328, "max": 50067, "connect": 0, \
"read": 0, "write": 0, "timeout": 0, "status": 0}
"""

REFUSED = """\
Running 1s test @ http://127.0.0.1:8765/x
  1 threads and 2 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     7.71ms    2.33ms  12.26ms   70.93%
    Req/Sec   258.60     28.89   320.00     80.00%
  258 requests in 1.00s, 139.83KB read
  Non-2xx or 3xx responses: 258
Requests/sec:    257.62
Transfer/sec:    139.63KB
result {"requests": 258, "duration": 1001469, "p50": 7931, "p90": 11909, "p99": 12127, "max": 12259, "connect": 0, \
"read": 0, "write": 0, "timeout": 0, "status": 258}
"""


def test_answers_are_counted_and_timed() -> None:
    load = parse_wrk(ANSWERED, connections=32)
    assert (load.connections, load.requests, load.refused, load.socket_errors) == (32, 2053, 0, 0)
    assert load.seconds == pytest.approx(1.004018)
    assert (load.p50_ms, load.p90_ms, load.p99_ms, load.max_ms) == (13.932, 21.222, 44.328, 50.067)
    assert load.texts_per_s == pytest.approx(2044.78, abs=0.01)  # as wrk says itself


def test_refused_requests_are_no_throughput() -> None:
    load = parse_wrk(REFUSED, connections=2)
    assert (load.requests, load.refused, load.texts_per_s) == (258, 258, 0)


def test_socket_errors_of_every_kind_are_added() -> None:
    output = REFUSED.replace('"connect": 0', '"connect": 1').replace('"read": 0', '"read": 2')
    output = output.replace('"write": 0', '"write": 3').replace('"timeout": 0', '"timeout": 4')
    assert parse_wrk(output, connections=2).socket_errors == 10


@pytest.mark.parametrize(
    "output",
    ["unable to connect to 127.0.0.1:9 Connection refused\n", "", REFUSED.replace('"requests": 258', '"requests": 0')],
)
def test_a_run_without_answers_is_an_error(output: str) -> None:
    with pytest.raises(WorkFailedError, match="wrk"):
        parse_wrk(output, connections=1)


def test_a_missing_wrk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(WorkFailedError, match="wrk is not installed"):
        find_wrk()


class _Echo(BaseHTTPRequestHandler):
    """Takes down what is posted; refuses the text 'bad'."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str | None, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append((self.path, self.headers["Content-Type"], body))
        self.send_response(422 if json.loads(body) == {"text": "bad"} else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def echo() -> Iterator[ThreadingHTTPServer]:
    _Echo.seen = []
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_wrk_posts_every_body_in_turn(echo: ThreadingHTTPServer, tmp_path: Path) -> None:
    bodies = [{"text": "good"}, {"text": "naïve „quoted“\n\t\\ text 🙂"}, {"text": "bad"}]
    path = write_bodies(bodies, tmp_path / "bodies.jsonl")
    load = run_wrk(f"http://127.0.0.1:{echo.server_port}/classify", path, connections=1, seconds=1)
    seen = [(where, kind, json.loads(body)) for where, kind, body in _Echo.seen]
    assert len(seen) >= load.requests > 3
    # wrk asks the script for a first request that it does not send.
    assert seen[:6] == [("/classify", "application/json", body) for body in 2 * (bodies[1:] + bodies[:1])]
    assert load.refused == pytest.approx(load.requests / 3, abs=1)
    assert load.socket_errors == 0
