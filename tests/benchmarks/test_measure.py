"""Ratios and digits on known figures."""

from __future__ import annotations

import pytest

from benchmarks.measure import ratio_range, significant


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [([(1.0, 2.0), (10.0, 40.0), (1.2, 2.4)], [0.25, 0.5]), ([(1.0, 0.0), (1.0, 3.0)], [0.333333] * 2), ([], None)],
)
def test_single_rounds_set_the_range(pairs: list[tuple[float, float]], expected: list[float] | None) -> None:
    assert ratio_range(pairs) == expected


def test_no_more_digits_than_a_timer_has() -> None:
    assert significant(12345678.9) == 12345700.0
