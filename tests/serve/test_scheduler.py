"""Admission, order, deadlines and faults of the scheduler, over a model that answers with the text's own tokens."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.batching import BatchLimits
from common.errors import DeadlineError, NotReadyError, OverloadedError, TooLargeError, WorkFailedError
from common.labels import SINGLE_LABEL, Task
from common.tokenization import Encoded
from serve import scheduler as scheduler_module
from serve.codec import Prediction
from serve.model_process import BatchResult
from serve.scheduler import BatchReport, Outcome, Scheduler, SchedulerSettings

TASK = Task(SINGLE_LABEL, ("a", "b"))
MODEL: Any = SimpleNamespace(padding_cost=1.0)


@pytest.fixture(autouse=True, scope="module")
def _quick_clock() -> Iterator[None]:
    """What is late is noticed soon."""
    usual, scheduler_module._CLOCK_SECONDS = scheduler_module._CLOCK_SECONDS, 0.002
    yield
    scheduler_module._CLOCK_SECONDS = usual


def _text(identity: int, length: int = 3) -> Encoded:
    return Encoded([identity] * length, [0] * length, False)


def _run(batch: Sequence[Encoded]) -> list[Outcome]:
    """Each text's own number as its score."""
    scores = [np.array([text.ids[0], 0], np.float32) for text in batch]
    return [
        Prediction(TASK, score, np.zeros(2, np.float32), text.tokens, False)
        for score, text in zip(scores, batch, strict=True)
    ]


class _Runner:
    """Answers at once."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.models: list[Any] = []
        self.up = asyncio.Event()
        self.up.set()

    @property
    def ready(self) -> bool:
        return self.up.is_set()

    async def wait_until_ready(self) -> None:
        await self.up.wait()

    async def run(self, model: Any, batch: Sequence[Encoded]) -> BatchResult:
        self.models.append(model)
        await self.work(batch)
        self.seen += [text.ids[0] for text in batch]
        return BatchResult(_run(batch), 0.001)

    async def work(self, _batch: Sequence[Encoded]) -> None:
        await asyncio.sleep(0)


class _Gate(_Runner):
    """Waits until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()

    async def work(self, _batch: Sequence[Encoded]) -> None:
        await asyncio.wait_for(self.open.wait(), 10)


def _scheduler(  # type: ignore[no-untyped-def]
    runner: _Runner | None = None,
    limits: BatchLimits | None = None,
    reports: list[BatchReport] | None = None,
    **settings,
) -> Scheduler:
    note = reports.append if reports is not None else lambda _report: None
    return Scheduler(runner or _Runner(), limits or BatchLimits(), SchedulerSettings(**settings), note)


async def _submit(scheduler: Scheduler, texts: Sequence[Encoded], model: Any = MODEL) -> list[Outcome]:
    """As one request."""
    with scheduler.admitted(texts):
        return await scheduler.answer(model, texts)


async def _until(condition) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=12), min_size=1, max_size=15),
    st.integers(1, 8),
    st.integers(1, 200),
    st.integers(1, 4),
)
def test_every_answer_belongs_to_its_caller(requests: list[list[int]], items: int, tokens: int, lanes: int) -> None:
    reports: list[BatchReport] = []

    async def go() -> None:
        scheduler = _scheduler(limits=BatchLimits(items, tokens), reports=reports, window=5, lanes=lanes)
        scheduler.start()
        names = iter(range(1000, 10_000))
        texts = [[_text(next(names), length) for length in lengths] for lengths in requests]
        answers = await asyncio.gather(*(_submit(scheduler, request) for request in texts))
        for request, outcomes in zip(texts, answers, strict=True):
            assert [int(outcome.scores[0]) for outcome in outcomes] == [text.ids[0] for text in request]  # type: ignore[union-attr]
        assert (scheduler.waiting_items, scheduler.admitted_tokens) == (0, 0)
        await scheduler.stop()

    asyncio.run(go())
    assert sum(report.items for report in reports) == sum(map(len, requests))
    assert all(report.items == 1 or (report.items <= items and report.padded_tokens <= tokens) for report in reports)


def test_lanes_run_at_once_and_share_what_waits() -> None:
    class Together(_Runner):
        def __init__(self) -> None:
            super().__init__()
            self.sizes: list[int] = []
            self.at_work = 0
            self.most = 0

        async def work(self, batch: Sequence[Encoded]) -> None:
            self.sizes.append(len(batch))
            self.at_work += 1
            self.most = max(self.most, self.at_work)
            await asyncio.sleep(0.001)
            self.at_work -= 1

    async def go() -> None:
        runner = Together()
        scheduler = _scheduler(runner, lanes=3)
        scheduler.start()
        await asyncio.gather(*(_submit(scheduler, [_text(identity)]) for identity in range(1, 41)))
        await scheduler.stop()
        assert (runner.most, sum(runner.sizes)) == (3, 40)
        assert max(runner.sizes) <= 10  # a fourth each: three lanes, and one share on its way

    asyncio.run(go())


def test_stopping_answers_what_every_lane_works_on() -> None:
    async def go() -> None:
        gate = _Gate()
        scheduler = _scheduler(gate, limits=BatchLimits(items=1), lanes=2)
        scheduler.start()
        requests = [asyncio.create_task(_submit(scheduler, [_text(identity)])) for identity in range(1, 6)]
        await asyncio.sleep(0.01)
        stopping = asyncio.create_task(scheduler.stop())
        await asyncio.sleep(0.01)
        gate.open.set()
        await stopping
        outcomes = [(await request)[0] for request in requests]
        assert [int(outcome.scores[0]) for outcome in outcomes] == [1, 2, 3, 4, 5]  # type: ignore[union-attr]

    asyncio.run(go())


def test_a_batch_that_fails_is_told_and_the_work_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(_Runner):
        async def work(self, batch: Sequence[Encoded]) -> None:
            if batch[0].ids[0] == 1:
                raise WorkFailedError("out of memory")
            if batch[0].ids[0] == 2:
                raise ValueError("a secret")

    async def go() -> None:
        scheduler = _scheduler(Broken(), limits=BatchLimits(items=1))
        scheduler.start()
        foreseen, unforeseen, fine = await _submit(scheduler, [_text(1), _text(2), _text(3)])
        assert str(foreseen) == "out of memory"
        # What went wrong inside is the operator's business, not the caller's.
        assert isinstance(unforeseen, WorkFailedError)
        assert "secret" not in str(unforeseen)
        assert isinstance(fine, Prediction)
        assert scheduler.ready
        await scheduler.stop()

    asyncio.run(go())
    assert "a secret" in caplog.text


def test_admission_is_whole_or_not_at_all() -> None:
    async def go() -> None:
        gate = _Gate()
        scheduler = _scheduler(gate, max_queue_tokens=10)
        scheduler.start()
        with pytest.raises(TooLargeError):
            await _submit(scheduler, [_text(1, 6), _text(2, 5)])
        first = asyncio.create_task(_submit(scheduler, [_text(1, 6)]))
        await _until(lambda: scheduler.admitted_tokens == 6)
        with pytest.raises(OverloadedError):
            await _submit(scheduler, [_text(2, 3), _text(3, 3)])
        assert scheduler.admitted_tokens == 6
        second = asyncio.create_task(_submit(scheduler, [_text(4, 4)]))
        gate.open.set()
        await asyncio.gather(first, second)
        assert sorted(gate.seen) == [1, 4]
        assert scheduler.admitted_tokens == 0
        await scheduler.stop()

    asyncio.run(go())


def test_a_deadline_ends_the_wait_and_the_work_is_skipped() -> None:
    async def go() -> None:
        gate = _Gate()
        scheduler = _scheduler(gate, limits=BatchLimits(items=1), timeout=0.05)
        scheduler.start()
        running = asyncio.create_task(_submit(scheduler, [_text(1)]))
        await asyncio.sleep(0.01)
        late = asyncio.create_task(_submit(scheduler, [_text(2)]))
        for task in (running, late):
            with pytest.raises(DeadlineError):
                await task
        assert scheduler.admitted_tokens == 0
        gate.open.set()
        await asyncio.sleep(0.02)
        assert gate.seen == [1]
        await scheduler.stop()

    asyncio.run(go())


def test_a_caller_that_went_away_costs_nothing() -> None:
    async def go() -> None:
        gate = _Gate()
        scheduler = _scheduler(gate, limits=BatchLimits(items=1))
        scheduler.start()
        first = asyncio.create_task(_submit(scheduler, [_text(1)]))
        await asyncio.sleep(0.01)
        gone = asyncio.create_task(_submit(scheduler, [_text(2), _text(3)]))
        stays = asyncio.create_task(_submit(scheduler, [_text(4)]))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.sleep(0.01)
        assert scheduler.admitted_tokens == 6
        gate.open.set()
        await asyncio.gather(first, stays)
        assert gate.seen == [1, 4]
        await scheduler.stop()

    asyncio.run(go())


def test_stopping_answers_what_was_admitted_and_admits_no_more() -> None:
    async def go() -> None:
        gate = _Gate()
        scheduler = _scheduler(gate, limits=BatchLimits(items=1))
        scheduler.start()
        waiting = [asyncio.create_task(_submit(scheduler, [_text(identity)])) for identity in range(1, 5)]
        await asyncio.sleep(0.01)
        stopping = asyncio.create_task(scheduler.stop())
        await asyncio.sleep(0.01)
        assert not scheduler.ready
        with pytest.raises(NotReadyError):
            await _submit(scheduler, [_text(9)])
        gate.open.set()
        await asyncio.gather(*waiting, stopping)
        assert gate.seen == [1, 2, 3, 4]

    asyncio.run(go())


def test_before_the_start_nothing_is_admitted() -> None:
    with pytest.raises(NotReadyError):
        asyncio.run(_submit(_scheduler(), [_text(1)]))


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_lost_worker_costs_what_it_held_and_the_rest_waits_for_the_next(lanes: int) -> None:
    class Lost(_Gate):
        async def work(self, batch: Sequence[Encoded]) -> None:
            await super().work(batch)
            if batch[0].ids[0] <= lanes:
                raise NotReadyError("the worker was lost")

    async def go() -> None:
        runner = Lost()
        scheduler = _scheduler(runner, limits=BatchLimits(items=1), lanes=lanes)
        scheduler.start()
        held = [asyncio.create_task(_submit(scheduler, [_text(identity)])) for identity in range(1, lanes + 1)]
        await asyncio.sleep(0.01)
        waits = asyncio.create_task(_submit(scheduler, [_text(9)]))
        await asyncio.sleep(0)
        runner.up.clear()
        runner.open.set()
        for request in held:
            with pytest.raises(NotReadyError, match="lost"):
                await request
        assert not scheduler.ready
        with pytest.raises(NotReadyError):
            await _submit(scheduler, [_text(8)])
        await asyncio.sleep(0.01)
        assert not waits.done()
        runner.up.set()
        assert isinstance((await waits)[0], Prediction)
        await scheduler.stop()

    asyncio.run(go())


def test_stopping_without_a_worker_tells_whoever_waits() -> None:
    async def go() -> None:
        runner = _Runner()
        scheduler = _scheduler(runner)
        scheduler.start()
        await asyncio.sleep(0)
        runner.up.clear()
        with pytest.raises(NotReadyError):
            await _submit(scheduler, [_text(1)])
        runner.up.set()
        waits = asyncio.create_task(_submit(scheduler, [_text(1)]))
        await asyncio.sleep(0)  # it is admitted, and the worker has not yet seen it
        runner.up.clear()
        await asyncio.sleep(0.01)
        await scheduler.stop()
        with pytest.raises(NotReadyError, match="stopping"):
            await waits

    asyncio.run(go())


def test_what_cannot_be_counted_does_not_stop_the_work() -> None:
    async def go() -> None:
        scheduler = Scheduler(_Runner(), BatchLimits(), SchedulerSettings(), lambda _report: 1 / 0)  # type: ignore[arg-type,return-value]
        scheduler.start()
        for identity in (1, 2):
            assert len(await _submit(scheduler, [_text(identity)])) == 1
        assert scheduler.ready
        await scheduler.stop()

    asyncio.run(go())


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 30)), min_size=1, max_size=40), st.integers(1, 3))
@settings(deadline=None, max_examples=30)
def test_a_batch_is_of_one_model(texts: list[tuple[int, int]], lanes: int) -> None:
    class Pure(_Runner):
        async def run(self, model: Any, batch: Sequence[Encoded]) -> BatchResult:
            assert {text.ids[0] % 3 for text in batch} == {model.number}
            return await super().run(model, batch)

    async def go() -> None:
        scheduler = _scheduler(Pure(), lanes=lanes)
        scheduler.start()
        models = [SimpleNamespace(number=number, padding_cost=number / 2) for number in range(3)]
        requests = [(models[model], _text(3 * row + model, length)) for row, (model, length) in enumerate(texts)]
        answers = await asyncio.gather(*(_submit(scheduler, [text], model) for model, text in requests))
        for (_, text), (outcome,) in zip(requests, answers, strict=True):
            assert isinstance(outcome, Prediction)
            assert int(outcome.scores[0]) == text.ids[0]
        await scheduler.stop()

    asyncio.run(go())


def test_second_opinions_go_first_and_the_background_last() -> None:
    async def go() -> None:
        runner = _Gate()
        scheduler = _scheduler(runner, limits=BatchLimits(items=1))
        scheduler.start()
        tasks = [asyncio.create_task(_submit(scheduler, [_text(1)]))]
        await asyncio.sleep(0.01)
        tasks.append(asyncio.create_task(scheduler.answer_in_background(MODEL, [_text(2), _text(3)])))
        tasks.append(asyncio.create_task(_submit(scheduler, [_text(4)])))
        await asyncio.sleep(0.01)
        tasks.append(asyncio.create_task(scheduler.answer(MODEL, [_text(5), _text(6)], first=True)))
        await asyncio.sleep(0.01)
        runner.open.set()
        await asyncio.gather(*tasks)
        assert runner.seen == [1, 5, 6, 4, 2, 3]
        await scheduler.stop()

    asyncio.run(go())


def test_a_wait_that_is_too_long_is_refused_and_says_how_long() -> None:
    class Slow(_Runner):
        async def work(self, batch: Sequence[Encoded]) -> None:
            await asyncio.sleep(0.01 * len(batch))

    async def go() -> None:
        scheduler = _scheduler(Slow(), limits=BatchLimits(items=1), max_wait=0.5)
        scheduler.start()
        waits = asyncio.create_task(_submit(scheduler, [_text(1, 10)]))  # too few to tell a rate
        await asyncio.sleep(0)
        assert (scheduler.admitted_tokens, scheduler.wait) == (10, 0)
        await waits
        await _submit(scheduler, [_text(1, 200)])  # at most 20,000 tokens a second
        first = asyncio.create_task(_submit(scheduler, [_text(2, 200)] * 300))
        await asyncio.sleep(0)
        assert scheduler.wait >= 3
        with pytest.raises(OverloadedError) as refused:
            scheduler.check_room()
        assert refused.value.retry_after == math.ceil(scheduler.wait)
        first.cancel()
        await asyncio.wait([first])
        scheduler.check_room()
        await scheduler.stop()

    asyncio.run(go())


@given(
    st.lists(st.tuples(st.integers(1, 30), st.sampled_from(["wait", "leave", "late"])), min_size=1, max_size=25),
    st.integers(20, 120),
)
@settings(deadline=None, max_examples=25)
def test_whatever_callers_do_the_queue_ends_empty_and_nobody_waits_in_vain(
    requests: list[tuple[int, str]], room: int
) -> None:
    async def go() -> None:
        runner = _Gate()
        scheduler = _scheduler(runner, limits=BatchLimits(items=2), max_queue_tokens=room)
        scheduler.start()
        loop = asyncio.get_running_loop()

        async def ask(identity: int, length: int, how: str) -> list[Outcome]:
            with scheduler.admitted([_text(identity, length)]):
                deadline = loop.time() + (0.005 if how == "late" else 20)
                return await scheduler.answer(MODEL, [_text(identity, length)], deadline)

        tasks = [asyncio.create_task(ask(row + 1, length, how)) for row, (length, how) in enumerate(requests)]
        await asyncio.sleep(0.02)
        assert scheduler.admitted_tokens <= room
        for task, (_, how) in zip(tasks, requests, strict=True):
            if how == "leave":
                task.cancel()
        await asyncio.sleep(0)
        begun = 2
        runner.open.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        answered = set()
        for row, (result, (length, how)) in enumerate(zip(results, requests, strict=True)):
            if isinstance(result, list):
                assert how == "wait"
                assert isinstance(result[0], Prediction)
                assert int(result[0].scores[0]) == row + 1
                answered.add(row + 1)
            else:
                assert isinstance(
                    result, TooLargeError if length > room else (OverloadedError, DeadlineError, asyncio.CancelledError)
                )
        await scheduler.stop()
        assert (scheduler.admitted_tokens, scheduler.waiting_items) == (0, 0)
        # Of those whose callers left or were late, only what had begun by then was worked on.
        assert len(set(runner.seen) - answered) <= begun

    asyncio.run(go())
