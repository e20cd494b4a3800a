"""The short way to the endpoints gives what the framework's way gives, and calls off what nobody waits for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from common.tokenization import Encoded
from serve import requests as requests_module
from serve.codec import Codec
from serve.model_process import BatchResult, EngineOptions, LoadedModel
from serve.service import Service
from tests.conftest import INTENTS
from tests.serve_app import app_of

TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["Where is my parcel?"]}
REQUESTS: list[tuple[str, Any]] = [
    ("/v1/classify", {"inputs": ["Where is my parcel?", "", 7], "top_k": 2}),
    ("/v1/classify", {"inputs": []}),
    ("/v1/classify", {"texts": ["a"]}),
    ("/predict", {"inputs": "Where is my parcel?"}),
    ("/predict", {"inputs": [["a", "b"], ["c", 3]]}),
    ("/v2/models/bundle/infer", {"id": "1", "inputs": [TENSOR]}),
    ("/v2/models/bundle/infer", {"inputs": [{**TENSOR, "datatype": "FP32"}]}),
    ("/v2/models/other/infer", {"inputs": [TENSOR]}),
]


@pytest.fixture(scope="module")
def direct(bundle: Path) -> Iterator[TestClient]:
    with TestClient(app_of(bundle)) as client:
        yield client


@pytest.fixture(scope="module")
def usual(bundle: Path) -> Iterator[TestClient]:
    """Without the short way."""
    with TestClient(app_of(bundle, direct=False)) as client:
        yield client


@pytest.mark.parametrize(("path", "body"), REQUESTS)
def test_both_ways_answer_alike(path: str, body: Any, direct: TestClient, usual: TestClient) -> None:
    same = {"X-Request-ID": "same"}
    ours, theirs = direct.post(path, json=body, headers=same), usual.post(path, json=body, headers=same)
    assert (ours.status_code, ours.headers) == (theirs.status_code, theirs.headers)
    assert ours.json() == theirs.json()


def test_a_body_that_is_no_json_and_a_route_that_is_none(direct: TestClient, usual: TestClient) -> None:
    for client in (direct, usual):
        assert client.post("/v1/classify", content=b"{").status_code == 400
        assert client.get("/v1/classify").status_code == 405
        assert client.post("/v1/classify/", follow_redirects=False).status_code == 307


def test_requests_are_counted_by_route(bundle: Path) -> None:
    with TestClient(app_of(bundle)) as client:
        for path, body in REQUESTS:
            client.post(path, json=body)
        shown = client.get("/metrics").text
    assert 'understudy_requests_total{route="/v1/classify",status="200"} 1.0' in shown
    assert 'understudy_requests_total{route="/v1/classify",status="422"} 2.0' in shown
    assert 'understudy_requests_total{route="/v2/models/{name}/infer",status="200"} 1.0' in shown


def test_what_nobody_foresaw_is_one_clear_500(
    direct: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Codec, "prepare", lambda *_, **__: 1 / 0)
    answer = direct.post("/v1/classify", json={"inputs": ["a"]})
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "internal error; the server's log has it"
    assert "ZeroDivisionError" in caplog.text


class _SlowModel:
    """Takes the model's place, waits until it may answer, and remembers what it was asked."""

    def __init__(self, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_answer = asyncio.Event()
        self.batches: list[int] = []
        monkeypatch.setattr(service.process, "run", self._run)

    async def _run(self, model: LoadedModel, batch: Sequence[Encoded]) -> BatchResult:
        self.batches.append(len(batch))
        await asyncio.wait_for(self.may_answer.wait(), 20)
        outcomes = model.codec.predictions(batch, np.zeros((len(batch), len(INTENTS)), np.float32))
        return BatchResult(list(outcomes), 0.0)


def _asking(app: FastAPI, hang_up: asyncio.Event) -> tuple[Callable[[], Any], list[Any]]:
    """A coroutine function that sends one request over ASGI, hanging up when told, and what it was sent."""
    sent: list[Any] = []
    body = json.dumps({"inputs": ["Where is my parcel?"]}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await hang_up.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/classify", "headers": [], "query_string": b"",
             "http_version": "1.1", "scheme": "http", "root_path": "", "asgi": {"version": "3.0"}}  # fmt: skip
    return lambda: app(dict(scope), receive, send), sent


def test_a_caller_that_hangs_up_costs_no_batch(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests_module, "_WATCH_AFTER_SECONDS", 0.01)

    async def scenario() -> None:
        app = app_of(bundle, engine=EngineOptions(lanes=1))
        service = app.state.service
        await service.start()
        model = _SlowModel(service, monkeypatch)
        gone, stays = asyncio.Event(), asyncio.Event()
        first, first_sent = _asking(app, stays)
        second, second_sent = _asking(app, gone)
        tasks = [asyncio.create_task(first())]
        while not model.batches:
            await asyncio.sleep(0.01)
        tasks.append(asyncio.create_task(second()))
        while service.scheduler.waiting_items < 1:
            await asyncio.sleep(0.01)
        gone.set()
        await asyncio.wait_for(tasks[1], 5)  # at once, though the model is still at work
        assert second_sent[0]["status"] == 499
        assert service.scheduler.waiting_items == 0
        model.may_answer.set()
        await asyncio.wait_for(tasks[0], 5)
        assert first_sent[0]["status"] == 200
        await service.stop()
        assert model.batches == [1]
        assert service.scheduler.admitted_tokens == 0

    asyncio.run(scenario())


def test_a_cancelled_server_is_no_hung_up_caller(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests_module, "_WATCH_AFTER_SECONDS", 0.01)

    async def scenario() -> None:
        app = app_of(bundle, engine=EngineOptions(lanes=1))
        await app.state.service.start()
        model = _SlowModel(app.state.service, monkeypatch)
        ask, sent = _asking(app, asyncio.Event())
        task = asyncio.create_task(ask())
        while not model.batches:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
        assert sent[0]["status"] == 503  # the server is stopping
        model.may_answer.set()
        await app.state.service.stop()

    asyncio.run(scenario())
