"""The process kept on a few cores while it measures, and what the system says of their clock."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_CPUS = Path("/sys/devices/system/cpu")


@contextmanager
def pinned(count: int) -> Iterator[list[int] | None]:
    """Keeps this thread, and all threads and processes that it starts, on `count` cores while the block runs.

    Threads that are there already stay where they are: open the models inside.

    Yields:
        The cores; None where the system cannot pin.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    before = os.sched_getaffinity(0)
    cores = choose_cores(sorted(before), count, {core: _siblings(core) for core in before})
    os.sched_setaffinity(0, cores)
    try:
        yield cores
    finally:
        os.sched_setaffinity(0, before)


def choose_cores(usable: list[int], count: int, siblings: dict[int, frozenset[int]]) -> list[int]:
    """The first cores that share no physical core with an earlier one; the others behind them.

    Args:
        siblings: the logical cores that share each one's physical core, itself included.
    """
    taken: set[frozenset[int]] = set()
    first: list[int] = []
    later: list[int] = []
    for core in usable:
        (later if siblings[core] in taken else first).append(core)
        taken.add(siblings[core])
    return sorted((first + later)[:count])


def describe_clock(cores: list[int] | None) -> dict[str, Any]:
    """`cpu_governor` and `cpu_mhz` (now) of the first core; None each where the system does not tell."""
    directory = _CPUS / f"cpu{cores[0] if cores else 0}" / "cpufreq"
    governor, khz = _read(directory / "scaling_governor"), _read(directory / "scaling_cur_freq")
    return {"cpu_governor": governor, "cpu_mhz": int(khz) // 1000 if khz and khz.isdecimal() else None}


def _siblings(core: int) -> frozenset[int]:
    text = _read(_CPUS / f"cpu{core}" / "topology" / "thread_siblings_list")
    if text is None:
        return frozenset({core})
    found: set[int] = set()
    for part in text.split(","):
        low, _, high = part.partition("-")
        found.update(range(int(low), int(high or low) + 1))
    return frozenset(found)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
