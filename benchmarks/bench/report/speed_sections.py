"""The report on each scenario of speed, and on what it takes to run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.bench.report import plots
from benchmarks.bench.report.blocks import Block, Details, Table, if_any
from benchmarks.bench.report.figures import (
    GIGAFLOPS,
    GIGAFLOPS_PER_S,
    MEGABYTES,
    MILLISECONDS,
    NONE,
    SECONDS,
    TOKEN_RATE,
    Entry,
    count,
    entry,
    exact,
    number,
    percent,
    readable,
    told,
)
from benchmarks.bench.report.schema import Results
from benchmarks.bench.report.schema_parts import Latency
from benchmarks.bench.report.summary import with_rate_ratio, with_time_ratio


def single_stream(results: Results) -> Iterator[Block]:
    single = results.single_stream
    if single is None:
        return
    yield "From the text to the answer, tokenizing included; the next text when the one before is answered."
    yield from if_any(plots.distribution_chart(results))
    yield _latencies(results, single.models)
    yield from if_any(plots.length_chart(results))
    parts = sorted((part for model in single.models.values() for part in model.by_length), key=lambda part: part.low)
    if parts:
        cells = {
            (part.tokens, key): with_time_ratio(results, part.p50_ms, part.ratio)
            for key, model in single.models.items()
            for part in model.by_length
        }
        names = {part.tokens: f"{readable(part.tokens)}{'*' if part.joined else ''}" for part in parts}
        yield _by_model("p50 by tokens of the text", names, cells, list(single.models))
    if any(part.joined for model in single.models.values() for part in model.by_length):
        yield "* The data has too few texts of this length: some were made by joining several."


def multi_stream(results: Results) -> Iterator[Block]:
    multi = results.multi_stream
    if multi is None:
        return
    yield f"Queries of {count(multi.streams, 'text')}, from the texts to the last answer."
    yield _latencies(results, multi.models)


def _latencies(results: Results, models: Mapping[str, Latency]) -> Table:
    rows = [
        [
            Entry(readable(key)),
            Entry(f"{model.calls:,}", (f"{count(model.errors, 'error')} beside",) if model.errors else ()),
            with_time_ratio(results, model.p50_ms, model.ratio_p50),
            entry(model.p90_ms, MILLISECONDS),
            entry(model.p99_ms, MILLISECONDS),
        ]
        for key, model in models.items()
    ]
    return Table(("", "calls", "p50", "p90", "p99"), rows)


def server(results: Results) -> Iterator[Block]:
    server = results.server
    if server is None:
        return
    yield (
        f"Texts arrive at random (Poisson) whether or not those before are answered, and a latency counts from when "
        f"the text was meant to be sent: the time in the queue is part of it. What counts is the highest rate at which "
        f"99 of 100 texts are answered within {server.bound_ms:g} ms."
    )
    yield from if_any(plots.server_chart(results))
    yield Table(
        ("", "highest rate"),
        [
            [Entry(readable(key)), _with_reason(with_rate_ratio(results, model.max_rate, model.ratio), model.reason)]
            for key, model in server.models.items()
        ],
    )
    for key, model in server.models.items():
        rows = [
            [
                Entry(number(point.rate)),
                Entry(f"{point.sent:,}"),
                *[exact(value) for value in (point.p50_ms, point.p90_ms, point.p99_ms)],
                Entry(f"{point.errors:,}"),
                exact(point.lag_p99_ms),
                Entry("kept" if point.held else "broken" if point.valid else "not valid"),
            ]
            for point in sorted(model.points, key=lambda point: point.rate)
        ]
        head = ("texts/s", "sent", "p50 ms", "p90 ms", "p99 ms", "errors", "sender's lag, p99 ms", "bound")
        if rows:
            yield Details(f"{readable(key)}: {count(len(rows), 'trial')}", Table(head, rows))


def offline(results: Results) -> Iterator[Block]:
    offline = results.offline
    if offline is None:
        return
    yield from if_any(plots.batch_chart(results))
    yield Table(
        ("", "texts", "tokens"),
        [
            [
                Entry(readable(key)),
                with_rate_ratio(results, model.texts_per_s, model.ratio),
                entry(model.tokens_per_s, TOKEN_RATE),
            ]
            for key, model in offline.models.items()
        ],
    )
    if sizes := {part.batch for model in offline.models.values() for part in model.by_batch}:
        cells = {
            (str(part.batch), key): with_rate_ratio(results, part.texts_per_s, part.ratio)
            for key, model in offline.models.items()
            for part in model.by_batch
        }
        names = {str(size): f"{size:,}" for size in sorted(sizes)}
        yield _by_model("by texts of a batch", names, cells, list(offline.models))


def cost(results: Results) -> Iterator[Block]:
    cost, roofline = results.cost, results.roofline
    if cost is None or not cost.models:
        return
    yield Table(
        ("", "start-up", "peak memory", "work for a text", "reached", "of the peak", "core-seconds a million texts"),
        [
            [
                Entry(readable(key)),
                entry(model.start_up_s, SECONDS),
                entry(model.peak_memory_bytes, MEGABYTES),
                exact(model.flops_per_text, GIGAFLOPS),
                entry(model.flops_per_s, GIGAFLOPS_PER_S),
                entry(model.roofline_share, percent),
                entry(model.core_seconds_per_million),
            ]
            for key, model in cost.models.items()
        ],
    )
    if roofline is not None:
        yield (
            f"The peak is what matrix products alone reach on this machine with {count(roofline.threads, 'thread')} in "
            f"{roofline.dtype}: {told(roofline.peak_flops_per_s, GIGAFLOPS_PER_S)} ({readable(roofline.how)}). "
            f"Work is that of the matrix products, a multiplication and an addition as two."
        )


def _by_model(
    head: str, names: Mapping[str, str], cells: Mapping[tuple[str, str], Entry], models: Sequence[str]
) -> Table:
    """A row for each name, and a column for each model."""
    rows = [[Entry(name), *[cells.get((place, key), Entry(NONE)) for key in models]] for place, name in names.items()]
    return Table((head, *map(readable, models)), rows)


def _with_reason(shown: Entry, reason: str | None) -> Entry:
    return Entry(shown.text, (*shown.notes, readable(reason))) if reason else shown
