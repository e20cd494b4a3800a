"""The order of turns, what a failing server does to them, and how much a time affords."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field

import pytest

from benchmarks.bench.contestants import IN_PROCESS
from benchmarks.bench.rounds import Job, affordable, mean_cost, take_turns, time_queries
from common.errors import WorkFailedError


@dataclass
class Fake:
    """Fails the queries of these numbers."""

    id: str
    where: str = IN_PROCESS
    failing: tuple[int, ...] = ()
    asked: list[list[str]] = field(default_factory=list)

    def call(self, texts: list[str]) -> None:
        self.asked.append(texts)
        if len(self.asked) - 1 in self.failing:
            raise WorkFailedError("503")


def test_models_take_turns_and_who_is_first_moves_on() -> None:
    seen: list[str] = []

    def job(name: str, *, local: bool = False) -> Job:
        return Job(lambda model: seen.append(f"{name}{model.id}") or len(seen), local=local)

    models = [Fake("T"), Fake("S"), Fake("U", where="http://x")]
    turns = take_turns(models, [job("a"), job("b", local=True)], 2, lambda: seen.append("|") or 0.5)  # type: ignore[arg-type, func-returns-value]
    assert "".join(seen) == "|aTaSaUbTbS|aSaUaTbSbT"
    assert turns.results == [{"T": [2, 10], "S": [3, 8], "U": [4, 9]}, {"T": [5, 12], "S": [6, 11]}]
    assert turns.reference == [0.5, 0.5]
    assert {id: len(seconds) for id, seconds in turns.seconds.items()} == {"T": 2, "S": 2, "U": 2}


def test_the_garbage_collector_waits_and_comes_back() -> None:
    seen: list[bool] = []
    take_turns([Fake("T")], [Job(lambda _: seen.append(gc.isenabled()))], 1, lambda: 0.0)  # type: ignore[list-item]
    assert seen == [False]
    assert gc.isenabled()


def test_queries_that_a_server_fails_are_left_out() -> None:
    server = Fake("U", where="http://x", failing=(1,))
    assert len(time_queries(server, [["a"], ["b"], ["c"]])) == 2  # type: ignore[arg-type]
    assert server.asked == [["a"], ["b"], ["c"]]


def test_a_server_that_refused_all_is_asked_again() -> None:
    server = Fake("U", where="http://x", failing=(0, 1, 2))
    assert len(time_queries(server, [["a"], ["b"]])) == 1  # type: ignore[arg-type]
    assert server.asked == [["a"], ["b"]] * 2


@pytest.mark.parametrize(("where", "failing"), [(IN_PROCESS, (1,)), ("http://x", tuple(range(15)))])
def test_a_failure_of_ours_and_a_server_that_never_answers_end_the_run(where: str, failing: tuple[int, ...]) -> None:
    with pytest.raises(WorkFailedError, match="503"):
        time_queries(Fake("M", where, failing), [["a"], ["b"], ["c"]])  # type: ignore[arg-type]


def test_costs_are_measured_warm_and_of_all() -> None:
    models = [Fake("T"), Fake("S")]
    assert mean_cost(models, [["a"], ["b"]]) > 0  # type: ignore[arg-type]
    assert [len(model.asked) for model in models] == [4, 4]


@pytest.mark.parametrize(
    ("cost", "most", "expected"),
    [(0.1, 100, 40), (0.1, 20, 20), (10.0, 100, 8), (10.0, 5, 5), (0.0, 100, 100)],
)
def test_affordable_keeps_its_bounds(cost: float, most: int, expected: int) -> None:
    assert affordable(4.0, cost, least=8, most=most) == expected
