"""What the benchmarks of servers share: rounded figures, ratios of rounds, and timed calls of an engine."""

from __future__ import annotations

import time
from collections.abc import Sequence

from common.tokenization import Text
from serve.engine import Engine


def significant(value: float) -> float:
    """`value` to six significant digits: no timer is better."""
    return float(f"{value:.6g}")


def ratio_range(pairs: Sequence[tuple[float, float]]) -> list[float] | None:
    """The least and greatest ratio of a pair's first value over its second; None where no pair has one."""
    known = [significant(first / second) for first, second in pairs if second]
    return [min(known), max(known)] if known else None


def time_calls(engine: Engine, texts: Sequence[Text]) -> list[float]:
    """Seconds of each text's own call, from the string to the answer."""
    seconds = []
    for text in texts:
        started = time.perf_counter()
        engine.classify([text])
        seconds.append(time.perf_counter() - started)
    return seconds
