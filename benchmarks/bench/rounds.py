"""Interleaved rounds: every job with every model in every round, so that a machine's drift falls on all alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.bench.contestants import IN_PROCESS, Contestant
from common.errors import WorkFailedError
from common.progress import progress
from common.tokenization import Text

Query = Sequence[Text]
# How often queries are asked of a server that answers none of them, unless it takes longer than this to fail.
_ATTEMPTS, _PATIENCE_SECONDS = 5, 10.0


@dataclass(frozen=True)
class Job:
    """One thing that is measured in every round, with the same texts each time.

    Attributes:
        run: takes its time with the model it is given.
        local: whether only models in this process take part.
    """

    run: Callable[[Any], Any]
    local: bool = False


class Scenario(Protocol):
    """What is measured of all models in the rounds.

    Attributes:
        jobs: in the order in which a round does them.
    """

    jobs: list[Job]

    def result(self, turns: Sequence[dict[str, list[Any]]]) -> dict[str, Any]:
        """Its part of `results.json`.

        Args:
            turns: for each job, by model, what it gave in each round; the teacher is the first model.
        """


@dataclass(frozen=True)
class Turns:
    """All rounds.

    Attributes:
        results: for each job, by model, what it gave in each round.
        seconds: by model, how long all its jobs took in each round.
        reference: what `reference` gave at the start of each round.
    """

    results: list[dict[str, list[Any]]]
    seconds: dict[str, list[float]]
    reference: list[float]

    @property
    def worked(self) -> dict[str, list[float]]:
        """`seconds` of the models that had any job."""
        return {id: rounds for id, rounds in self.seconds.items() if all(rounds)}


def take_turns(
    contestants: Sequence[Contestant], jobs: Sequence[Job], rounds: int, reference: Callable[[], float]
) -> Turns:
    """Runs every job with every model in every round.

    Within a job one model follows the other at once, and who goes first moves on by one with each round.

    Args:
        reference: called at the start of each round.
    """
    turns = Turns([{} for _ in jobs], {contestant.id: [] for contestant in contestants}, [])
    with progress("measuring", rounds * len(jobs), "") as advance, no_collection():
        for number in range(rounds):
            gc.collect()
            turns.reference.append(reference())
            first = number % len(contestants)
            order = [*contestants[first:], *contestants[:first]]
            spent = dict.fromkeys(turns.seconds, 0.0)
            for job, results in zip(jobs, turns.results, strict=True):
                for contestant in order:
                    if job.local and contestant.where != IN_PROCESS:
                        continue
                    started = time.perf_counter()
                    results.setdefault(contestant.id, []).append(job.run(contestant))
                    spent[contestant.id] += time.perf_counter() - started
                advance(1)
            for id, seconds in spent.items():
                turns.seconds[id].append(seconds)
    return turns


@contextmanager
def no_collection() -> Iterator[None]:
    """Python's garbage collector waits while the block runs."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def time_queries(contestant: Contestant, queries: Sequence[Query]) -> list[float]:
    """Seconds of each query, from the strings to the answers; those that a server failed to answer are left out.

    Where it answered none, all are asked again: a server that refuses now and then has figures too, beside its errors.

    Raises:
        WorkFailedError: a model in this process failed, or a server answered none at any attempt.
    """
    failure: WorkFailedError | None = None
    began = time.perf_counter()
    for _ in range(_ATTEMPTS):
        seconds = []
        for query in queries:
            started = time.perf_counter()
            try:
                contestant.call(query)
            except WorkFailedError as error:
                if contestant.where == IN_PROCESS:
                    raise
                failure = error
                continue
            seconds.append(time.perf_counter() - started)
        if seconds or failure is None:
            return seconds
        if time.perf_counter() - began > _PATIENCE_SECONDS:
            break
    raise WorkFailedError(
        f"{contestant.where} answered none of {len(queries)} queries, asked again and again: {failure}"
    )


def mean_cost(contestants: Sequence[Contestant], queries: Sequence[Query]) -> float:
    """Seconds of a query, in the mean over some queries and all models; a first turn warms them up."""
    for contestant in contestants:
        time_queries(contestant, queries)
    times = [time_queries(contestant, queries) for contestant in contestants]
    return sum(sum(each) / len(each) for each in times) / len(contestants)


def affordable(seconds: float, cost: float, *, least: int, most: int) -> int:
    """How many units of `cost` seconds fit into `seconds`, within the bounds (`most` wins)."""
    return min(most, max(least, int(seconds / max(cost, 1e-9))))
