"""Steps are offered, cut and judged; what the targets say is what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pytest

from benchmarks.servers import overload as overloading
from benchmarks.servers.load import Load
from benchmarks.servers.open_loop import KnownQuestion, Limits
from benchmarks.servers.overload import Bench, known_answers, overload
from benchmarks.servers.overload_report import Capacity, Memory, Step, check_targets, table
from benchmarks.servers.trace import Fate, Trace
from common.errors import InputError, WorkFailedError
from serve.engine import Engine, Prediction

LOAD = Load(32, requests=500, seconds=5.0, p50_ms=1, p90_ms=2, p99_ms=3, max_ms=4, refused=0, socket_errors=0)
CAPACITY = Capacity(LOAD, tokens_a_text=10.0, queue_tokens=2000, usual=0.05)


def make_trace(times: np.ndarray, seconds: float, fate: int = 200, took: float = 0.01) -> Trace:
    count = len(times)
    return Trace(
        seconds=seconds,
        scheduled=times,
        sent=times,
        answered=times + took,
        fate=np.full(count, fate, np.int16),
        doubled=np.zeros(count, np.int16),
        retry_after=np.full(count, True),
        opening=np.full(count, False),
        connections=1,
        cpu_seconds=0.1,
    )


def make_step(
    factor: float = 3.0,
    *,
    accepted: float = 1.0,
    refused: float = 0.02,
    recovery: float | None = 0.5,
    peak: int | None = 100,
) -> Step:
    """50 requests accepted and 50 refused, in so many seconds each; then a calm without fault."""
    load = make_trace(np.arange(100) / 100, 1.0)
    load.fate[50:] = 429
    load.answered[:] = load.sent + np.where(load.fate == 200, accepted, refused)
    calm = make_trace(np.arange(20) / 20, 1.0) if factor > 1 else None
    return Step(factor, factor * 100, load, calm, recovery, Memory(90, peak, 95), 1.5)


def verdicts(*steps: Step) -> list[bool | None]:
    return [target["held"] for target in check_targets(steps, CAPACITY)]


def test_the_bound_is_the_full_queues_time_and_a_second() -> None:
    assert (CAPACITY.tokens_per_s, CAPACITY.bound) == (1000, 3.0)


def test_a_good_server_meets_all_targets() -> None:
    assert verdicts(make_step(), make_step(10)) == [True] * 6


@pytest.mark.parametrize(
    ("target", "step"),
    [
        (0, make_step(10, accepted=3.1)),
        (1, make_step(10, refused=0.06)),
        (3, make_step(10, peak=111)),
        (5, make_step(10, recovery=1.2)),
        (5, make_step(10, recovery=None)),
    ],
)
def test_the_worst_step_decides(target: int, step: Step) -> None:
    assert verdicts(make_step(), step) == [index != target for index in range(6)]


def test_every_fault_is_a_missed_target() -> None:
    for fate in (Fate.WRONG, Fate.MISSING, Fate.BROKEN, 504):
        step = make_step(0.5)
        step.load.fate[0] = fate
        assert verdicts(step, make_step(), make_step(10))[4] is False
    step = make_step()
    step.calm.doubled[3] = 1  # type: ignore[union-attr]
    assert verdicts(step)[4] is False
    step = make_step()
    step.load.retry_after[-1] = False
    assert verdicts(step)[2] is False
    step = make_step()
    step.load.fate[:5] = Fate.CROWDED
    assert verdicts(step)[4] is True


def test_what_was_not_measured_is_neither_held_nor_missed() -> None:
    assert verdicts(make_step(0.5)) == [None, None, None, None, True, None]
    assert verdicts(make_step(peak=None), make_step(peak=None))[3] is None


def test_the_table_says_plainly_what_was_missed() -> None:
    steps = [
        make_step(0.5, peak=None),
        make_step(accepted=5.0),
        replace(make_step(10, recovery=None), asked_per_s=5000),
    ]
    shown = table([step.as_dict() for step in steps], CAPACITY.as_dict(), check_targets(steps, CAPACITY))
    assert "MISSED: accepted, p99 in ms from its schedule: 5,000 (at most 3,000)" in shown
    assert "held: refused without Retry-After: 0 (at most 0)" in shown
    assert "MISSED: recovery in s: - (at most 1)" in shown
    assert "2 of 6 targets missed" in shown
    assert "5,000/s were asked for: more than the generator holds" in shown
    assert "no target missed" in table([], CAPACITY.as_dict(), [])


def test_requests_that_were_not_sent_are_noted() -> None:
    step = make_step()
    step.load.fate[:5] = Fate.CROWDED
    step.load.fate[5:7] = Fate.LATE
    shown = table([step.as_dict()], CAPACITY.as_dict(), [])
    assert "5 not sent: no free connection" in shown
    assert "2 not sent: late" in shown
    assert "the generator did not keep to its schedule" in shown
    assert "opened a connection" not in shown


def test_what_the_opening_of_connections_takes_is_set_apart() -> None:
    step = make_step()
    step.load.opening[:60] = True  # all that were accepted, and ten that were refused
    step.load.answered[50:60] += 9.0
    shown = table([step.as_dict()], CAPACITY.as_dict(), [])
    assert "60 requests opened a connection; of the others, from sending: refused p99 20.0 ms" in shown


def test_answers_are_the_engines_for_each_text_alone(bundle: Path) -> None:
    engine = Engine.load(bundle)
    texts = ["Where is my order?", "", "I cannot log in to my account"]
    questions = known_answers(engine, texts)
    assert [question.text for question in questions] == [texts[0], texts[2]]
    for question in questions:
        (answer,) = engine.classify([question.text])
        assert isinstance(answer, Prediction)
        assert (question.label, question.score, question.tokens) == (answer.label, answer.score, answer.tokens)
    assert {question.tolerance for question in questions} == {
        max(1e-5, engine.bundle.manifest.verification.batch_shift)
    }
    with pytest.raises(InputError, match="no text that can be classified"):
        known_answers(engine, [""])


class _Server:
    """A process's figures, one more at each look."""

    url = "http://127.0.0.1:1"

    def __init__(self) -> None:
        self.looks = 0

    def memory_bytes(self) -> int:
        self.looks += 1
        return self.looks

    def cpu_seconds(self) -> float:
        return float(self.looks)


@pytest.fixture
def workers() -> Iterator[ThreadPool]:
    with ThreadPool(1) as pool:
        yield pool


def make_bench(workers: ThreadPool) -> Bench:
    draw = np.random.default_rng(0)
    return Bench(_Server(), workers, [KnownQuestion("a", "b", 1.0, 1)], Limits(), "even", draw)  # type: ignore[arg-type]


def test_an_overload_is_followed_by_calm(workers: ThreadPool, monkeypatch: pytest.MonkeyPatch) -> None:
    offered: list[tuple[int, float]] = []

    def offer(_address: object, _questions: object, times: np.ndarray, seconds: float, *_: object) -> Trace:
        offered.append((len(times), seconds))
        trace = make_trace(times, seconds)
        trace.fate[(times >= 0.5) & (times < 4.3)] = 429
        return trace

    monkeypatch.setattr(overloading, "offer", offer)
    step = make_bench(workers).step(3.0, CAPACITY, seconds=4.0, calm_seconds=2.0)
    assert offered == [(600, 2.0), (1200 + 100, 4.0)]  # a trial of the rate, then the step with half of 100/s behind it
    assert step.calm is not None
    assert (len(step.load.fate), len(step.calm.fate)) == (1200, 100)
    assert step.recovery == pytest.approx(0.3)
    assert step.memory.before is not None
    assert step.memory.peak is not None
    assert step.memory.before < step.memory.peak < (step.memory.after or 0)
    assert step.as_dict()["calm"]["refused"] == 15


def test_a_rate_that_the_generator_does_not_hold_is_lowered(
    workers: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offer(_address: object, _questions: object, times: np.ndarray, seconds: float, *_: object) -> Trace:
        return make_trace(times, seconds, fate=Fate.LATE if len(times) > 700 * seconds else 200)

    monkeypatch.setattr(overloading, "offer", offer)
    step = make_bench(workers).step(10.0, CAPACITY, seconds=1.0, calm_seconds=1.0)
    assert (step.asked_per_s, step.load.offered_per_s, step.load.held) == (1000, 640, True)


def test_a_load_within_the_capacity_is_neither_tried_nor_followed(
    workers: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: list[int] = []

    def offer(_address: object, _questions: object, times: np.ndarray, seconds: float, *_: object) -> Trace:
        offered.append(len(times))
        return make_trace(times, seconds)

    monkeypatch.setattr(overloading, "offer", offer)
    step = make_bench(workers).step(0.9, CAPACITY, seconds=2.0, calm_seconds=2.0)
    assert (offered, step.calm, step.recovery) == ([180], None, None)


def test_without_right_answers_nothing_is_usual(workers: ThreadPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overloading, "offer", lambda _p, _q, times, seconds, *_: make_trace(times, seconds, fate=500))
    with pytest.raises(WorkFailedError, match="no right answer"):
        make_bench(workers).calm(LOAD, 1.0)


@pytest.mark.parametrize("options", [["--max-queue-tokens=500000"], ["--lanes", "1", "--max-queue-tokens", "500000"]])
def test_a_queue_that_the_connections_cannot_fill_is_refused(
    options: list[str], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overloading, "find_wrk", lambda: "wrk")
    with pytest.raises(InputError, match="500,000 tokens holds some"):
        overload(bundle, ["Where is my order?"], Limits(), serve_options=options)
