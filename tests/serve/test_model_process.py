"""The real model process: the engine's answers, one guilty text, a process that is lost, bundles that will not do."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError, NotReadyError, WorkFailedError
from common.tokenization import Encoded
from demo.messages import DEV
from serve.codec import Prediction, open_codec
from serve.engine import Engine
from serve.frames import FrameReader, pack_texts, to_bytes, unpack_texts
from serve.model_process import EngineOptions, LoadedModel, ModelProcess
from tests.conftest import messages

TEXTS = [row["text"] for row in messages(DEV)[:20]]


@asynccontextmanager
async def _process(**options: Any):  # type: ignore[no-untyped-def]
    process = ModelProcess(EngineOptions(**options))
    await process.start()
    try:
        yield process
    finally:
        await process.stop()


def _with_model(bundle: Path, work: Callable[[ModelProcess, LoadedModel], Awaitable[None]], **options: Any) -> None:
    async def go() -> None:
        async with _process(**options) as process:
            await work(process, await process.load(open_codec(bundle)))

    asyncio.run(asyncio.wait_for(go(), 60))


def _encoded(model: LoadedModel, texts: list[str]) -> list[Encoded]:
    return [entry for entry in model.codec.prepare(texts) if isinstance(entry, Encoded)]


@pytest.mark.parametrize("lanes", [1, 2])
def test_it_answers_as_the_engine_does(bundle: Path, lanes: int) -> None:
    if lanes > len(os.sched_getaffinity(0)):
        pytest.skip("this machine has one core")
    wanted = Engine.load(bundle).classify(TEXTS)

    async def work(process: ModelProcess, model: LoadedModel) -> None:
        batches = [_encoded(model, TEXTS[start : start + 5]) for start in range(0, 20, 5)]
        results = await asyncio.gather(*(process.run(model, batch) for batch in batches))
        got = [outcome for result in results for outcome in result.outcomes]
        for own, other in zip(got, wanted, strict=True):
            assert isinstance(own, Prediction)
            assert isinstance(other, Prediction)
            assert (own.label, own.tokens) == (other.label, other.tokens)
            assert np.abs(own.scores - other.scores).max() < 1e-6
        assert all(result.seconds > 0 for result in results)

    _with_model(bundle, work, lanes=lanes)


def test_a_poison_text_fails_alone(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async def work(process: ModelProcess, model: LoadedModel) -> None:
        good = _encoded(model, TEXTS[:2])
        poison = Encoded([10**6] * 3, [0] * 3, truncated=False)  # a token that the model does not have
        first, second, third = (await process.run(model, [good[0], poison, good[1]])).outcomes
        assert isinstance(first, Prediction)
        assert isinstance(third, Prediction)
        assert isinstance(second, WorkFailedError)
        # What went wrong inside is the operator's business, not the caller's.
        assert str(second) == "the model failed on this text"
        assert process.ready

    _with_model(bundle, work)
    assert "the model failed on a text" in capfd.readouterr().err


def test_a_lost_process_costs_its_batches_and_another_takes_its_place(bundle: Path) -> None:
    async def work(process: ModelProcess, model: LoadedModel) -> None:
        batch = _encoded(model, TEXTS[:3])
        before = (await process.run(model, batch)).outcomes
        first = process.pid
        assert first is not None
        # A stopped process keeps what it is given, until it is killed.
        os.kill(first, signal.SIGSTOP)
        held = asyncio.create_task(process.run(model, batch))
        await asyncio.sleep(0.05)
        assert not held.done()
        os.kill(first, signal.SIGKILL)
        with pytest.raises(NotReadyError, match="lost"):
            await held
        assert not process.ready
        with pytest.raises(NotReadyError):
            await process.run(model, batch)
        await process.wait_until_ready()
        assert (process.restarts, process.hopeless) == (1, False)
        assert process.pid != first
        after = (await process.run(model, batch)).outcomes
        assert [one.scores.tolist() for one in after] == [one.scores.tolist() for one in before]  # type: ignore[union-attr]

    _with_model(bundle, work)


def test_it_is_gone_when_the_server_is(bundle: Path) -> None:
    pids: list[int] = []

    async def work(process: ModelProcess, _model: LoadedModel) -> None:
        assert process.pid is not None
        pids.append(process.pid)
        for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(process.pid, ignored)
        assert (await process.run(_model, _encoded(_model, TEXTS[:1]))).outcomes

    _with_model(bundle, work)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_a_bundle_that_was_changed_meanwhile_is_refused(bundle: Path, teacher_bundle: Path) -> None:
    async def go() -> None:
        async with _process() as process:
            codec = open_codec(bundle)
            # As if another bundle had been put in the place of the one whose codec was read.
            object.__setattr__(codec.bundle, "path", teacher_bundle)
            with pytest.raises(InputError, match="was changed while it was loaded"):
                await process.load(codec)
            assert process.ready

    asyncio.run(asyncio.wait_for(go(), 60))


def test_what_cannot_be_opened_is_one_line(bundle: Path) -> None:
    async def go() -> None:
        async with _process(engine="torch") as process:
            with pytest.raises(InputError, match="holds no weights for the torch engine"):
                await process.load(open_codec(bundle))
            assert process.ready

    asyncio.run(asyncio.wait_for(go(), 60))


_heads = st.dictionaries(st.text(max_size=5), st.integers(0, 9) | st.text(max_size=9), max_size=3)


@given(st.lists(st.tuples(_heads, st.binary(max_size=40)), max_size=6), st.integers(1, 17))
def test_messages_arrive_whole_however_they_are_cut(sent: list[tuple[dict[str, Any], bytes]], size: int) -> None:
    stream = b"".join(to_bytes(head, body) for head, body in sent)
    reader = FrameReader()

    def arriving() -> Iterator[tuple[dict[str, Any], bytes]]:
        for start in range(0, len(stream), size):
            yield from reader.feed(stream[start : start + size])

    assert list(arriving()) == sent


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=9), min_size=1, max_size=6))
@settings(deadline=None)
def test_texts_come_back_as_they_were_packed(ids: list[list[int]]) -> None:
    texts = [Encoded(row, [1] * len(row), truncated=False) for row in ids]
    assert unpack_texts(*pack_texts(texts)) == texts
