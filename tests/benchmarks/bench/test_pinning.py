"""Which cores are chosen, and that the process is on them and comes back."""

from __future__ import annotations

import os
import threading

import pytest

from benchmarks.bench.pinning import choose_cores, describe_clock, pinned

NEIGHBOURS = {core: frozenset({core, core ^ 1}) for core in range(8)}
HALVES = {core: frozenset({core % 4, core % 4 + 4}) for core in range(8)}
ALONE = {core: frozenset({core}) for core in range(8)}


@pytest.mark.parametrize(
    ("siblings", "usable", "count", "expected"),
    [
        (NEIGHBOURS, range(8), 2, [0, 2]),
        (NEIGHBOURS, range(8), 5, [0, 1, 2, 4, 6]),
        (HALVES, range(8), 4, [0, 1, 2, 3]),
        (HALVES, range(8), 8, list(range(8))),
        (ALONE, (3, 5, 7), 2, [3, 5]),
        (NEIGHBOURS, (1, 2, 3), 2, [1, 2]),
    ],
)
def test_threads_get_physical_cores_first(
    siblings: dict[int, frozenset[int]], usable: range, count: int, expected: list[int]
) -> None:
    assert choose_cores(list(usable), count, siblings) == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin")
def test_the_process_and_its_threads_are_pinned_while_the_block_runs() -> None:
    before = os.sched_getaffinity(0)
    seen: list[set[int]] = []
    with pinned(1) as cores:
        assert cores is not None
        thread = threading.Thread(target=lambda: seen.append(os.sched_getaffinity(0)))
        thread.start()
        thread.join()
        assert seen == [set(cores)]
        assert len(cores) == 1
    assert os.sched_getaffinity(0) == before


def test_a_system_that_cannot_pin_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pinned(1) as cores:
        assert cores is None


def test_the_clock_is_told_or_is_not() -> None:
    assert set(describe_clock([0])) == {"cpu_governor", "cpu_mhz"}
    assert describe_clock([10**6]) == {"cpu_governor": None, "cpu_mhz": None}
