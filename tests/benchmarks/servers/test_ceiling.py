"""The ceiling is the engine's own work: the same answers, however many sessions share it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.servers.ceiling import Ceiling, EnginePool, Setting
from common.errors import TextError, WorkFailedError
from serve.engine import Engine, Prediction

TEXTS = [f"{'please ' * (row % 7)}cancel order number {row}" for row in range(90)]


@pytest.mark.parametrize("sessions", [1, 2])
def test_a_pool_gives_the_engines_answers_in_order(sessions: int, bundle: Path) -> None:
    expected = Engine.load(bundle).classify(TEXTS)
    pool = EnginePool(bundle, sessions, threads=1)
    answers = pool.run(pool.tokenize(TEXTS), batch=8)
    assert len(answers) == len(TEXTS)
    for answer, wanted in zip(answers, expected, strict=True):
        assert isinstance(wanted, Prediction)
        np.testing.assert_allclose(answer.logits, wanted.logits, atol=1e-5)


def test_a_text_that_cannot_be_classified_ends_the_measurement(bundle: Path) -> None:
    with pytest.raises(TextError, match="empty text"):
        EnginePool(bundle, sessions=2, threads=1).tokenize(["good", ""])


def test_every_setting_is_measured_in_every_round(bundle: Path) -> None:
    ceiling = Ceiling([EnginePool(bundle, 1, 1), EnginePool(bundle, 2, 1)])
    with pytest.raises(WorkFailedError, match="not measured"):
        ceiling.best(tokenizing=False)
    for _ in range(2):
        ceiling.measure(TEXTS[:20], batch_sizes=(4, 8))
    assert set(ceiling.throughput) == {
        Setting(sessions, 1, batch, tokenizing)
        for sessions in (1, 2)
        for batch in (4, 8)
        for tokenizing in (False, True)
    }
    assert all(len(rounds) == 2 for rounds in ceiling.throughput.values())
    assert ceiling.cpu_ms.keys() == ceiling.throughput.keys()
    assert len(ceiling.call_ms) == 2


def test_the_best_setting_has_the_highest_median() -> None:
    slow, fast, lucky = Setting(1, 2, 8, False), Setting(2, 1, 16, False), Setting(1, 2, 32, False)
    tokenizing = Setting(1, 2, 8, True)
    throughput = {slow: [100.0, 90, 80], fast: [100.0, 110, 120], lucky: [500.0, 50, 60], tokenizing: [95.0, 95, 95]}
    cpu_ms = {setting: [1.0, 3.0, 2.0] for setting in throughput}
    figures = Ceiling([], throughput, cpu_ms, call_ms=[2.0, 1.0, 4.0]).as_dict()
    assert figures["best"] == {
        **{"sessions": 2, "threads": 1, "batch": 16, "tokenizing": False},
        **{"texts_per_s": 110, "cpu_ms": 2, "by_round": [100, 110, 120]},
    }
    assert figures["best_with_tokenizing"]["texts_per_s"] == 95
    assert figures["one_text_ms"] == 2
    assert len(figures["settings"]) == 4
