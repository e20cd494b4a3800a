"""Warm-up found in series of times that are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from benchmarks.bench import warm_up as module
from benchmarks.bench.contestants import IN_PROCESS
from benchmarks.bench.warm_up import WINDOW, WarmUp, settle, warm_up
from common.errors import WorkFailedError


def series(noise: float, start: float, decay: float, seed: int = 0):
    """Times that fall from `start` to 1 ms, with noise."""
    generator = np.random.default_rng(seed)
    for call in itertools.count():
        yield 1e-3 * (1 + (start - 1) * np.exp(-call / decay)) * generator.normal(1, noise)


def test_a_warm_model_takes_two_windows() -> None:
    assert settle(itertools.repeat(0.001), 10) == WarmUp(2 * WINDOW, settled=True)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("start", "decay"), [(3.0, 30.0), (10.0, 60.0)])
def test_a_falling_series_ends_when_it_is_flat(start: float, decay: float, seed: int) -> None:
    found = settle(series(0.002, start, decay, seed), 100)
    assert found.settled
    # What is left of the fall within a window is what the detector tolerates.
    left = (start - 1) * np.exp(-found.calls / decay)
    assert left * (np.exp(2 * WINDOW / decay) - 1) < 0.2
    assert found.calls > 4 * WINDOW


def test_one_slow_call_is_no_fall() -> None:
    assert settle([1.0] + [0.001] * 50, 10).calls == 2 * WINDOW


def test_a_model_that_gets_ever_faster_is_given_up() -> None:
    found = settle((0.95**call for call in itertools.count()), 5.0)
    assert not found.settled
    assert found.calls < 2 * WINDOW
    assert not settle((0.99**call for call in itertools.count()), 50.0).settled


class _Model:
    id, where = "model", IN_PROCESS

    def __init__(self, where: str, failing: int):
        self.where, self.failing, self.calls = where, failing, 0

    def call(self, _: list[str]) -> None:
        self.calls += 1
        if self.calls <= self.failing:
            raise WorkFailedError("no answer")


def test_a_servers_failure_is_its_own_and_ours_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SECONDS", 1e-9)
    assert warm_up(_Model("http://x", 1), ["a", "b"]).calls == 2  # type: ignore[arg-type]
    with pytest.raises(WorkFailedError, match="no answer"):
        warm_up(_Model(IN_PROCESS, 1), ["a"])  # type: ignore[arg-type]


class _FallingModel:
    """Its calls take longer with longer texts, and fall for two hundred calls."""

    id, where = "model", IN_PROCESS

    def __init__(self) -> None:
        self.calls = 0

    def call(self, texts: list[str]) -> None:
        self.calls += 1
        self.took = len(texts[0]) * (1 + 2 * 0.98**self.calls)


@pytest.mark.parametrize("seed", range(5))
def test_longer_texts_are_no_sign_of_warmth(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, clock = _FallingModel(), itertools.count()
    monkeypatch.setattr(module, "MOST_SECONDS", 1e9)
    monkeypatch.setattr(
        module.time, "perf_counter", lambda: 0.0 if next(clock) % 2 == 0 else getattr(model, "took", 0.0)
    )
    lengths = np.random.default_rng(seed).integers(5, 60, 200)
    assert warm_up(model, ["x" * int(length) for length in lengths]).calls > 100  # type: ignore[arg-type]
