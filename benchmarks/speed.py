"""Latency and throughput of both models on the same real texts, measured in turn."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.measure import (
    PERCENTILES,
    ROLES,
    Comparison,
    affordable,
    alternate,
    percentiles,
    time_batches,
    time_calls,
)
from benchmarks.texts import bins_by_length, neighbours
from common.progress import progress
from common.tokenization import Text
from serve.engine import Engine

BATCH_SIZES = (1, 8, 32)

# About how many seconds all rounds of a subject may take; how many texts that affords shows in the warm-up.
LATENCY_SECONDS = 4.0
LENGTH_BIN_SECONDS = 0.8
THROUGHPUT_SECONDS = 8.0
# Bounds on the texts of a subject; the lower one holds even where it takes longer.
_LATENCY_TEXTS = (32, 256)
_BIN_TEXTS = (3, 32)
_BATCH_GROUPS = (1, 8)
_WARM_UP_TEXTS = 4


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
    sizes = [size for size in BATCH_SIZES if size <= len(texts)]

    sample = sample[: _fit(engines, sample, rounds, LATENCY_SECONDS, _LATENCY_TEXTS)]
    chosen = [part.texts[: _fit(engines, part.texts, rounds, LENGTH_BIN_SECONDS, _BIN_TEXTS)] for part in bins]
    batched = neighbours(texts, lengths, sizes[-1], _fit_groups(engines, texts, lengths, sizes, rounds))

    calls = [_calls(part) for part in (sample, *chosen)]
    batches = [_batches(batched, size) for size in sizes]
    with progress("measuring", rounds * (len(calls) + len(batches)), "turns") as advance:
        results = alternate(engines, [*calls, *batches], rounds, lambda: advance(1))
    latencies = [_latency(result) for result in results[: len(calls)]]
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
            {"batch": size, **_counts(batched, rounds), "texts_per_s": _rate(result, len(batched))}
            for size, result in zip(sizes, results[len(calls) :], strict=True)
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
    engines: dict[str, Engine], texts: Sequence[Text], lengths: Sequence[int], sizes: Sequence[int], rounds: int
) -> int:
    """Warms both models up on one group of neighbours, and says how many groups `rounds` rounds have time for."""
    group = neighbours(texts, lengths, sizes[-1], 1)[: sizes[-1]]
    for role in ROLES:
        for size in sizes:
            time_batches(engines[role], group, size)
    cost = sum(time_batches(engines[role], group, size) for role in ROLES for size in sizes)
    return affordable(THROUGHPUT_SECONDS, rounds * cost, least=_BATCH_GROUPS[0], most=_BATCH_GROUPS[1])


def _counts(texts: Sequence[Text], rounds: int) -> dict[str, int]:
    return {"texts": len(texts), "measured": len(texts) * rounds}


def _latency(result: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Each round's percentiles, compared."""
    by_round = {role: [percentiles(seconds) for seconds in result[role]] for role in ROLES}
    return {
        f"p{rank}_ms": Comparison(*([values[f"p{rank}"] for values in by_round[role]] for role in ROLES)).as_dict()
        for rank in PERCENTILES
    }


def _rate(result: dict[str, list[list[float]]], texts: int) -> dict[str, Any]:
    return Comparison(*([texts / seconds[0] for seconds in result[role]] for role in ROLES)).as_dict()
