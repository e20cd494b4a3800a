"""The figures of timed queries that several scenarios share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, TypeVar

from benchmarks.bench.contestants import TEACHER
from benchmarks.bench.estimates import estimate_percentiles, estimate_ratio

Result = TypeVar("Result")
Rounds = Sequence[Sequence[float]]


def latency_figures(rounds: Rounds, teacher: Rounds | None) -> dict[str, Any]:
    """`calls`, `p50_ms`, `p90_ms`, `p99_ms` and `ratio_p50` of queries.

    Args:
        rounds: seconds of each query, by round.
        teacher: the teacher's; None for the teacher itself, which has no ratio.
    """
    percentiles = estimate_percentiles(rounds)
    return {
        "calls": sum(map(len, rounds)),
        **{f"{name}_ms": each and each.scaled(1e3).as_dict() for name, each in percentiles.items()},
        "ratio_p50": round_ratio(rounds, teacher),
    }


def round_ratio(rounds: Rounds, teacher: Rounds | None) -> dict[str, Any] | None:
    """The median over the rounds of one median query over the teacher's, as `results.json` has it."""
    if teacher is None:
        return None
    ratio = estimate_ratio([median(part) for part in rounds], [median(part) for part in teacher])
    return None if ratio is None else ratio.as_dict()


def base_of(id: str, results: Mapping[str, Result]) -> Result | None:
    """The teacher's result, which another model's is a ratio to; None for the teacher itself."""
    return None if id == TEACHER else results[TEACHER]
