"""The report's charts, each from one part of the results; None where that part has nothing to draw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

from benchmarks.bench.report.figures import MILLISECONDS, RATE, metric, number, readable, told
from benchmarks.bench.report.schema import Results
from benchmarks.bench.report.schema_parts import Estimate, ModelSingleStream, Point
from benchmarks.bench.report.svg import Axis, Chart, category_axis, linear_axis, logarithmic_axis

# How far the models stand apart at one place of an axis of names, so that their intervals do not cover each other.
_APART = 0.09


def frontier_chart(results: Results) -> Chart | None:
    """Quality against latency, or against throughput where latency was not measured."""
    quality = results.quality
    if quality is None:
        return None
    single, offline = results.single_stream, results.offline
    speeds: dict[str, Estimate] = {}
    if single is not None:
        label, form, better = "p50 of one text, ms", MILLISECONDS, "upper left"
        speeds = {key: model.p50_ms for key, model in single.models.items()}
    elif offline is not None:
        label, form, better = "all texts at once, texts/s", RATE, "upper right"
        speeds = {key: model.texts_per_s for key, model in offline.models.items()}
    values = {key: model.metrics[quality.metric] for key, model in quality.models.items() if key in speeds}
    if not values:
        return None
    x = linear_axis(label, _ends(speeds[key] for key in values))
    y = linear_axis(quality.metric, _ends(values.values()), from_zero=False)
    chart = Chart(
        "frontier",
        f"{quality.metric} against speed: the {better} is better",
        _description({key: f"{told(values[key], metric)} at {told(speeds[key], form)}" for key in values}),
        x,
        y,
        _names(results),
    )
    for index, model in enumerate(results.models):
        if model.id in values:
            value, speed = values[model.id], speeds[model.id]
            note = f"{readable(model.id)}: {quality.metric} {told(value, metric)}, {told(speed, form)}"
            chart.point(
                index, speed.value, value.value, x_interval=_interval(speed), y_interval=_interval(value), note=note
            )
    return chart


def distribution_chart(results: Results) -> Chart | None:
    """The share of calls that were answered within a time, by time."""
    if results.single_stream is None:
        return None
    curves = {key: _cumulative(model) for key, model in results.single_stream.models.items()}
    curves = {key: curve for key, curve in curves.items() if len(curve) > 1}
    if not curves:
        return None
    middles = {
        key: f"half within {MILLISECONDS(results.single_stream.models[key].p50_ms.value)}, "
        f"nine of ten within {MILLISECONDS(results.single_stream.models[key].p90_ms.value)}"
        for key in curves
    }
    chart = Chart(
        "distribution",
        "Share of calls answered within a time: further left is faster",
        _description(middles),
        logarithmic_axis("latency of one text, ms", [place for curve in curves.values() for place, _ in curve]),
        Axis("share of calls", 0, 1, tuple((share, f"{100 * share:.0f} %") for share in (0, 0.25, 0.5, 0.75, 0.9, 1))),
        _names(results),
    )
    for index, model in enumerate(results.models):
        if model.id in curves:
            chart.line(index, curves[model.id])
    return chart


def length_chart(results: Results) -> Chart | None:
    """Latency of one text by its length."""
    if results.single_stream is None:
        return None
    curves = {
        key: {part.tokens: part.p50_ms for part in model.by_length}
        for key, model in results.single_stream.models.items()
    }
    parts = [part for model in results.single_stream.models.values() for part in model.by_length]
    names = list(dict.fromkeys(part.tokens for part in sorted(parts, key=lambda part: part.low)))
    return _by_name(
        results, "length", "Latency by length: lower is better", "tokens of the text", "p50, ms", names, curves
    )


def batch_chart(results: Results) -> Chart | None:
    """Throughput by batch size."""
    if results.offline is None:
        return None
    curves = {
        key: {str(part.batch): part.texts_per_s for part in model.by_batch}
        for key, model in results.offline.models.items()
    }
    sizes = {part.batch for model in results.offline.models.values() for part in model.by_batch}
    names = list(map(str, sorted(sizes)))
    title = "Throughput by batch size: higher is better"
    return _by_name(results, "batches", title, "texts of a batch", "texts/s", names, curves)


def server_chart(results: Results) -> Chart | None:
    """The 99th percentile by the rate of arrivals, one mark a trial; hollow where the bound was not kept."""
    server = results.server
    if server is None:
        return None
    points = {key: _measured(model.points) for key, model in server.models.items()}
    known = [pair for pairs in points.values() for pair in pairs]
    if not known:
        return None
    chart = Chart(
        "server",
        "p99 by rate of arrivals: further right below the bound is better; hollow marks broke it",
        _description(
            {
                key: f"holds {told(model.max_rate, RATE)}" if model.max_rate else readable(model.reason or "holds none")
                for key, model in server.models.items()
            }
        ),
        linear_axis("arrivals, texts/s", [point.rate for point, _ in known]),
        logarithmic_axis("p99, ms", [server.bound_ms, *(p99 for _, p99 in known)]),
        _names(results),
    )
    for index, model in enumerate(results.models):
        for point, p99 in points.get(model.id, []):
            note = f"{readable(model.id)}: {RATE(point.rate)}, p99 {MILLISECONDS(p99)}"
            chart.point(index, point.rate, p99, hollow=not point.held, note=note)
    chart.level(server.bound_ms, f"bound: {server.bound_ms:g} ms")
    return chart


def drift_chart(results: Results) -> Chart | None:
    """Each round's median over the median of all: how steady machine and models were."""
    rounds = {name: values for name, values in results.noise.rounds.items() if values}
    longest = max(map(len, rounds.values()), default=0)
    if longest < 2:
        return None
    limit = results.noise.limit
    levels = [1 - limit, 1 + limit, *(value for values in rounds.values() for value in values)]
    machine = [name for name in rounds if name not in {model.id for model in results.models}]
    chart = Chart(
        "drift",
        "Each round's median over the median of all rounds: level is steady",
        _description({name: f"{min(values):.3f} to {max(values):.3f}" for name, values in rounds.items()}),
        linear_axis("round", [1, longest], from_zero=False),
        linear_axis("over the median", levels, from_zero=False),
        [*_names(results), *map(readable, machine)],
    )
    for index, name in enumerate([*(model.id for model in results.models), *machine]):
        chart.line(index, [(turn + 1.0, value) for turn, value in enumerate(rounds.get(name, []))])
    return chart


CHARTS: tuple[Callable[[Results], Chart | None], ...] = (
    frontier_chart,
    distribution_chart,
    length_chart,
    server_chart,
    batch_chart,
    drift_chart,
)


def _by_name(
    results: Results,
    name: str,
    title: str,
    across: str,
    upward: str,
    places: Sequence[str],
    curves: dict[str, dict[str, Estimate]],
) -> Chart | None:
    """Estimates of each model over an axis of names."""
    everything = [estimate for curve in curves.values() for estimate in curve.values()]
    if not everything:
        return None
    described = {
        key: ", ".join(f"{place}: {number(curve[place].value)}" for place in places if place in curve)
        for key, curve in curves.items()
    }
    chart = Chart(
        name,
        title,
        _description(described),
        category_axis(across, places),
        linear_axis(upward, _ends(everything)),
        _names(results),
    )
    for index, model in enumerate(results.models):
        shift = _APART * (index - (len(results.models) - 1) / 2)
        curve = curves.get(model.id, {})
        found = [(position + shift, place) for position, place in enumerate(places) if place in curve]
        if found:
            chart.line(index, [(x, curve[place].value) for x, place in found])
        for x, place in found:
            note = f"{readable(model.id)}, {place}: {told(curve[place])}"
            chart.point(index, x, curve[place].value, y_interval=_interval(curve[place]), note=note)
    return chart


def _cumulative(model: ModelSingleStream) -> list[tuple[float, float]]:
    """Pairs of a time in ms and the share of calls within it, from the last empty bin to the first that has all."""
    edges, counts = model.histogram.edges_ms, model.histogram.counts
    total = sum(counts)
    if not total or len(edges) != len(counts) + 1:
        return []
    shares = [0.0, *(done / total for done in accumulate(counts))]
    first = max(index for index, share in enumerate(shares) if share == 0)
    last = next(index for index, share in enumerate(shares) if share == 1)
    return list(zip(edges, shares, strict=True))[first : last + 1]


def _measured(points: Sequence[Point]) -> list[tuple[Point, float]]:
    return [(point, point.p99_ms) for point in points if point.p99_ms is not None and point.p99_ms > 0]


def _names(results: Results) -> list[str]:
    return [readable(model.id) for model in results.models]


def _description(models: dict[str, str]) -> str:
    return " ".join(f"{readable(key)}: {text}." for key, text in models.items())


def _interval(estimate: Estimate) -> tuple[float, float] | None:
    return (estimate.low, estimate.high) if estimate.low is not None and estimate.high is not None else None


def _ends(estimates: Iterable[Estimate]) -> list[float]:
    """All that an axis must hold."""
    return [end for estimate in estimates for end in (estimate.value, *(_interval(estimate) or ()))]
