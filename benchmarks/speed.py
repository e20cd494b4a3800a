"""Latency and throughput of both models on the same real texts, measured in turn."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.measure import (
    ENOUGH_FOR_P99,
    ROLES,
    Comparison,
    affordable,
    alternate,
    compare_calls,
    time_batches,
    time_calls,
)
from benchmarks.texts import bins_by_length, neighbours
from common.progress import progress
from common.tokenization import Text
from serve.engine import Engine

# About how many seconds all rounds of a subject may take; how many texts that affords shows in the warm-up.
LATENCY_SECONDS = 4.0
LENGTH_BIN_SECONDS = 0.8
# By batch size: a large batch needs most, to have enough groups.
THROUGHPUT_SECONDS = {1: 3.0, 8: 3.0, 32: 10.0}
# Bounds on the texts of a subject, or on the groups of a batch size; the lower one holds even where it takes longer.
_LATENCY_TEXTS = (32, 256)
_BIN_TEXTS = (3, 32)
_BATCH_GROUPS = {1: (32, 256), 8: (8, 32), 32: (4, 8)}
_WARM_UP_TEXTS = 4
_WARM_UP_GROUPS = 2


def measure_speed(engines: dict[str, Engine], texts: Sequence[Text], rounds: int, seed: int) -> dict[str, Any]:
    """Both models' latency at one text, by length too, and throughput by batch size.

    Returns:
        `latency`, `latency_by_length` and `throughput`, as `benchmarks.bench` describes them.
    """
    draw = random.Random(seed)
    # The shorter limit, so that no text made for the purpose is truncated by either model.
    encoder = min((engines[role].encoder for role in ROLES), key=lambda encoder: encoder.max_length)
    lengths = [encoded.tokens for encoded in encoder.encode(texts)]
    sample = draw.sample(list(texts), min(len(texts), _LATENCY_TEXTS[1]))
    bins = bins_by_length(texts, lengths, encoder, draw)
    sizes = [size for size in THROUGHPUT_SECONDS if size <= len(texts)]

    bounds = (max(_LATENCY_TEXTS[0], math.ceil(ENOUGH_FOR_P99 / rounds)), _LATENCY_TEXTS[1])
    sample = sample[: _fit(engines, sample, rounds, LATENCY_SECONDS, bounds)]
    chosen = [part.texts[: _fit(engines, part.texts, rounds, LENGTH_BIN_SECONDS, _BIN_TEXTS)] for part in bins]
    batched = [neighbours(texts, lengths, size, _fit_groups(engines, texts, lengths, size, rounds)) for size in sizes]

    calls = [_calls(part) for part in (sample, *chosen)]
    batches = [_batches(part, size) for part, size in zip(batched, sizes, strict=True)]
    with progress("measuring", rounds * (len(calls) + len(batches)), "turns") as advance:
        results = alternate(engines, [*calls, *batches], rounds, lambda: advance(1))
    latencies = [compare_calls(*(result[role] for role in ROLES)) for result in results[: len(calls)]]
    return {
        "latency": {**_counts(sample, rounds), **latencies[0]},
        "latency_by_length": [
            {
                "tokens": part.name,
                "from": part.low,
                "to": part.high,
                # The joined texts stand behind the real ones.
                "joined": max(0, len(used) - (len(part.texts) - part.joined)),
                **_counts(used, rounds),
                **latency,
            }
            for part, used, latency in zip(bins, chosen, latencies[1:], strict=True)
        ],
        "throughput": [
            {"batch": size, **_counts(part, rounds), "texts_per_s": _rate(result, len(part))}
            for size, part, result in zip(sizes, batched, results[len(calls) :], strict=True)
        ],
    }


def _calls(texts: Sequence[Text]) -> Callable[[Engine], list[float]]:
    return lambda engine: time_calls(engine, texts)


def _batches(texts: Sequence[Text], size: int) -> Callable[[Engine], list[float]]:
    return lambda engine: [time_batches(engine, texts, size)]


def _fit(
    engines: dict[str, Engine], texts: Sequence[Text], rounds: int, seconds: float, bounds: tuple[int, int]
) -> int:
    """Warms both models up on some of the texts, and says how many texts `rounds` rounds have time for."""
    some = texts[:_WARM_UP_TEXTS]
    for role in ROLES:
        time_calls(engines[role], some)
    cost = sum(sum(time_calls(engines[role], some)) for role in ROLES) / len(some)
    return affordable(seconds, rounds * cost, least=bounds[0], most=min(bounds[1], len(texts)))


def _fit_groups(
    engines: dict[str, Engine], texts: Sequence[Text], lengths: Sequence[int], size: int, rounds: int
) -> int:
    """Warms both models up on a short and a long group, and says how many groups `rounds` rounds have time for."""
    some = neighbours(texts, lengths, size, _WARM_UP_GROUPS)
    for role in ROLES:
        time_batches(engines[role], some, size)
    cost = sum(time_batches(engines[role], some, size) for role in ROLES) * size / len(some)
    least, most = _BATCH_GROUPS[size]
    return affordable(THROUGHPUT_SECONDS[size], rounds * cost, least=least, most=most)


def _counts(texts: Sequence[Text], rounds: int) -> dict[str, int]:
    return {"texts": len(texts), "measured": len(texts) * rounds}


def _rate(result: dict[str, list[list[float]]], texts: int) -> dict[str, Any]:
    return Comparison(*([texts / seconds[0] for seconds in result[role]] for role in ROLES)).as_dict()
