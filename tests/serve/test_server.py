"""The real server process: start, answer, hang-ups, a clean end, a port in use."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from demo.messages import DEV
from serve.engine import Engine, Prediction
from tests.conftest import messages
from tests.serve_process import ServerProcess, wait_until

TEXTS = [row["text"] for row in messages(DEV)[:40]]


@pytest.fixture
def server(bundle: Path) -> Iterator[ServerProcess]:
    with ServerProcess(bundle) as started:
        yield started


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_signal_ends_it_cleanly(server: ServerProcess, how: signal.Signals) -> None:
    assert httpx.post(f"{server.url}/v1/classify", json={"inputs": ["hello"]}).status_code == 200
    code, out, err = server.stop(how)
    assert (code, err) == (0, "")
    assert "Stopped." in out


def test_a_process_that_served_ends_as_it_would_have(bundle: Path) -> None:
    # What PyTorch's compiler left in a process that trained before it served would complain at the end.
    code = (
        "import gc, sys; from pathlib import Path; from serve.repository import ModelSource; "
        "from serve.server import run_server; from serve.settings import ServiceSettings; "
        "before = gc.get_freeze_count(); "
        "run_server(ServiceSettings((ModelSource(Path(sys.argv[1])),)), host='127.0.0.1', port=0); "
        "print(gc.get_freeze_count() - before)"
    )
    with ServerProcess(bundle, program=("-c", code)) as server:
        status, out, err = server.stop(signal.SIGINT)
    assert (status, err) == (0, "")
    assert int(out.splitlines()[-1]) <= 0


def test_many_callers_at_once_each_get_their_own_answer(server: ServerProcess, bundle: Path) -> None:
    wanted = {}
    for text, answer in zip(TEXTS, Engine.load(bundle).classify(list(TEXTS)), strict=True):
        assert isinstance(answer, Prediction)
        wanted[text] = answer
    wrong: list[str] = []

    def call(texts: list[str]) -> None:
        with httpx.Client(base_url=server.url, timeout=30) as client:
            for text in texts:
                output = client.post("/v1/classify", json={"inputs": [text]}).json()["outputs"][0]
                if output["label"] != wanted[text].label or abs(output["score"] - wanted[text].score) > 1e-6:
                    wrong.append(text)

    threads = [threading.Thread(target=call, args=(TEXTS[start:] + TEXTS[:start],)) for start in range(0, 40, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    counted = httpx.get(f"{server.url}/metrics").text
    assert f'understudy_requests_total{{route="/v1/classify",status="200"}} {8 * 40:.1f}' in counted


def test_a_caller_that_hangs_up_disturbs_nobody(server: ServerProcess) -> None:
    body = b'{"inputs": [' + b",".join([b'"' + b"parcel " * 120 + b'"'] * 200) + b"]}"
    head = f"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head + body)
        time.sleep(0.1)
    wait_until(lambda: "understudy_queue_tokens 0.0" in httpx.get(f"{server.url}/metrics").text)
    assert httpx.post(f"{server.url}/v1/classify", json={"inputs": ["hello"]}).status_code == 200
    code, _, err = server.stop(signal.SIGTERM)
    assert (code, err) == (0, "")


def test_half_a_request_does_not_keep_it_from_answering(server: ServerProcess) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert httpx.post(f"{server.url}/v1/classify", json={"inputs": ["hello"]}).status_code == 200


def test_a_port_in_use_is_one_line(bundle: Path, understudy) -> None:  # type: ignore[no-untyped-def]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = understudy("serve", bundle, "--port", port)
    assert (result.code, result.out) == (2, "")
    assert result.err == f"understudy: port {port} of 127.0.0.1 is in use: choose another with --port\n"


def test_a_bad_bundle_is_one_line(tmp_path: Path, understudy) -> None:  # type: ignore[no-untyped-def]
    result = understudy("serve", tmp_path, "--port", 0)
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "is no bundle" in result.err
