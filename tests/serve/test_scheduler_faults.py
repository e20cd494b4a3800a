"""What becomes of admitted texts when a batch fails, a worker is lost or the scheduler stops."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from common.batching import BatchLimits
from common.errors import NotReadyError, WorkFailedError
from common.tokenization import Encoded
from serve.codec import Prediction
from serve.scheduler import Scheduler, SchedulerSettings
from tests.scheduling import Gate, Runner, make_scheduler, submit, text_of

pytestmark = pytest.mark.usefixtures("quick_clock")


def test_stopping_answers_what_every_lane_works_on() -> None:
    async def go() -> None:
        gate = Gate()
        scheduler = make_scheduler(gate, limits=BatchLimits(items=1), lanes=2)
        scheduler.start()
        requests = [asyncio.create_task(submit(scheduler, [text_of(identity)])) for identity in range(1, 6)]
        await asyncio.sleep(0.01)
        stopping = asyncio.create_task(scheduler.stop())
        await asyncio.sleep(0.01)
        gate.open.set()
        await stopping
        outcomes = [(await request)[0] for request in requests]
        assert [int(outcome.scores[0]) for outcome in outcomes] == [1, 2, 3, 4, 5]  # type: ignore[union-attr]

    asyncio.run(go())


def test_a_batch_that_fails_is_told_and_the_work_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Runner):
        async def work(self, batch: Sequence[Encoded]) -> None:
            if batch[0].ids[0] == 1:
                raise WorkFailedError("out of memory")
            if batch[0].ids[0] == 2:
                raise ValueError("a secret")

    async def go() -> None:
        scheduler = make_scheduler(Broken(), limits=BatchLimits(items=1))
        scheduler.start()
        foreseen, unforeseen, fine = await submit(scheduler, [text_of(1), text_of(2), text_of(3)])
        assert str(foreseen) == "out of memory"
        # What went wrong inside is the operator's business, not the caller's.
        assert isinstance(unforeseen, WorkFailedError)
        assert "secret" not in str(unforeseen)
        assert isinstance(fine, Prediction)
        assert scheduler.ready
        await scheduler.stop()

    asyncio.run(go())
    assert "a secret" in caplog.text


def test_stopping_answers_what_was_admitted_and_admits_no_more() -> None:
    async def go() -> None:
        gate = Gate()
        scheduler = make_scheduler(gate, limits=BatchLimits(items=1))
        scheduler.start()
        waiting = [asyncio.create_task(submit(scheduler, [text_of(identity)])) for identity in range(1, 5)]
        await asyncio.sleep(0.01)
        stopping = asyncio.create_task(scheduler.stop())
        await asyncio.sleep(0.01)
        assert not scheduler.ready
        with pytest.raises(NotReadyError):
            await submit(scheduler, [text_of(9)])
        gate.open.set()
        await asyncio.gather(*waiting, stopping)
        assert gate.seen == [1, 2, 3, 4]

    asyncio.run(go())


def test_before_the_start_nothing_is_admitted() -> None:
    with pytest.raises(NotReadyError):
        asyncio.run(submit(make_scheduler(), [text_of(1)]))


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_lost_worker_costs_what_it_held_and_the_rest_waits_for_the_next(lanes: int) -> None:
    class Lost(Gate):
        async def work(self, batch: Sequence[Encoded]) -> None:
            await super().work(batch)
            if batch[0].ids[0] <= lanes:
                raise NotReadyError("the worker was lost")

    async def go() -> None:
        runner = Lost()
        scheduler = make_scheduler(runner, limits=BatchLimits(items=1), lanes=lanes)
        scheduler.start()
        held = [asyncio.create_task(submit(scheduler, [text_of(identity)])) for identity in range(1, lanes + 1)]
        await asyncio.sleep(0.01)
        waits = asyncio.create_task(submit(scheduler, [text_of(9)]))
        await asyncio.sleep(0)
        runner.up.clear()
        runner.open.set()
        for request in held:
            with pytest.raises(NotReadyError, match="lost"):
                await request
        assert not scheduler.ready
        with pytest.raises(NotReadyError):
            await submit(scheduler, [text_of(8)])
        await asyncio.sleep(0.01)
        assert not waits.done()
        runner.up.set()
        assert isinstance((await waits)[0], Prediction)
        await scheduler.stop()

    asyncio.run(go())


def test_stopping_without_a_worker_tells_whoever_waits() -> None:
    async def go() -> None:
        runner = Runner()
        scheduler = make_scheduler(runner)
        scheduler.start()
        await asyncio.sleep(0)
        runner.up.clear()
        with pytest.raises(NotReadyError):
            await submit(scheduler, [text_of(1)])
        runner.up.set()
        waits = asyncio.create_task(submit(scheduler, [text_of(1)]))
        await asyncio.sleep(0)  # it is admitted, and the worker has not yet seen it
        runner.up.clear()
        await asyncio.sleep(0.01)
        await scheduler.stop()
        with pytest.raises(NotReadyError, match="stopping"):
            await waits

    asyncio.run(go())


def test_what_cannot_be_counted_does_not_stop_the_work() -> None:
    async def go() -> None:
        scheduler = Scheduler(Runner(), BatchLimits(), SchedulerSettings(), lambda _report: 1 / 0)  # type: ignore[arg-type,return-value]
        scheduler.start()
        for identity in (1, 2):
            assert len(await submit(scheduler, [text_of(identity)])) == 1
        assert scheduler.ready
        await scheduler.stop()

    asyncio.run(go())
