"""The table of the figures that matter most, and what the terminal shows of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table as TerminalTable
from rich.text import Text

from benchmarks.bench.report.figures import (
    GIGAFLOPS,
    MEGABYTES,
    MILLIONS,
    MILLISECONDS,
    NONE,
    RATE,
    SECONDS,
    TOKEN_RATE,
    Entry,
    Form,
    entry,
    exact,
    inverse,
    metric,
    number,
    percent,
    readable,
    times,
    told,
)
from benchmarks.bench.report.schema import Model, Results
from benchmarks.bench.report.schema_parts import Estimate, Latency, ModelCost
from benchmarks.bench.report.verdict import FAST, MANY, is_noisy, noise_sentence, verdicts
from common.progress import console, say

Row = tuple[str, list[Entry]]


def summary_rows(results: Results) -> list[Row]:
    """The figures that matter most: a name, and for each model an entry whose notes are interval and speed-up."""
    rows = [*_sizes(results), *_answers(results), *_speeds(results), *_costs(results)]
    return [row for row in rows if any(cell.text != NONE for cell in row[1])]


def print_summary(results: Results) -> None:
    """Prints table and verdict."""
    table = TerminalTable(box=SIMPLE_HEAD)
    table.add_column("")
    for model in results.models:
        table.add_column(Text(readable(model.id)), justify="right")
    for name, entries in summary_rows(results):
        table.add_row(name, *[Text("\n".join(cell.lines())) for cell in entries])
    console.print(table)
    if is_noisy(results):
        say(noise_sentence(results))
    for verdict in verdicts(results):
        say(verdict.headline)
        for sentence in (*verdict.loses, *verdict.gains):
            say(f"  {sentence}")
    if not is_noisy(results):
        say(noise_sentence(results))


def _sizes(results: Results) -> Iterator[Row]:
    yield "runs on", [Entry(_runs_on(model)) for model in results.models]
    yield "precision", [Entry(readable(model.precision or NONE)) for model in results.models]
    yield "layers", [exact(model.layers, str) for model in results.models]
    yield "parameters", [exact(model.parameters, MILLIONS) for model in results.models]
    yield "bundle size", [exact(model.bytes, MEGABYTES) for model in results.models]


def _runs_on(model: Model) -> str:
    if model.engine is None:
        return readable(model.where)
    return readable(f"{model.engine} {model.device or ''}")


def _answers(results: Results) -> Iterator[Row]:
    quality, agreement = results.quality, results.agreement
    if quality is not None:
        found = [quality.models.get(model.id) for model in results.models]
        yield quality.metric, [entry(each.metrics[quality.metric], metric) if each else Entry(NONE) for each in found]
        yield f"{quality.metric} kept", [entry(each.retention if each else None, percent) for each in found]
    if agreement is not None:
        compared = [agreement.models.get(model.id) for model in results.models]
        name = next((each.name for each in compared if each), "agreement")
        form = metric if "correlation" in name else percent
        yield f"{name} as the teacher", [entry(each.value if each else None, form) for each in compared]


def _speeds(results: Results) -> Iterator[Row]:
    single, multi, server, offline = results.single_stream, results.multi_stream, results.server, results.offline
    ids = [model.id for model in results.models]
    if single is not None:
        latencies: list[Latency | None] = [single.models.get(key) for key in ids]
        yield from _percentiles(results, "one text", latencies)
    if multi is not None:
        yield from _percentiles(results, f"{multi.streams} texts", [multi.models.get(key) for key in ids])
    if server is not None:
        yield (
            f"texts/s with p99 ≤ {server.bound_ms:g} ms",
            [
                with_rate_ratio(results, each.max_rate, each.ratio, number) if each else Entry(NONE)
                for each in (server.models.get(key) for key in ids)
            ],
        )
    if offline is not None:
        found = [offline.models.get(key) for key in ids]
        yield (
            "all texts at once",
            [with_rate_ratio(results, each.texts_per_s, each.ratio) if each else Entry(NONE) for each in found],
        )
        yield "tokens", [entry(each.tokens_per_s if each else None, TOKEN_RATE) for each in found]


def _percentiles(results: Results, name: str, latencies: list[Latency | None]) -> Iterator[Row]:
    yield (
        f"p50 of {name}",
        [with_time_ratio(results, each.p50_ms, each.ratio_p50) if each else Entry(NONE) for each in latencies],
    )
    yield f"p99 of {name}", [entry(each.p99_ms if each else None, MILLISECONDS) for each in latencies]


def with_time_ratio(results: Results, value: Estimate, ratio: Estimate | None) -> Entry:
    """A latency whose notes are its interval and how many times as fast that is; in doubt where the run was noisy."""
    return _with_factor(results, entry(value, MILLISECONDS), inverse(ratio), FAST)


def with_rate_ratio(results: Results, value: Estimate | None, ratio: Estimate | None, form: Form = RATE) -> Entry:
    """A throughput whose notes are its interval and how many times as many that is; in doubt as above."""
    return _with_factor(results, entry(value, form), ratio if value else None, MANY)


def _with_factor(results: Results, shown: Entry, factor: Estimate | None, manner: str) -> Entry:
    if factor is None:
        return shown
    doubt = ", noisy" if is_noisy(results) else ""
    return Entry(shown.text, (*shown.notes, f"{told(factor, times)} {manner}{doubt}"))


def _costs(results: Results) -> Iterator[Row]:
    if results.cost is None:
        return
    costs = [results.cost.models.get(model.id) for model in results.models]

    def row(name: str, pick: Callable[[ModelCost], Estimate | None], form: Form = number) -> Row:
        return name, [entry(pick(cost) if cost else None, form) for cost in costs]

    yield row("peak memory", lambda cost: cost.peak_memory_bytes, MEGABYTES)
    yield row("start-up", lambda cost: cost.start_up_s, SECONDS)
    yield "work for a text", [exact(cost.flops_per_text if cost else None, GIGAFLOPS) for cost in costs]
    yield row("of float32's peak", lambda cost: cost.roofline_share, percent)
    yield row("core-seconds for a million texts", lambda cost: cost.core_seconds_per_million)
    yield row("price of a million texts", lambda cost: cost.price_per_million)
