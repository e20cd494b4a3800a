"""Timing two models in turn, and what becomes of the figures: percentiles, medians over rounds, ratios."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

import numpy as np

from common.batching import BatchLimits
from common.tokenization import Text
from serve.engine import Engine

# The two parts, in the order in which they are shown.
ROLES = ("student", "teacher")
PERCENTILES = (50, 90, 99)
# With fewer calls, the 99th percentile is little else than the slowest of them.
ENOUGH_FOR_P99 = 100

Result = TypeVar("Result")


@dataclass(frozen=True)
class Comparison:
    """One figure of both models.

    Attributes:
        student, teacher: one value a round, in the same unit; the values of one round were taken one after the other.
    """

    student: Sequence[float]
    teacher: Sequence[float]

    def as_dict(self) -> dict[str, Any]:
        """Medians over the rounds, their ratio, and the least and greatest ratio of a single round.

        The ratio is student over teacher; None where the teacher's figure is 0.
        """
        student, teacher = median(self.student), median(self.teacher)
        return {
            "student": significant(student),
            "teacher": significant(teacher),
            "ratio": ratio(student, teacher),
            "ratio_range": self.ratio_range(),
        }

    def ratio_range(self) -> list[float] | None:
        """The least and greatest ratio of a single round; None where no round has one."""
        by_round = [ratio(*values) for values in zip(self.student, self.teacher, strict=True)]
        known = [value for value in by_round if value is not None]
        return [min(known), max(known)] if known else None


def ratio(student: float, teacher: float) -> float | None:
    """Student over teacher; None where that means nothing."""
    return significant(student / teacher) if teacher else None


def significant(value: float) -> float:
    """`value` to six significant digits: no timer is better."""
    return float(f"{value:.6g}")


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """`p50`, `p90` and `p99` of durations in seconds, as milliseconds; linear between neighbours."""
    values = np.percentile(np.asarray(seconds) * 1e3, PERCENTILES)
    return {f"p{rank}": float(value) for rank, value in zip(PERCENTILES, values, strict=True)}


def compare_calls(student: Sequence[Sequence[float]], teacher: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Percentiles over the calls of all rounds together, as `p50_ms`, `p90_ms` and `p99_ms`.

    Args:
        student, teacher: seconds of each call, by round.

    Returns:
        Each percentile as `Comparison.as_dict` has it, with `ratio_range` from each round's own percentile. `p99_ms`
        is None where either has fewer than `ENOUGH_FOR_P99` calls; its `ratio_range` is always None.
    """
    pooled = [percentiles([second for calls in rounds for second in calls]) for rounds in (student, teacher)]
    by_round = [[percentiles(calls) for calls in rounds] for rounds in (student, teacher)]
    calls = min(sum(map(len, rounds)) for rounds in (student, teacher))
    figures: dict[str, Any] = {}
    for rank in PERCENTILES:
        name = f"p{rank}"
        figure = Comparison(*([values[name]] for values in pooled)).as_dict()
        rounds = Comparison(*([values[name] for values in role] for role in by_round))
        figure["ratio_range"] = None if rank == 99 else rounds.ratio_range()
        figures[f"{name}_ms"] = None if rank == 99 and calls < ENOUGH_FOR_P99 else figure
    return figures


def alternate(
    engines: dict[str, Engine],
    jobs: Sequence[Callable[[Engine], Result]],
    rounds: int,
    done: Callable[[], Any],
) -> list[dict[str, list[Result]]]:
    """Runs every job with both models in every round.

    Within a job one model follows the other at once, and each round swaps who goes first: a machine that slows down
    or is busy for a while does so for both.

    Args:
        engines: by role.
        jobs: each measures one thing on the engine it is given.
        done: called after each pair of measurements.

    Returns:
        For each job, by role, one result a round.
    """
    results: list[dict[str, list[Result]]] = [{role: [] for role in ROLES} for _ in jobs]
    for turn in range(rounds):
        order = ROLES if turn % 2 == 0 else ROLES[::-1]
        for job, result in zip(jobs, results, strict=True):
            for role in order:
                result[role].append(job(engines[role]))
            done()
    return results


def time_calls(engine: Engine, texts: Sequence[Text]) -> list[float]:
    """Seconds of each text's own call, from the string to the answer."""
    seconds = []
    for text in texts:
        started = time.perf_counter()
        engine.classify([text])
        seconds.append(time.perf_counter() - started)
    return seconds


def time_batches(engine: Engine, texts: Sequence[Text], size: int) -> float:
    """Seconds for all the texts in batches of `size`, sorted by length, tokenizing included."""
    # The token limit is out of the way: the batches shall have the size that the report says.
    limits = BatchLimits(items=size, tokens=size * engine.encoder.max_length)
    batched = Engine(engine.bundle, engine.model, engine.encoder, limits)
    started = time.perf_counter()
    batched.classify(texts)
    return time.perf_counter() - started


def affordable(seconds: float, cost: float, *, least: int, most: int) -> int:
    """How many units of `cost` seconds fit into `seconds`, within the bounds (`most` wins)."""
    return min(most, max(least, int(seconds / max(cost, 1e-9))))
