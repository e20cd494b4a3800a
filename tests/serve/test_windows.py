"""Windows of texts through an engine's lanes: what `Engine.stream` and `score` stand on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.batching import BatchLimits
from common.errors import TextError, WorkFailedError
from demo.messages import DEV
from serve import engine as engine_module
from serve.engine import Engine, Prediction
from serve.windows import classify_windows
from tests.conftest import messages

TEXTS = [row["text"] for row in messages(DEV)[:60]]
ENTRIES = st.sampled_from([*TEXTS, "", None, 7, ("a", "b"), "x" * 100_001])


@pytest.fixture(scope="module")
def engine(student_bundle: Path) -> Engine:
    return Engine.load(student_bundle, threads=2, lanes=2, steady=True, limits=BatchLimits(items=4, tokens=200))


@settings(deadline=None, max_examples=30)
@given(windows=st.lists(st.lists(ENTRIES, max_size=12), max_size=6))
def test_each_window_gets_what_classify_gives_it(engine: Engine, windows: list[list[Any]]) -> None:
    seen: list[tuple[int, int]] = []
    results = list(classify_windows(engine, enumerate(windows), on_batch=lambda *batch: seen.append(batch)))
    assert [key for key, _ in results] == list(range(len(windows)))
    answered = []
    for (_, answers), texts in zip(results, windows, strict=True):
        for answer, wanted in zip(answers, engine.classify(texts), strict=True):
            if isinstance(wanted, Prediction):
                assert isinstance(answer, Prediction)
                np.testing.assert_array_equal(answer.logits, wanted.logits)
                answered.append(answer)
            else:
                assert str(answer) == str(wanted)
    assert sum(texts for texts, _ in seen) == len(answered)
    assert sum(tokens for _, tokens in seen) == sum(answer.tokens for answer in answered)


def test_a_stream_is_answered_while_it_is_read(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "READ_AHEAD", 5)
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        for text in TEXTS:
            read += 1
            yield text

    answers = engine.stream(texts())
    for place, wanted in enumerate(engine.classify(TEXTS)):
        answer = next(answers)
        assert isinstance(answer, Prediction)
        assert isinstance(wanted, Prediction)
        assert answer.label == wanted.label
        np.testing.assert_allclose(answer.scores, wanted.scores, atol=1e-6)
        assert read <= min((place // 5 + 2) * 5, len(TEXTS))
    assert next(answers, None) is None


def test_a_stream_may_be_left(engine: Engine) -> None:
    before = threading.active_count()
    answers = engine.stream(iter(TEXTS))
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert list(engine.stream([])) == []


def test_a_long_text_is_cut_or_an_error(engine: Engine) -> None:
    long = "parcel " * 300
    (cut,) = engine.stream([long])
    assert isinstance(cut, Prediction)
    assert cut.truncated
    (refused,) = engine.stream([long], truncate=False)
    assert isinstance(refused, TextError)


def test_an_output_that_is_no_number_is_that_rows_error(student_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine.load(student_bundle)
    run = engine.model.run

    def spoilt(batch: Any) -> Any:
        logits = run(batch)
        logits[[text.ids for text in batch].index(bad.ids)] = np.nan
        return logits

    (bad,) = engine.prepare([TEXTS[1]])
    monkeypatch.setattr(engine.model, "run", spoilt)
    answers = list(engine.stream(TEXTS[:3]))
    assert [isinstance(answer, Prediction) for answer in answers] == [True, False, True]
    assert isinstance(answers[1], WorkFailedError)


def test_a_text_on_which_the_model_fails_is_an_error_in_its_place(
    student_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine.load(student_bundle)
    run = engine.model.run
    (bad,) = engine.prepare([TEXTS[1]])

    def failing(batch: Any) -> Any:
        if any(text.ids == bad.ids for text in batch):
            raise RuntimeError("[ONNXRuntimeError] : no such shape")
        return run(batch)

    monkeypatch.setattr(engine.model, "run", failing)
    answers = list(engine.stream(TEXTS[:3]))
    assert [isinstance(answer, Prediction) for answer in answers] == [True, False, True]
    assert str(answers[1]) == "the model failed on this text: [ONNXRuntimeError] : no such shape"
    with pytest.raises(WorkFailedError, match="as on all 3 of its batch"):
        list(engine.stream([TEXTS[1]] * 3))


def test_equal_batches_have_equal_bits_whatever_runs_beside_them(student_bundle: Path) -> None:
    steady = Engine.load(student_bundle, threads=2, lanes=2, steady=True)
    alone = [steady.classify([text])[0] for text in TEXTS]
    together = [answers[0] for _, answers in classify_windows(steady, ((None, [text]) for text in TEXTS))]
    for one, other in zip(alone, together, strict=True):
        assert isinstance(one, Prediction)
        assert isinstance(other, Prediction)
        np.testing.assert_array_equal(one.logits, other.logits)
