"""Admission, order, deadlines and faults of the scheduler, over a model that answers with the text's own tokens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.batching import BatchLimits
from common.errors import DeadlineError, NotReadyError, OverloadedError, TooLargeError, WorkFailedError
from common.labels import SINGLE_LABEL, Task
from common.tokenization import Encoded
from serve.engine import Prediction
from serve.scheduler import RUN_TOKENS, BatchReport, Scheduler, SchedulerSettings, choose_batch

TASK = Task(SINGLE_LABEL, ("a", "b"))
POISON = 666


def _text(identity: int, length: int = 3) -> Encoded:
    return Encoded([identity] * length, [0] * length, False)


def _run(batch: Sequence[Encoded]) -> list[Prediction]:
    if any(text.ids[0] == POISON for text in batch):
        raise ValueError("poison")
    return [
        Prediction(TASK, np.array([text.ids[0], 0], np.float32), np.zeros(2, np.float32), text.tokens, False)
        for text in batch
    ]


class _Gate:
    """A model that waits until it is let go."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.seen: list[int] = []

    def __call__(self, batch: Sequence[Encoded]) -> list[Prediction]:
        self.open.wait(10)
        self.seen += [text.ids[0] for text in batch]
        return _run(batch)


def _scheduler(run=_run, limits: BatchLimits | None = None, reports: list[BatchReport] | None = None, **settings):  # type: ignore[no-untyped-def]
    note = reports.append if reports is not None else lambda _report: None
    return Scheduler(run, limits or BatchLimits(), SchedulerSettings(**settings), note)


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
        answers = await asyncio.gather(*(scheduler.submit(request) for request in texts))
        for request, outcomes in zip(texts, answers, strict=True):
            assert [int(outcome.scores[0]) for outcome in outcomes] == [text.ids[0] for text in request]  # type: ignore[union-attr]
        assert (scheduler.waiting_items, scheduler.admitted_tokens) == (0, 0)
        await scheduler.stop()

    asyncio.run(go())
    assert sum(report.items for report in reports) == sum(map(len, requests))
    assert all(report.items == 1 or (report.items <= items and report.padded_tokens <= tokens) for report in reports)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60).map(sorted), st.data())
def test_a_batch_holds_the_anchor_within_the_limits(lengths: list[int], data: st.DataObject) -> None:
    anchor = data.draw(st.integers(0, len(lengths) - 1))
    limits = BatchLimits(data.draw(st.integers(1, 40)), data.draw(st.integers(1, 2000)))
    chosen = choose_batch(lengths, anchor, limits)
    assert anchor in chosen
    assert len(chosen) == 1 or (len(chosen) <= limits.items and len(chosen) * lengths[chosen[-1]] <= limits.tokens)
    # Each text but the anchor causes less padding than a run of its own would cost.
    padding = sum(lengths[chosen[-1]] - lengths[place] for place in chosen)
    assert padding <= RUN_TOKENS * (len(chosen) - 1)


def test_texts_of_like_length_go_together() -> None:
    assert choose_batch([4, 5, 5, 5, 60], 2, BatchLimits()) == range(0, 4)
    assert choose_batch([4, 5, 5, 5, 60], 4, BatchLimits()) == range(4, 5)


def test_lanes_run_at_once_and_share_what_waits() -> None:
    async def go() -> None:
        gate, seen = threading.Barrier(3), []

        def run(batch: Sequence[Encoded]) -> list[Prediction]:
            seen.append(len(batch))
            if len(seen) <= 3:
                gate.wait(10)  # passes only if three batches are under way
            return _run(batch)

        scheduler = _scheduler(run, lanes=3)
        scheduler.start()
        await asyncio.gather(*(scheduler.submit([_text(identity)]) for identity in range(1, 41)))
        await scheduler.stop()
        assert sum(seen) == 40
        assert max(seen) <= 10  # a fourth each: three lanes, and one share on its way

    asyncio.run(go())


def test_stopping_answers_what_every_lane_works_on() -> None:
    async def go() -> None:
        gate = _Gate()
        scheduler = _scheduler(gate, limits=BatchLimits(items=1), lanes=2)
        scheduler.start()
        requests = [asyncio.create_task(scheduler.submit([_text(identity)])) for identity in range(1, 6)]
        await asyncio.sleep(0.01)
        stopping = asyncio.create_task(scheduler.stop())
        await asyncio.sleep(0.01)
        gate.open.set()
        await stopping
        outcomes = [(await request)[0] for request in requests]
        assert [int(outcome.scores[0]) for outcome in outcomes] == [1, 2, 3, 4, 5]  # type: ignore[union-attr]

    asyncio.run(go())


def test_a_poison_text_fails_alone() -> None:
    async def go() -> None:
        scheduler = _scheduler()
        scheduler.start()
        outcomes = await scheduler.submit([_text(1), _text(POISON), _text(2)])
        assert isinstance(outcomes[1], WorkFailedError)
        assert [int(outcomes[index].scores[0]) for index in (0, 2)] == [1, 2]  # type: ignore[union-attr]
        assert scheduler.ready
        await scheduler.stop()

    asyncio.run(go())


def test_admission_is_whole_or_not_at_all() -> None:
    async def go() -> None:
        gate = _Gate()
        scheduler = _scheduler(gate, max_queue_tokens=10)
        scheduler.start()
        with pytest.raises(TooLargeError):
            await scheduler.submit([_text(1, 6), _text(2, 5)])
        first = asyncio.create_task(scheduler.submit([_text(1, 6)]))
        await _until(lambda: scheduler.admitted_tokens == 6)
        with pytest.raises(OverloadedError):
            await scheduler.submit([_text(2, 3), _text(3, 3)])
        assert scheduler.admitted_tokens == 6
        second = asyncio.create_task(scheduler.submit([_text(4, 4)]))
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
        running = asyncio.create_task(scheduler.submit([_text(1)]))
        await asyncio.sleep(0.01)
        late = asyncio.create_task(scheduler.submit([_text(2)]))
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
        first = asyncio.create_task(scheduler.submit([_text(1)]))
        await asyncio.sleep(0.01)
        gone = asyncio.create_task(scheduler.submit([_text(2), _text(3)]))
        stays = asyncio.create_task(scheduler.submit([_text(4)]))
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
        waiting = [asyncio.create_task(scheduler.submit([_text(identity)])) for identity in range(1, 5)]
        await asyncio.sleep(0.01)
        stopping = asyncio.create_task(scheduler.stop())
        await asyncio.sleep(0.01)
        assert not scheduler.ready
        with pytest.raises(NotReadyError):
            await scheduler.submit([_text(9)])
        gate.open.set()
        await asyncio.gather(*waiting, stopping)
        assert gate.seen == [1, 2, 3, 4]

    asyncio.run(go())


def test_before_the_start_nothing_is_admitted() -> None:
    with pytest.raises(NotReadyError):
        asyncio.run(_scheduler().submit([_text(1)]))


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_lost_worker_is_told_to_everyone_who_waits(lanes: int) -> None:
    async def go() -> None:
        gate = _Gate()
        scheduler = _scheduler(gate, limits=BatchLimits(items=1), lanes=lanes)
        scheduler.start()
        requests = [asyncio.create_task(scheduler.submit([_text(identity)])) for identity in range(1, lanes + 2)]
        await asyncio.sleep(0.01)
        scheduler._workers[0].cancel()
        for request in requests:
            with pytest.raises(NotReadyError, match="lost"):
                await request
        assert (scheduler.ready, scheduler.lost) == (False, True)
        with pytest.raises(NotReadyError):
            await scheduler.submit([_text(3)])
        gate.open.set()
        await scheduler.stop()

    asyncio.run(go())


def test_what_cannot_be_counted_does_not_stop_the_work() -> None:
    async def go() -> None:
        scheduler = Scheduler(_run, BatchLimits(), SchedulerSettings(), lambda _report: 1 / 0)  # type: ignore[arg-type,return-value]
        scheduler.start()
        for identity in (1, 2):
            assert len(await scheduler.submit([_text(identity)])) == 1
        assert scheduler.ready
        await scheduler.stop()

    asyncio.run(go())


def test_what_went_wrong_inside_stays_inside(caplog: pytest.LogCaptureFixture) -> None:
    async def go() -> None:
        scheduler = _scheduler()
        scheduler.start()
        (outcome,) = await scheduler.submit([_text(POISON)])
        assert str(outcome) == "the model failed on this text"
        await scheduler.stop()

    asyncio.run(go())
    assert "poison" in caplog.text
