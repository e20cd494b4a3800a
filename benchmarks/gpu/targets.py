"""What the timings say: ratios between implementations, how memory grows, and which targets are met.

All from the records of `benchmarks.relative_attention`, which describes them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.attention_baselines import (
    BIASED,
    COMMON,
    CUDNN,
    EAGER,
    FLASH,
    FLEX,
    FUSED,
    FUSED_PROJECTING,
    IMPLEMENTATIONS,
)

FORWARD, BOTH = "forward", "forward and backward"
PASSES = (FORWARD, BOTH)
# What computes the same function, but for the common implementation, which has a target of its own.
OTHERS = (EAGER, BIASED, FLEX)
# The greatest exponent of memory over length that still counts as linear, and how many lengths it takes to tell.
LINEAR = 1.1
_ENOUGH_LENGTHS = 3

Record = Mapping[str, Any]
Case = tuple[str, str, int, int]  # device, dtype, batch, length


@dataclass(frozen=True)
class Target:
    """One of the project's aims for the kernels.

    Attributes:
        text: what it asks for.
        work: the pass that it is about.
        ratio: a key of `ratios`.
        limit: of that ratio.
        at_most: whether the ratio may be at most `limit`; at least otherwise.
        applies: to a batch and a length.
    """

    text: str
    work: str
    ratio: str
    limit: float
    at_most: bool
    applies: Callable[[int, int], bool]


TARGETS = (
    Target("over flash attention, T ≥ 512", FORWARD, "over_flash", 1.6, True, lambda _, length: length >= 512),
    Target("over flash attention, T = 128, B ≥ 8", FORWARD, "over_flash", 1.2, True, lambda b, t: b >= 8 and t == 128),
    Target("faster than the common eager", FORWARD, "common_over", 4.0, False, lambda *_: True),
    Target("faster than the best other", FORWARD, "best_other_over", 1.5, False, lambda *_: True),
    Target("over flash attention", BOTH, "over_flash", 2.0, True, lambda *_: True),
)


def summarize(records: Sequence[Record]) -> dict[str, Any]:
    """Everything that follows from the records: `ratios`, `memory` and `targets`."""
    found = ratios(records)
    growth = memory_growth(records)
    return {"ratios": found, "memory": growth, "targets": [*_timing_targets(found), *_memory_targets(growth)]}


def ratios(records: Sequence[Record]) -> list[dict[str, Any]]:
    """For each case and pass the quotients of median times; null where one of the two has none.

    Returns:
        Objects with `device`, `dtype`, `batch`, `length`, `pass`, and:

        - `over_flash`, `over_cudnn`: relative_attention, the positions given, over attention without positions;
        - `common_over`: the common eager implementation over relative_attention, each with its projection;
        - `best_other_over`, `best_other`: the same of the fastest other implementation of the function, which it names;
        - `projecting_once`: what the common implementation gains by that alone;
        - `kernel`: what it then gains by the kernel.
    """
    return [
        {"device": device, "dtype": dtype, "batch": batch, "length": length, "pass": work, **_quotients(medians)}
        for (device, dtype, batch, length), work, medians in _by_case(records, lambda done: done["median_ms"])
    ]


def memory_growth(records: Sequence[Record]) -> list[dict[str, Any]]:
    """How the peak memory of each implementation grows with the length, by dtype, batch and pass.

    Returns:
        Objects with `implementation`, `device`, `dtype`, `batch`, `pass`, `exponent` (of a power of the length),
        `linear`, and `bytes` by length; only where enough lengths were measured.
    """
    series: dict[tuple[str, str, str, int, str], dict[int, float]] = {}
    for (device, dtype, batch, length), work, peaks in _by_case(records, lambda done: done["peak_bytes"]):
        for name, peak in peaks.items():
            series.setdefault((name, device, dtype, batch, work), {})[length] = peak
    found = []
    for key, by_length in series.items():
        if len(by_length) >= _ENOUGH_LENGTHS:
            exponent = growth_exponent(by_length)
            named = dict(zip(("implementation", "device", "dtype", "batch", "pass"), key, strict=True))
            found.append(named | {"exponent": round(exponent, 3), "linear": exponent <= LINEAR, "bytes": by_length})
    return found


def growth_exponent(by_length: Mapping[int, float]) -> float:
    """The p of value ∝ length^p, by least squares over the logarithms."""
    lengths = [math.log(length) for length in by_length]
    return statistics.linear_regression(lengths, [math.log(value) for value in by_length.values()]).slope


def _quotients(medians: Mapping[str, float]) -> dict[str, Any]:
    def quotient(above: str, below: str) -> float | None:
        return round(medians[above] / medians[below], 3) if above in medians and below in medians else None

    others = {name: quotient(name, IMPLEMENTATIONS[name].peer) for name in OTHERS}
    best, name = min(((value, name) for name, value in others.items() if value is not None), default=(None, None))
    return {
        "over_flash": quotient(FUSED, FLASH),
        "over_cudnn": quotient(FUSED, CUDNN),
        "common_over": quotient(COMMON, FUSED_PROJECTING),
        "best_other_over": best,
        "best_other": name,
        "projecting_once": quotient(COMMON, EAGER),
        "kernel": quotient(EAGER, FUSED_PROJECTING),
    }


def _by_case(
    records: Sequence[Record], figure: Callable[[Record], float | None]
) -> Iterable[tuple[Case, str, dict[str, float]]]:
    """Each case and pass with the figure of every implementation that has one there."""
    cases: dict[Case, list[Record]] = {}
    for record in records:
        case = (record["device"], record["dtype"], record["batch"], record["length"])
        cases.setdefault(case, []).append(record)
    for case, here in cases.items():
        for work in PASSES:
            timed = {r["implementation"]: figure(r[work]) for r in here if r[work]["status"] == "timed"}
            yield case, work, {name: value for name, value in timed.items() if value}


def _timing_targets(found: Sequence[Record]) -> Iterable[dict[str, Any]]:
    for target in TARGETS:
        for ratio in found:
            if ratio["pass"] == target.work and target.applies(ratio["batch"], ratio["length"]):
                measured = ratio[target.ratio]
                case = {name: ratio[name] for name in ("device", "dtype", "batch", "length", "pass")}
                yield _entry(target.text, case, measured, target.limit, at_most=target.at_most)


def _memory_targets(growth: Sequence[Record]) -> Iterable[dict[str, Any]]:
    for entry in growth:
        if entry["implementation"] == FUSED:
            case = {name: entry[name] for name in ("device", "dtype", "batch", "pass")} | {"length": None}
            yield _entry("exponent of memory over length", case, entry["exponent"], LINEAR, at_most=True)


def _entry(text: str, case: Record, measured: float | None, limit: float, *, at_most: bool) -> dict[str, Any]:
    """One target in one case; `met` is null where nothing was measured."""
    met = None if measured is None else measured <= limit if at_most else measured >= limit
    bound = "at most" if at_most else "at least"
    return {"target": text, "asked": f"{bound} {limit:g}", **case, "measured": measured, "limit": limit, "met": met}
