"""The rounds of all servers into medians, ratios and a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.measure import ratio_range, significant
from benchmarks.servers.ceiling import Ceiling
from benchmarks.servers.contestants import OTHERS, Contestant
from benchmarks.servers.load import Load


@dataclass(frozen=True)
class Round:
    """One start of one server.

    Attributes:
        turn: which round of all servers, from 0.
        load_average: runnable tasks of the machine, mean of the minute before.
        start_seconds: until it was ready.
        exit_code: after SIGTERM; None where it had to be killed.
        single: the load of one connection.
        many: the load of many connections.
        cpu_ms: processor time of the server for each text of the latter; None where the system does not tell.
    """

    turn: int
    load_average: float
    start_seconds: float
    exit_code: int | None
    single: Load
    many: Load
    cpu_ms: float | None


@dataclass
class Record:
    """All of one server: its rounds, or why there are no more.

    Attributes:
        versions: of its package first, then of what it stands on.
        error: why it could not be started or measured, or what it answered wrongly.
    """

    contestant: Contestant
    versions: Mapping[str, str]
    rounds: list[Round]
    error: str | None = None


def summarize(records: Sequence[Record], ceilings: Mapping[str, Ceiling]) -> list[dict[str, Any]]:
    """A row for each server.

    Returns:
        `name`, `versions`, `settings`, `error`, `rounds` as they were, and where there is one: `single` and `many`
        (medians of the rounds: `texts_per_s`, `p50_ms`, `p90_ms`, `p99_ms`; sums: `refused`, `socket_errors`),
        `cpu_ms` (median processor time a text), `of_ceiling` and `of_ceiling_with_tokenizing` (throughput of many
        connections over the best setting of the engine alone), `of_ceiling_range` (the former in the single rounds),
        `of_bare_call` (median latency of one connection over the engine's), and, where another server was measured,
        `over_best_other`: throughput over the best other's and latency over the lowest other's, each as `ratio` of
        medians and `ratio_range` of the single rounds.
    """
    others = [record for record in records if record.contestant.name in OTHERS and record.rounds]
    return [_row(record, others, ceilings[record.contestant.bundle]) for record in records]


def _rate(each: Round) -> float:
    return each.many.texts_per_s


def _latency(each: Round) -> float:
    return each.single.p50_ms


def _row(record: Record, others: Sequence[Record], ceiling: Ceiling) -> dict[str, Any]:
    contestant, rounds = record.contestant, record.rounds
    row: dict[str, Any] = {
        "name": contestant.name,
        "versions": dict(record.versions),
        "settings": contestant.settings,
        "error": record.error,
    }
    if rounds:
        rate, latency = _median(record, _rate), _median(record, _latency)
        best, with_tokenizing = (ceiling.best(tokenizing=tokenizing) for tokenizing in (False, True))
        of_ceiling = [_rate(each) / ceiling.throughput[best][each.turn] for each in rounds]
        cpu = [each.cpu_ms for each in rounds if each.cpu_ms is not None]
        row |= {
            "single": _medians([each.single for each in rounds]),
            "many": _medians([each.many for each in rounds]),
            "cpu_ms": significant(median(cpu)) if cpu else None,
            "of_ceiling": significant(rate / ceiling.texts_per_s(best)),
            "of_ceiling_range": [significant(min(of_ceiling)), significant(max(of_ceiling))],
            "of_ceiling_with_tokenizing": significant(rate / ceiling.texts_per_s(with_tokenizing)),
            "of_bare_call": significant(latency / median(ceiling.call_ms)),
        }
        rivals = [other for other in others if other is not record]
        if rivals:
            row["over_best_other"] = {
                "throughput": _against(record, max(rivals, key=lambda other: _median(other, _rate)), _rate),
                "latency": _against(record, min(rivals, key=lambda other: _median(other, _latency)), _latency),
            }
    return {**row, "rounds": [_figures(each) for each in rounds]}


def _medians(loads: Sequence[Load]) -> dict[str, Any]:
    def middle(value: Callable[[Load], float]) -> float:
        return significant(median(value(load) for load in loads))

    return {
        "connections": loads[0].connections,
        "texts_per_s": middle(lambda load: load.texts_per_s),
        "p50_ms": middle(lambda load: load.p50_ms),
        "p90_ms": middle(lambda load: load.p90_ms),
        "p99_ms": middle(lambda load: load.p99_ms),
        "refused": sum(load.refused for load in loads),
        "socket_errors": sum(load.socket_errors for load in loads),
    }


def _against(record: Record, other: Record, value: Callable[[Round], float]) -> dict[str, Any]:
    # A server that failed in a later round has fewer; only rounds of the same turn lie close in time.
    theirs = {each.turn: value(each) for each in other.rounds}
    pairs = [(value(each), theirs[each.turn]) for each in record.rounds if each.turn in theirs]
    return {
        "other": other.contestant.name,
        "ratio": significant(_median(record, value) / _median(other, value)),
        "ratio_range": ratio_range(pairs),
    }


def _median(record: Record, value: Callable[[Round], float]) -> float:
    return median(map(value, record.rounds))


def _figures(each: Round) -> dict[str, Any]:
    loads = {
        name: {**asdict(load), "texts_per_s": significant(load.texts_per_s)}
        for name, load in (("single", each.single), ("many", each.many))
    }
    return {**asdict(each), **loads}


def table(rows: Sequence[Mapping[str, Any]], ceilings: Mapping[str, Mapping[str, Any]]) -> str:
    """The summary for people: the ceilings, then one line a server.

    Args:
        rows: as `summarize` gives them.
        ceilings: by precision, as `Ceiling.as_dict` has them.
    """
    lines = []
    for precision, ceiling in ceilings.items():
        best = ceiling["best"]
        lines.append(
            f"the engine alone, {precision}: {best['texts_per_s']:,.0f} texts/s ({best['sessions']} session(s) of "
            f"{best['threads']} thread(s), batches of {best['batch']}), with tokenizing "
            f"{ceiling['best_with_tokenizing']['texts_per_s']:,.0f}; {best['cpu_ms']:.2f} cpu ms a text; "
            f"one text {ceiling['one_text_ms']:.2f} ms"
        )
    lines.append(
        f"{'server':16} {'version':>9} {'texts/s':>8} {'ceiling':>8} {'best other':>11} {'p50 ms':>8} {'p99 ms':>8} "
        f"{'cpu ms':>7} {'errors':>7} | one connection: {'p50 ms':>6} {'p99 ms':>8} {'bare call':>10}"
    )
    for row in rows:
        version = next(iter(row["versions"].values()), "")
        if "many" not in row:
            lines.append(f"{row['name']:16} {version:>9} not measured: {row['error']}")
            continue
        one, many = row["single"], row["many"]
        over = f"{row['over_best_other']['throughput']['ratio']:.2f}x" if "over_best_other" in row else "-"
        cpu = "-" if row["cpu_ms"] is None else f"{row['cpu_ms']:.2f}"
        errors = sum(load[kind] for load in (one, many) for kind in ("refused", "socket_errors"))
        lines.append(
            f"{row['name']:16} {version:>9} {many['texts_per_s']:8,.0f} {row['of_ceiling']:7.2f}x {over:>11} "
            f"{many['p50_ms']:8.1f} {many['p99_ms']:8.1f} {cpu:>7} {errors:7} | {'':15} {one['p50_ms']:6.2f} "
            f"{one['p99_ms']:8.2f} {row['of_bare_call']:9.2f}x" + (f"  {row['error']}" if row["error"] else "")
        )
    return "\n".join(lines)
