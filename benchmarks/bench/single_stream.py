"""Single-stream: one text a query, and the next when the last is answered; latency over all texts and by length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.bench.contestants import Contestant
from benchmarks.bench.estimates import ENOUGH_FOR_P99, estimate_percentiles
from benchmarks.bench.latency import base_of, latency_figures, round_ratio
from benchmarks.bench.rounds import Job, Query, affordable, mean_cost, time_queries
from benchmarks.bench.sample import Sample
from common.tokenization import Text

_HISTOGRAM_BINS = 48
# Of the scenario's time, for texts as they come; the bins of length share the rest.
_PLAIN_SHARE = 0.6
# Bounds on the texts of a round; the lower one holds even where it takes longer.
_PLAIN_TEXTS = (12, 1024)
_BIN_TEXTS = (3, 32)
_TRIED_TEXTS = 4


class SingleStream:
    """See `benchmarks.bench.rounds.Scenario`."""

    def __init__(self, contestants: Sequence[Contestant], sample: Sample, rounds: int, seconds: float):
        least = max(_PLAIN_TEXTS[0], math.ceil(ENOUGH_FOR_P99 / rounds))
        self._bins = sample.bins
        share = _PLAIN_SHARE * seconds / rounds
        self._plain = _fit(contestants, sample.even, share, (least, _PLAIN_TEXTS[1]))
        share = (1 - _PLAIN_SHARE) * seconds / rounds / len(self._bins)
        self._by_length = [_fit(contestants, part.texts, share, _BIN_TEXTS) for part in self._bins]
        self.jobs = [_job(texts) for texts in (self._plain, *self._by_length)]

    def result(self, turns: Sequence[dict[str, list[list[float]]]]) -> dict[str, Any]:
        plain, *by_length = turns
        edges = _edges(plain)
        models = {}
        for id, rounds in plain.items():
            bins = [self._bin(place, each[id], base_of(id, each)) for place, each in enumerate(by_length)]
            histogram = {"edges_ms": edges, "counts": _counts(rounds, edges)}
            models[id] = {**latency_figures(rounds, base_of(id, plain)), "histogram": histogram, "by_length": bins}
        return {"models": models}

    def _bin(self, place: int, rounds: list[list[float]], teacher: list[list[float]] | None) -> dict[str, Any]:
        part, texts = self._bins[place], self._by_length[place]
        middle = estimate_percentiles(rounds)["p50"]
        assert middle is not None
        return {
            "tokens": part.name,
            "from": part.low,
            "to": part.high,
            "texts": len(texts),
            # The joined texts stand behind the real ones.
            "joined": max(0, len(texts) - (len(part.texts) - part.joined)),
            "calls": sum(map(len, rounds)),
            "p50_ms": middle.scaled(1e3).as_dict(),
            "ratio": round_ratio(rounds, teacher),
        }


def _job(texts: Sequence[Text]) -> Job:
    return Job(lambda contestant: time_queries(contestant, _queries(texts)))


def _queries(texts: Sequence[Text]) -> list[Query]:
    return [[text] for text in texts]


def _fit(
    contestants: Sequence[Contestant], texts: Sequence[Text], seconds: float, bounds: tuple[int, int]
) -> list[Text]:
    """As many of the texts as a round has time for with one model."""
    cost = mean_cost(contestants, _queries(texts[:_TRIED_TEXTS]))
    return list(texts[: affordable(seconds, cost, least=bounds[0], most=bounds[1])])


def _edges(plain: dict[str, list[list[float]]]) -> list[float]:
    """Bounds in milliseconds, at even ratios, that hold the calls of all models."""
    calls = 1e3 * np.concatenate([part for rounds in plain.values() for part in rounds])
    low, high = float(calls.min()), float(calls.max())
    edges = np.geomspace(low, max(high, 1.001 * low), _HISTOGRAM_BINS + 1)
    return [float(f"{edge:.6g}") for edge in edges]


def _counts(rounds: Sequence[Sequence[float]], edges: Sequence[float]) -> list[int]:
    # The outermost edges were rounded; nothing may fall out for that.
    calls = np.clip(1e3 * np.concatenate(rounds), edges[0], edges[-1])
    counts: list[int] = np.histogram(calls, edges)[0].tolist()
    return counts
