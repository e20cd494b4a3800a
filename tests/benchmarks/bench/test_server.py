"""The search finds the rate that a model of a server holds, and says what kept it from finding one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench import server
from benchmarks.bench.rate_search import PRECISION, STEPS_DOWN, Search, Trial
from benchmarks.bench.report.schema import Server
from benchmarks.bench.server import Arrivals, measure_server
from benchmarks.servers.trace import Fate, Trace
from tests.benchmarks.bench.test_open_loop import sojourns

BOUND = 0.05
# Seconds a text, one after the other.
SERVICE = {"teacher": 0.02, "student": 0.01}


def trace(times: np.ndarray, took: Any, lag: float = 0.0, fate: int = 200) -> Trace:
    none = np.zeros(len(times), np.int16)
    return Trace(
        seconds=1.0,
        scheduled=times,
        sent=times + lag,
        answered=times + took,
        fate=np.full(len(times), fate, np.int16),
        doubled=none,
        retry_after=none.astype(bool),
        opening=none.astype(bool),
        connections=0,
        cpu_seconds=0.0,
    )


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, float]]:
    """Trials of servers with one worker and a fixed time of service; who was tried when at what rate."""
    tried: list[tuple[str, int, float]] = []

    def attempt(contestant: Any, arrivals: Arrivals, rate: float, bound: float, number: int) -> Trial:
        tried.append((contestant.id, number, rate))
        times = arrivals.at(rate)
        return Trial(rate, number, trace(times, sojourns(times, [SERVICE[contestant.id]] * len(times))), bound)

    monkeypatch.setattr(server, "_try", attempt)
    monkeypatch.setattr(server, "_closed_loop_rate", lambda contestant, _texts: 1 / SERVICE[contestant.id])
    return tried


def contestants(*ids: str) -> list[Any]:
    return [SimpleNamespace(id=id) for id in ids]


def measure(*ids: str, rounds: int = 6, bound_ms: float = 1e3 * BOUND, seconds: float = 2000.0) -> dict[str, Any]:
    result = measure_server(contestants(*ids), ["a", "b"], bound_ms=bound_ms, rounds=rounds, seconds=seconds, seed=0)
    Server.model_validate(result)
    return result["models"]


def highest_rate(service: float) -> float:
    """Of an M/D/1 queue whose p99 is `BOUND`, found by simulating 100,000 arrivals at each rate."""
    low, high = 1.0, 1 / service
    while high > 1.01 * low:
        rate = (low * high) ** 0.5
        times = np.cumsum(np.random.default_rng(2).exponential(1 / rate, 100_000))
        held = np.percentile(sojourns(times, [service] * len(times)), 99) <= BOUND
        low, high = (rate, high) if held else (low, rate)
    return low


@pytest.mark.usefixtures("simulated")
def test_the_rate_found_is_that_of_the_theory() -> None:
    models = measure("teacher", "student")
    for id, service in SERVICE.items():
        rate = models[id]["max_rate"]
        assert rate["value"] == pytest.approx(highest_rate(service), rel=0.1)
        assert rate["low"] <= rate["value"] <= rate["high"]
        assert models[id]["reason"] is None
    assert models["teacher"]["ratio"] is None
    # Twice as fast, and with the same bound more than twice the rate.
    assert models["student"]["ratio"]["value"] > 2.1


@pytest.mark.parametrize("disturbed", [0, 4])
def test_a_round_in_which_something_else_took_the_machine_does_not_decide(
    disturbed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attempt(contestant: Any, arrivals: Arrivals, rate: float, bound: float, number: int) -> Trial:
        times = arrivals.at(rate)
        service = SERVICE[contestant.id] * (5 if number == disturbed else 1)
        return Trial(rate, number, trace(times, sojourns(times, [service] * len(times))), bound)

    monkeypatch.setattr(server, "_try", attempt)
    monkeypatch.setattr(server, "_closed_loop_rate", lambda contestant, _texts: 1 / SERVICE[contestant.id])
    models = measure("teacher", "student")
    for id, service in SERVICE.items():
        assert models[id]["max_rate"]["value"] == pytest.approx(highest_rate(service), rel=0.15)


def test_models_take_turns_with_the_same_arrivals(simulated: list[Any]) -> None:
    measure("teacher", "student", rounds=2)
    by_model = {id: [entry for entry in simulated if entry[0] == id] for id in SERVICE}
    for before, after in zip(by_model["teacher"][:3], by_model["student"][:3], strict=True):
        assert abs(simulated.index(before) - simulated.index(after)) == 1
    # Who is first changes from one step to the next.
    assert [entry[0] for entry in simulated[:4]] == ["teacher", "student", "student", "teacher"]


def test_the_points_are_all_trials_by_rate(simulated: list[Any]) -> None:
    points = measure("teacher", rounds=3)["teacher"]["points"]
    assert len(points) == len(simulated)
    assert [point["rate"] for point in points] == sorted(point["rate"] for point in points)
    assert {point["round"] for point in points} == {0, 1, 2}
    for point in points:
        assert point["held"] == (point["p99_ms"] <= 1e3 * BOUND)
        assert point["valid"]


@pytest.mark.usefixtures("simulated")
def test_a_bound_below_a_lone_texts_time_gives_a_reason() -> None:
    model = measure("teacher", bound_ms=10, rounds=1)["teacher"]
    assert model["max_rate"] is None
    assert model["reason"].startswith("even at ")
    assert model["reason"].endswith("over the bound of 10 ms")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fate": 429}, r"even at .* texts/s 100 of 100 texts had no answer"),
        ({"lag": 0.02}, "the generator could not keep its schedule"),
    ],
)
def test_other_reasons(change: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt(_contestant: Any, arrivals: Arrivals, rate: float, bound: float, number: int) -> Trial:
        return Trial(rate, number, trace(arrivals.at(50.0)[:100], 0.021, **change), bound)

    monkeypatch.setattr(server, "_try", attempt)
    monkeypatch.setattr(server, "_closed_loop_rate", lambda *_: 50.0)
    model = measure("teacher", rounds=1)["teacher"]
    assert model["max_rate"] is None
    assert re.search(reason, model["reason"])


def test_a_rate_that_the_generator_limits_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def attempt(_contestant: Any, arrivals: Arrivals, rate: float, bound: float, number: int) -> Trial:
        tried.append(rate)
        return Trial(rate, number, trace(arrivals.at(rate), 0.03, lag=0.02 if rate > 100 else 0.0), bound)

    monkeypatch.setattr(server, "_try", attempt)
    monkeypatch.setattr(server, "_closed_loop_rate", lambda *_: 100.0)
    model = measure("teacher", rounds=1)["teacher"]
    assert 100 / (1 + PRECISION) / 1.01 <= model["max_rate"]["value"] <= 100
    assert "may be higher: in 1 of 1 rounds" in model["reason"]
    # What failed for the generator's sake was tried again.
    assert max(tried.count(rate) for rate in tried) == 3


def test_a_trial_holds_only_if_all_is_well() -> None:
    times = np.arange(200) / 100
    assert Trial(100.0, 0, trace(times, 0.049), BOUND).held
    assert not Trial(100.0, 0, trace(times, 0.051), BOUND).held
    assert not Trial(100.0, 0, trace(times, 0.03, lag=0.011), BOUND).held
    # Late, but by little of what the model took itself.
    late = Trial(100.0, 0, trace(times, 0.5, lag=0.011), BOUND)
    assert (late.valid, late.held) == (True, False)
    faulty = trace(times, 0.03)
    faulty.fate[7] = Fate.MISSING
    trial = Trial(100.0, 0, faulty, BOUND)
    assert (trial.held, trial.errors) == (False, 1)


@pytest.mark.parametrize(("never_sent", "valid"), [(0, True), (10, True), (11, False), (500, False)])
def test_requests_that_the_generator_never_sent_are_late_without_end(never_sent: int, valid: bool) -> None:
    whole = trace(np.arange(1000) / 500, 0.011, lag=0.001)
    late = np.linspace(0, 999, never_sent).astype(int)
    whole.fate[late], whole.sent[late], whole.answered[late] = Fate.LATE, np.nan, np.nan
    # Of so wide a bound that those which were sent are early enough.
    trial = Trial(500.0, 0, whole, 2.0)
    assert trial.valid == valid
    assert trial.held == (never_sent == 0)
    assert trial.as_dict()["lag_p99_ms"] == (pytest.approx(1.0) if valid else None)


def test_nothing_answered_has_no_percentiles() -> None:
    nothing = trace(np.zeros(3), np.nan, fate=Fate.CROWDED)
    nothing.sent[:] = np.nan
    point = Trial(10.0, 0, nothing, BOUND).as_dict()
    assert (point["p50_ms"], point["p99_ms"], point["lag_p99_ms"]) == (None, None, None)
    assert (point["sent"], point["errors"], point["held"]) == (0, 3, False)


@given(st.floats(0.5, 5000), st.floats(0.05, 20), st.sampled_from([1.1, 1.6]))
def test_the_search_ends_at_the_highest_rate_that_holds(capacity: float, start: float, step: float) -> None:
    search = Search(start * capacity, step)
    trials = 0
    while not search.done:
        search.tell(search.rate <= capacity)
        trials += 1
    if search.best is None:
        assert start > step ** (STEPS_DOWN - 1)
    else:
        assert search.best <= capacity <= search.best * (1 + PRECISION) * 1.001
    assert trials < 60


def test_arrivals_are_poissons_whatever_the_rate_and_the_same_at_each() -> None:
    arrivals = Arrivals(["a"], 100.0, np.random.default_rng(3))
    slow, fast = arrivals.at(100.0), arrivals.at(200.0)
    np.testing.assert_allclose(fast[: len(slow)] * 2, slow)
    assert (len(slow), len(fast)) == (10_000, 20_000)
    gaps = np.diff(fast)
    # Of an exponential distribution mean and spread are the same.
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 200, rel=0.05)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_their_queue_is_as_long_as_an_m_d_1_queues(load: float) -> None:
    times = Arrivals(["a"], 100_000.0, np.random.default_rng(4)).at(load)
    mean = sojourns(times, [1.0] * len(times)).mean()
    assert mean == pytest.approx(1 + load / (2 * (1 - load)), rel=0.05)  # Pollaczek and Khinchine


def test_a_slow_models_trial_lasts_longer_for_its_percentile_but_not_for_ever() -> None:
    arrivals = Arrivals(["a"], 2.0, np.random.default_rng(5))
    counts: Sequence[int] = [len(arrivals.at(rate)) for rate in (1000.0, 50.0, 40.0, 10.0, 0.1)]
    assert counts == [2000, 100, 100, 40, 1]


@pytest.mark.parametrize(("bound_ms", "most"), [(10.0, 6), (20.0, 6 * STEPS_DOWN)])
def test_a_model_that_no_rate_suits_is_soon_given_up(simulated: list[Any], bound_ms: float, most: int) -> None:
    model = measure("teacher", bound_ms=bound_ms)["teacher"]
    assert model["max_rate"] is None
    assert len(simulated) <= most
    # A trial's texts come as slowly as its rate says: none is tried at which they hardly come.
    assert min(rate for _, _, rate in simulated) >= 0.05 / SERVICE["teacher"]
