"""The generator sees the queue that a closed loop hides, and as long as queueing theory says."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.bench.open_loop import offer_over_http, offer_to_engine
from benchmarks.bench.remote import RemoteModel, RemoteSource
from benchmarks.servers.trace import Fate
from common.batching import BatchLimits
from common.errors import WorkFailedError
from common.labels import SINGLE_LABEL, Task
from common.tokenization import Encoded
from serve.engine import Engine
from tests.benchmarks.bench.http_server import http_server

TASK = Task(SINGLE_LABEL, ("no", "yes"))
SERVICE_SECONDS = 0.02
# Of a single worker, busy for half of the time.
RATE = 25.0


def arrivals(count: int, rate: float = RATE) -> np.ndarray:
    return np.cumsum(np.random.default_rng(5).exponential(1 / rate, count))


def sojourns(times: np.ndarray, busy: Sequence[float]) -> np.ndarray:
    """How long each is there where one is served after the other: the recursion of Lindley 1952, eq. 1."""
    served = np.cumsum(busy)
    return np.maximum.accumulate(times - (served - busy)) + served - times


def said(_method: str, _path: str, body: Any) -> tuple[int, Any]:
    scores = [{"label": "yes", "score": 0.75}, {"label": "no", "score": 0.25}]
    return 200, {"outputs": [{"label": "yes", "scores": scores, "truncated": False}] * len(body["inputs"])}


class SlowEngine:
    """Takes as long for each text as it is told, one at a time; `encode` and `run` are the engine's."""

    def __init__(self, seconds: float, items: int = 1):
        self.busy: list[float] = []
        self.batches: list[list[int]] = []
        self.limits = BatchLimits(items=items)
        self.encoder, self.model = self, SimpleNamespace(padding_cost=1.0)
        self._seconds = seconds

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return [Encoded([1] * len(text), [0] * len(text), False) for text in texts]

    def run(self, batch: Sequence[Encoded]) -> None:
        started = time.perf_counter()
        time.sleep(self._seconds)
        if any(text.tokens == 13 for text in batch):
            raise WorkFailedError("not a finite number")
        self.batches.append([text.tokens for text in batch])
        self.busy.append(time.perf_counter() - started)


def engine(slow: SlowEngine) -> Engine:
    return slow  # type: ignore[return-value]


def test_the_queue_before_a_server_is_seen() -> None:
    times = arrivals(60)
    with http_server(said, SERVICE_SECONDS) as server:
        model = RemoteModel("server", RemoteSource(server.url), TASK)
        closed = []
        for _ in range(20):
            started = time.perf_counter()
            model.call(["a"])
            closed.append(time.perf_counter() - started)
        served = len(server.busy)
        trace = offer_over_http(model, ["a", "b"], times)
        busy = server.busy[served:]
        assert [body["inputs"] for *_, body in server.requests[served:]].count(["b"]) == 30
    assert trace.fate.tolist() == [200] * 60
    assert (model.requests, model.errors) == (80, {})
    latency = trace.latency(200)
    # The server's own figures make the reference exact: what is left is the way there and back.
    assert np.median(np.abs(latency - sojourns(times, busy))) < 0.3 * SERVICE_SECONDS
    assert np.percentile(latency, 90) > 1.5 * np.percentile(closed, 90)


def test_the_queue_before_an_engine_is_seen() -> None:
    times = arrivals(60)
    slow = SlowEngine(SERVICE_SECONDS)
    trace = offer_to_engine(engine(slow), ["a"], times)
    assert trace.fate.tolist() == [200] * 60
    assert np.median(np.abs(trace.latency(200) - sojourns(times, slow.busy))) < 0.3 * SERVICE_SECONDS
    assert (trace.sent >= trace.scheduled).all()


def test_latency_counts_from_the_schedule() -> None:
    # The generator itself comes too late for the first, and the time is not forgiven.
    trace = offer_to_engine(engine(SlowEngine(0.0)), ["a"], np.array([-0.5, 0.0]))
    assert trace.latency(200)[0] > 0.5 > trace.latency(200, of_sending=True)[0]
    assert trace.lag(99) > 0.4


def test_what_waits_is_answered_in_batches_of_like_length_and_the_oldest_first() -> None:
    slow = SlowEngine(0.05, items=2)
    texts = ["a" * length for length in (2, 30, 2, 31, 30)]
    trace = offer_to_engine(engine(slow), texts, np.array([0.0, 0.01, 0.011, 0.012, 0.013]))
    assert slow.batches == [[2], [30, 30], [2], [31]]
    assert trace.fate.tolist() == [200] * 5


def test_texts_that_fail_are_counted() -> None:
    trace = offer_to_engine(engine(SlowEngine(0.0)), ["a", "a" * 13], np.zeros(4))
    assert trace.fate.tolist() == [200, 500, 200, 500]


def test_a_fault_of_the_engine_is_not_swallowed() -> None:
    slow = SlowEngine(0.0)
    slow.run = None  # type: ignore[method-assign, assignment]
    before = sys.getswitchinterval()
    with pytest.raises(TypeError):
        offer_to_engine(engine(slow), ["a"], np.zeros(3))
    assert sys.getswitchinterval() == before


def test_an_engine_answers_its_own_texts(student: Any) -> None:
    trace = offer_to_engine(Engine.load(student), ["hello", "hello there, all of you"], np.zeros(40))
    assert trace.fate.tolist() == [200] * 40


def test_what_becomes_of_requests_is_counted_by_kind() -> None:
    answers: dict[str, Any] = {
        "refused": (429, {"error": "full"}),
        "strange": (200, {"outputs": []}),
        "other label": (200, {"outputs": [{"scores": [{"label": "maybe", "score": 1.0}], "truncated": False}]}),
        "gone": None,
    }
    with http_server(lambda *call: answers.get(call[2]["inputs"][0], said(*call))) as server:
        model = RemoteModel("server", RemoteSource(server.url), TASK)
        trace = offer_over_http(model, ["fine", *answers], np.arange(10) / 100)
    assert trace.fate.tolist() == 2 * [200, 429, Fate.WRONG, Fate.WRONG, Fate.BROKEN]
    assert model.errors == {"429": 2, "malformed": 4, "connection": 2}
    assert model.requests == 10
