"""The frontier holds what nothing beats, and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from distill.sweep.frontier import frontier

points = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=12)


@given(points)
def test_nothing_on_the_frontier_is_beaten_and_all_else_is(found: list[tuple[float, float]]) -> None:
    on_it = frontier(found)

    def beaten(place: int) -> bool:
        latency, metric = found[place]
        return any(
            (other < latency and value >= metric) or (other <= latency and value > metric) for other, value in found
        )

    assert set(on_it) == {place for place in range(len(found)) if not beaten(place)}
    chosen = [found[place] for place in on_it]
    assert chosen == sorted(chosen)


def test_of_errors_the_lower_are_better() -> None:
    assert frontier([(1, 0.5), (2, 0.1), (3, 0.3)], lower_is_better=True) == [0, 1]
    assert frontier([(1, 0.5), (2, 0.1), (3, 0.7)]) == [0, 2]
