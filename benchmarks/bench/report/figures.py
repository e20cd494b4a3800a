"""Figures as text: units, intervals, and how many times as fast one model is as the other."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.bench.report.schema_parts import Estimate

Form = Callable[[float], str]

# No characters (SVG is XML), and the marks that embed, override and isolate a direction (Unicode Annex 9, §2).
_UNREADABLE = frozenset("\ufffe\uffff\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

# Stands for a figure that there is not.
NONE = "–"


@dataclass(frozen=True)
class Entry:
    """A table's entry: what it says, and in smaller letters below what goes with it."""

    text: str
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """All that it says."""
        return [self.text, *self.notes]


def number(value: float) -> str:
    """Three significant digits, or all digits before the point: 0.00123, 1.20, 12.3, 1,234."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 1:
        return f"{value:.1f}" if size >= 10 else f"{value:.2f}"
    return f"{value:#.3g}" if size else "0"


def percent(value: float) -> str:
    """A share as a percentage."""
    return f"{100 * value:.1f} %"


def times(value: float) -> str:
    """A ratio."""
    return f"{value:.2f}×" if value < 100 else f"{value:,.0f}×"


def metric(value: float) -> str:
    """A metric's value: differences of a thousandth count."""
    return f"{value:.4f}"


def in_unit(unit: str, size: float = 1.0) -> Form:
    """A form for values that are told in `unit`, of which one is `size` of the value's own."""
    return lambda value: f"{number(value / size)} {unit}"


MILLISECONDS = in_unit("ms")
SECONDS = in_unit("s")
RATE = in_unit("texts/s")
TOKEN_RATE = in_unit("tokens/s")
MEGABYTES = in_unit("MB", 1e6)
MILLIONS = in_unit("M", 1e6)
GIGAFLOPS = in_unit("GFLOP", 1e9)
GIGAFLOPS_PER_S = in_unit("GFLOP/s", 1e9)


def count(amount: int, name: str) -> str:
    """`1 text`, `1,200 texts`."""
    return f"{amount:,} {name}{'' if amount == 1 else 's'}"


def bounds(estimate: Estimate, form: Form = number) -> str:
    """The interval; empty where it is not known."""
    if estimate.low is None or estimate.high is None:
        return ""
    low, high = form(estimate.low), form(estimate.high)
    number_low, _, unit = low.partition(" ")
    # The unit stands once, after the second bound.
    return f"{number_low if unit and high.endswith(' ' + unit) else low.rstrip('×')} to {high}"


def told(estimate: Estimate, form: Form = number) -> str:
    """Value and interval on one line."""
    interval = bounds(estimate, form)
    return f"{form(estimate.value)} ({interval})" if interval else form(estimate.value)


def entry(estimate: Estimate | None, form: Form = number) -> Entry:
    """Value and interval as a table's entry."""
    if estimate is None:
        return Entry(NONE)
    interval = bounds(estimate, form)
    return Entry(form(estimate.value), (interval,) if interval else ())


def exact(value: float | None, form: Form = number) -> Entry:
    """A figure without an interval as a table's entry."""
    return Entry(NONE if value is None else form(value))


def inverse(ratio: Estimate | None) -> Estimate | None:
    """How many times as fast, from the ratio of the times."""
    if ratio is None or ratio.value <= 0:
        return None
    low = 1 / ratio.high if ratio.high else None
    high = 1 / ratio.low if ratio.low else None
    return Estimate(value=1 / ratio.value, low=low, high=high)


def excludes_one(ratio: Estimate) -> bool:
    """Whether the interval of a ratio tells that there is a difference."""
    return ratio.low is not None and ratio.high is not None and not ratio.low <= 1 <= ratio.high


def sentence(text: str) -> str:
    """With a capital at its beginning."""
    return text[:1].upper() + text[1:]


def readable(text: str) -> str:
    """A text of the data as it may be shown: line breaks, controls, what XML may not hold and what turns the reading
    direction of all that follows become blanks.
    """
    kept = "".join(
        " " if unicodedata.category(character) in ("Cc", "Cs") or character in _UNREADABLE else character
        for character in text
    )
    return " ".join(kept.split())
