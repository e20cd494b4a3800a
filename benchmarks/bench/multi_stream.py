"""Multi-stream: several texts a query, all answered before the next; how long a query takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from benchmarks.bench.contestants import Contestant
from benchmarks.bench.estimates import ENOUGH_FOR_P99
from benchmarks.bench.latency import base_of, latency_figures
from benchmarks.bench.rounds import Job, affordable, mean_cost, time_queries
from benchmarks.bench.sample import Sample

# MLPerf's own number of samples in a query of this scenario.
STREAMS = 8
# Bounds on the queries of a round; the lower one holds even where it takes longer.
_QUERIES = (6, 256)
_TRIED = 2


class MultiStream:
    """See `benchmarks.bench.rounds.Scenario`."""

    def __init__(self, contestants: Sequence[Contestant], sample: Sample, rounds: int, seconds: float):
        queries = sample.queries(STREAMS, _QUERIES[1])
        cost = mean_cost(contestants, queries[:_TRIED])
        least = max(_QUERIES[0], math.ceil(ENOUGH_FOR_P99 / rounds))
        count = affordable(seconds / rounds, cost, least=least, most=_QUERIES[1])
        self.jobs = [Job(lambda contestant: time_queries(contestant, queries[:count]))]

    def result(self, turns: Sequence[dict[str, list[list[float]]]]) -> dict[str, Any]:
        (queries,) = turns
        models = {id: latency_figures(rounds, base_of(id, queries)) for id, rounds in queries.items()}
        return {"streams": STREAMS, "models": models}
