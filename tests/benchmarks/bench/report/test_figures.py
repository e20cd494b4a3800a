"""Figures as text."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench.report.figures import (
    MEGABYTES,
    MILLISECONDS,
    NONE,
    Entry,
    bounds,
    count,
    entry,
    excludes_one,
    inverse,
    number,
    percent,
    readable,
    sentence,
    times,
    told,
)
from benchmarks.bench.report.schema_parts import Estimate


def _estimate(value: float, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(value=value, low=low, high=high)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.00123, "0.00123"),
        (0.9, "0.900"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (123.4, "123"),
        (1234.5, "1,234"),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


@given(st.floats(1e-6, 1e12))
def test_a_number_told_is_within_half_a_percent(value: float) -> None:
    assert math.isclose(float(number(value).replace(",", "")), value, rel_tol=0.0051)


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (_estimate(2, 1.5, 2.5), "2.00 ms (1.50 to 2.50 ms)"),
        (_estimate(2), "2.00 ms"),
        (_estimate(2, None, 3), "2.00 ms"),
    ],
)
def test_the_unit_stands_once_in_an_interval(estimate: Estimate, text: str) -> None:
    assert told(estimate, MILLISECONDS) == text


def test_intervals_of_ratios_and_shares() -> None:
    assert bounds(_estimate(2, 1.9, 2.1), times) == "1.90 to 2.10×"
    assert bounds(_estimate(0.5, 0.4, 0.6), percent) == "40.0 to 60.0 %"


def test_entries() -> None:
    assert entry(None) == Entry(NONE)
    assert entry(_estimate(2e6), MEGABYTES) == Entry("2.00 MB")
    assert entry(_estimate(2, 1, 3)).lines() == ["2.00", "1.00 to 3.00"]


def test_the_inverse_turns_the_bounds_round() -> None:
    assert inverse(_estimate(0.5, 0.25, 0.8)) == _estimate(2, 1.25, 4)
    assert inverse(_estimate(0.5)) == _estimate(2)
    assert inverse(None) is None
    assert inverse(_estimate(0)) is None


@pytest.mark.parametrize(
    ("low", "high", "known"), [(1.1, 1.3, True), (0.5, 0.9, True), (0.9, 1.1, False), (None, None, False)]
)
def test_a_difference_is_told_by_the_interval(low: float | None, high: float | None, known: bool) -> None:
    assert excludes_one(_estimate(1.2, low, high)) is known


@given(st.text(st.characters(codec=None)))
def test_what_is_readable_can_be_written_on_one_line(text: str) -> None:
    shown = readable(text)
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert len(shown.splitlines()) <= 1


def test_emoji_and_joined_letters_stay_whole() -> None:
    assert readable("a\x00b\ud800c\nd 👩‍🚀 می‌خواهم") == "a b c d 👩‍🚀 می‌خواهم"


def test_what_turns_the_page_around_or_breaks_its_charts_is_left_out() -> None:
    assert readable("a\u202etxt.exe\u2066b\uffffc") == "a txt.exe b c"


def test_small_words() -> None:
    assert (count(1, "text"), count(1200, "text")) == ("1 text", "1,200 texts")
    assert (sentence("one text"), sentence("")) == ("One text", "")
