"""The figures of a run that can be set against those of another one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from benchmarks.bench.report.figures import (
    MEGABYTES,
    MILLISECONDS,
    RATE,
    SECONDS,
    Form,
    inverse,
    metric,
    number,
    percent,
    times,
)
from benchmarks.bench.report.schema import Results
from benchmarks.bench.report.schema_parts import Estimate, Latency
from common.metrics import LOWER_IS_BETTER

# `kept` is quality and `speed-up` speed against the teacher; `speed` is all that another machine does otherwise.
Kind = Literal["quality", "kept", "size", "speed", "speed-up"]


@dataclass(frozen=True)
class Figure:
    """One figure of one model.

    Attributes:
        estimate: None where it was asked for and there is none, as with a server that holds no rate.
    """

    estimate: Estimate | None
    kind: Kind
    form: Form = number
    higher_is_better: bool = True


def comparable_figures(results: Results) -> dict[tuple[str, str], Figure]:
    """By the model's id and the figure's name."""
    return {
        (model.id, name): figure
        for model in results.models
        for name, figure in (
            *_answers(results, model.id),
            *_latencies(results, model.id),
            *_rates(results, model.id),
            *_sizes(results, model.id),
        )
    }


def _answers(results: Results, key: str) -> Iterator[tuple[str, Figure]]:
    quality = results.quality.models.get(key) if results.quality else None
    if results.quality and quality:
        for name, value in quality.metrics.items():
            yield name, Figure(value, "quality", metric, name not in LOWER_IS_BETTER)
        if quality.retention:
            yield f"{results.quality.metric} kept", Figure(quality.retention, "kept", percent)
    agreement = results.agreement.models.get(key) if results.agreement else None
    if agreement:
        yield f"{agreement.name} as the teacher", Figure(agreement.value, "kept", metric)


def _latencies(results: Results, key: str) -> Iterator[tuple[str, Figure]]:
    single, multi = results.single_stream, results.multi_stream
    if single and key in single.models:
        yield from _percentiles("one text", single.models[key])
        for part in single.models[key].by_length:
            yield f"p50 at {part.tokens} tokens", _time(part.p50_ms)
    if multi and key in multi.models:
        yield from _percentiles(f"{multi.streams} texts", multi.models[key])


def _percentiles(name: str, latency: Latency) -> Iterator[tuple[str, Figure]]:
    yield f"p50 of {name}", _time(latency.p50_ms)
    yield f"p90 of {name}", _time(latency.p90_ms)
    if latency.p99_ms:
        yield f"p99 of {name}", _time(latency.p99_ms)
    yield from _speed_up(name, inverse(latency.ratio_p50))


def _rates(results: Results, key: str) -> Iterator[tuple[str, Figure]]:
    server, offline = results.server, results.offline
    if server and key in server.models:
        name = f"random arrivals, p99 within {server.bound_ms:g} ms"
        yield name, Figure(server.models[key].max_rate, "speed", RATE)
        yield from _speed_up(name, server.models[key].ratio)
    if offline and key in offline.models:
        model = offline.models[key]
        yield "all texts at once", Figure(model.texts_per_s, "speed", RATE)
        yield from _speed_up("all texts at once", model.ratio)
        for part in model.by_batch:
            yield f"batches of {part.batch}", Figure(part.texts_per_s, "speed", RATE)


def _sizes(results: Results, key: str) -> Iterator[tuple[str, Figure]]:
    model = next(model for model in results.models if model.id == key)
    if model.bytes is not None:
        size = Estimate(value=model.bytes, low=None, high=None)
        yield "bundle size", Figure(size, "size", MEGABYTES, higher_is_better=False)
    cost = results.cost.models.get(key) if results.cost else None
    if cost and cost.peak_memory_bytes:
        yield "peak memory", Figure(cost.peak_memory_bytes, "speed", MEGABYTES, higher_is_better=False)
    if cost and cost.start_up_s:
        yield "start-up", Figure(cost.start_up_s, "speed", SECONDS, higher_is_better=False)


def _time(estimate: Estimate) -> Figure:
    return Figure(estimate, "speed", MILLISECONDS, higher_is_better=False)


def _speed_up(name: str, factor: Estimate | None) -> Iterator[tuple[str, Figure]]:
    if factor is not None:
        yield f"speed-up, {name}", Figure(factor, "speed-up", times)
