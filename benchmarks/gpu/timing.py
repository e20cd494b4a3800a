"""How long a call takes on a GPU and how much of its memory: medians, quantiles, peaks.

On the CPU the same functions use the clock, so that what measures can be tried where no GPU is; such a figure says so.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

# The median first, then the 20 % and the 80 % quantile.
QUANTILES = (0.5, 0.2, 0.8)
# Milliseconds of one replayed graph, of which ten are timed; and of warming up and timing call by call.
_REPLAY_MS = 10
_WARM_UP_MS, _REPEAT_MS = 25, 100
# Seconds for which the CPU repeats a call, and the fewest calls.
_CPU_SECONDS, _CPU_CALLS = 0.05, 3

GRAPH, EVENTS, CLOCK = "CUDA graph replays", "CUDA events", "CPU clock"


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call.

    Attributes:
        median_ms, low_ms, high_ms: the median, the 20 % and the 80 % quantile; over replays each the mean of a graph
            of calls, else over calls.
        timer: `GRAPH`, with inputs that the L2 cache may hold; `EVENTS`, the cache cleared before each call, the time
            that Python takes to launch it included where that is the longer one; or `CLOCK`, on a CPU.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    timer: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def time_call(call: Callable[[], Any], device: torch.device, *, replay: bool) -> Timing:
    """Times `call` on `device`.

    Args:
        call: launches work on the current stream and waits for nothing.
        replay: through CUDA graphs, for calls that take less time than their launch. A call that cannot be captured,
            which may also be for memory, is timed with events.

    Raises:
        torch.OutOfMemoryError: the call needs more memory than there is.
    """
    if device.type != "cuda":
        return _by_clock(call)
    from triton import testing

    if replay:
        try:
            median, low, high = testing.do_bench_cudagraph(call, rep=_REPLAY_MS, quantiles=list(QUANTILES))
            return Timing(median, low, high, GRAPH)
        except RuntimeError:
            torch.cuda.synchronize()  # raises where more than the capture failed
    median, low, high = testing.do_bench(call, warmup=_WARM_UP_MS, rep=_REPEAT_MS, quantiles=list(QUANTILES))
    return Timing(median, low, high, EVENTS)


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int | None:
    """The most GPU memory that one call held at once beyond what was there, its result included; None on a CPU.

    Call it once before: libraries take their workspace on the first call.
    """
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    kept = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del kept
    return peak


def _by_clock(call: Callable[[], Any]) -> Timing:
    call()
    seconds: list[float] = []
    while len(seconds) < _CPU_CALLS or sum(seconds) < _CPU_SECONDS:
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    fifths = statistics.quantiles(seconds, n=5, method="inclusive")
    return Timing(1e3 * statistics.median(seconds), 1e3 * fifths[0], 1e3 * fifths[-1], CLOCK)
