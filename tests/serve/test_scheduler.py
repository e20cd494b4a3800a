"""Admission, order and deadlines of the scheduler."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.batching import BatchLimits
from common.errors import DeadlineError, OverloadedError, TooLargeError
from common.tokenization import Encoded
from serve.codec import Prediction
from serve.model_process import BatchResult
from serve.scheduler import BatchReport, Outcome
from tests.scheduling import MODEL, Gate, Model, Runner, make_scheduler, submit, text_of, until

pytestmark = pytest.mark.usefixtures("quick_clock")


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
        scheduler = make_scheduler(limits=BatchLimits(items, tokens), reports=reports, window=5, lanes=lanes)
        scheduler.start()
        names = iter(range(1000, 10_000))
        texts = [[text_of(next(names), length) for length in lengths] for lengths in requests]
        answers = await asyncio.gather(*(submit(scheduler, request) for request in texts))
        for request, outcomes in zip(texts, answers, strict=True):
            assert [int(outcome.scores[0]) for outcome in outcomes] == [text.ids[0] for text in request]  # type: ignore[union-attr]
        assert (scheduler.waiting_items, scheduler.admitted_tokens) == (0, 0)
        await scheduler.stop()

    asyncio.run(go())
    assert sum(report.items for report in reports) == sum(map(len, requests))
    assert all(report.items == 1 or (report.items <= items and report.padded_tokens <= tokens) for report in reports)


def test_lanes_run_at_once_and_share_what_waits() -> None:
    class Together(Runner):
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
        scheduler = make_scheduler(runner, lanes=3)
        scheduler.start()
        await asyncio.gather(*(submit(scheduler, [text_of(identity)]) for identity in range(1, 41)))
        await scheduler.stop()
        assert (runner.most, sum(runner.sizes)) == (3, 40)
        assert max(runner.sizes) <= 10  # a fourth each: three lanes, and one share on its way

    asyncio.run(go())


def test_admission_is_whole_or_not_at_all() -> None:
    async def go() -> None:
        gate = Gate()
        scheduler = make_scheduler(gate, max_queue_tokens=10)
        scheduler.start()
        with pytest.raises(TooLargeError):
            await submit(scheduler, [text_of(1, 6), text_of(2, 5)])
        first = asyncio.create_task(submit(scheduler, [text_of(1, 6)]))
        await until(lambda: scheduler.admitted_tokens == 6)
        with pytest.raises(OverloadedError):
            await submit(scheduler, [text_of(2, 3), text_of(3, 3)])
        assert scheduler.admitted_tokens == 6
        second = asyncio.create_task(submit(scheduler, [text_of(4, 4)]))
        gate.open.set()
        await asyncio.gather(first, second)
        assert sorted(gate.seen) == [1, 4]
        assert scheduler.admitted_tokens == 0
        await scheduler.stop()

    asyncio.run(go())


def test_a_deadline_ends_the_wait_and_the_work_is_skipped() -> None:
    async def go() -> None:
        gate = Gate()
        scheduler = make_scheduler(gate, limits=BatchLimits(items=1), timeout=0.05)
        scheduler.start()
        running = asyncio.create_task(submit(scheduler, [text_of(1)]))
        await asyncio.sleep(0.01)
        late = asyncio.create_task(submit(scheduler, [text_of(2)]))
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
        gate = Gate()
        scheduler = make_scheduler(gate, limits=BatchLimits(items=1))
        scheduler.start()
        first = asyncio.create_task(submit(scheduler, [text_of(1)]))
        await asyncio.sleep(0.01)
        gone = asyncio.create_task(submit(scheduler, [text_of(2), text_of(3)]))
        stays = asyncio.create_task(submit(scheduler, [text_of(4)]))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.sleep(0.01)
        assert scheduler.admitted_tokens == 6
        gate.open.set()
        await asyncio.gather(first, stays)
        assert gate.seen == [1, 4]
        await scheduler.stop()

    asyncio.run(go())


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 30)), min_size=1, max_size=40), st.integers(1, 3))
@settings(deadline=None, max_examples=30)
def test_a_batch_is_of_one_model(texts: list[tuple[int, int]], lanes: int) -> None:
    class Pure(Runner):
        async def run(self, model: Any, batch: Sequence[Encoded]) -> BatchResult:
            assert {text.ids[0] % 3 for text in batch} == {model.number}
            return await super().run(model, batch)

    async def go() -> None:
        scheduler = make_scheduler(Pure(), lanes=lanes)
        scheduler.start()
        models = [Model(number, padding_cost=number / 2) for number in range(3)]
        requests = [(models[model], text_of(3 * row + model, length)) for row, (model, length) in enumerate(texts)]
        answers = await asyncio.gather(*(submit(scheduler, [text], model) for model, text in requests))
        for (_, text), (outcome,) in zip(requests, answers, strict=True):
            assert isinstance(outcome, Prediction)
            assert int(outcome.scores[0]) == text.ids[0]
        await scheduler.stop()

    asyncio.run(go())


def test_second_opinions_go_first_and_the_background_last() -> None:
    async def go() -> None:
        runner = Gate()
        scheduler = make_scheduler(runner, limits=BatchLimits(items=1))
        scheduler.start()
        tasks = [asyncio.create_task(submit(scheduler, [text_of(1)]))]
        await asyncio.sleep(0.01)
        tasks.append(asyncio.create_task(scheduler.answer_in_background(MODEL, [text_of(2), text_of(3)])))
        tasks.append(asyncio.create_task(submit(scheduler, [text_of(4)])))
        await asyncio.sleep(0.01)
        tasks.append(asyncio.create_task(scheduler.answer(MODEL, [text_of(5), text_of(6)], first=True)))
        await asyncio.sleep(0.01)
        runner.open.set()
        await asyncio.gather(*tasks)
        assert runner.seen == [1, 5, 6, 4, 2, 3]
        await scheduler.stop()

    asyncio.run(go())


def test_a_wait_that_is_too_long_is_refused_and_says_how_long() -> None:
    class Slow(Runner):
        async def work(self, batch: Sequence[Encoded]) -> None:
            await asyncio.sleep(0.01 * len(batch))

    async def go() -> None:
        scheduler = make_scheduler(Slow(), limits=BatchLimits(items=1), max_wait=0.5)
        scheduler.start()
        waits = asyncio.create_task(submit(scheduler, [text_of(1, 10)]))  # too few to tell a rate
        await asyncio.sleep(0)
        assert (scheduler.admitted_tokens, scheduler.wait) == (10, 0)
        await waits
        await submit(scheduler, [text_of(1, 200)])  # at most 20,000 tokens a second
        first = asyncio.create_task(submit(scheduler, [text_of(2, 200)] * 300))
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


def test_a_slow_models_queue_is_refused_by_its_own_speed() -> None:
    fast, slow = Model(1), Model(2)

    class Mixed(Runner):
        async def run(self, model: object, batch: Sequence[Encoded]) -> BatchResult:
            await asyncio.sleep(sum(text.tokens for text in batch) / (100_000 if model is fast else 2_000))
            return await super().run(model, batch)

    async def go() -> None:
        scheduler = make_scheduler(Mixed(), max_wait=0.5, timeout=20)
        scheduler.start()
        for model in (slow, fast, fast, fast):
            await submit(scheduler, [text_of(1, 200)], model)
        waiting = [asyncio.create_task(submit(scheduler, [text_of(2, 200)] * 6, slow))]
        await asyncio.sleep(0)
        assert 0.5 < scheduler.wait < 0.8
        with pytest.raises(OverloadedError):
            scheduler.check_room()
        await asyncio.wait(waiting)
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
        runner = Gate()
        scheduler = make_scheduler(runner, limits=BatchLimits(items=2), max_queue_tokens=room)
        scheduler.start()
        loop = asyncio.get_running_loop()

        async def ask(identity: int, length: int, how: str) -> list[Outcome]:
            with scheduler.admitted(MODEL, [text_of(identity, length)]):
                deadline = loop.time() + (0.005 if how == "late" else 20)
                return await scheduler.answer(MODEL, [text_of(identity, length)], deadline)

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
