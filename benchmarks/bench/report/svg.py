"""Charts as inline SVG: axes, lines, points with intervals, a legend; each with a title and a description.

Colours come from CHART_STYLE, which the page and every file of its own must carry. They stay apart for colour-blind
readers, and no series is told by colour alone: each has a marker and a dash pattern too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.bench.report.figures import readable

WIDTH = 360
HEIGHT = 236
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 38
_LEGEND_ROW = 17
_LEGEND_CHARACTERS = 46
_MARK = 4.5

# Okabe and Ito's (2008), darkened or lightened until each stands out 3 to 1 from its ground.
CHART_STYLE = """
.chart { font: 11px system-ui, sans-serif; --chart-ink: #1d2023; --chart-muted: #585d64; --chart-line: #dddedb; }
.chart { --chart-ground: #fff; --s0: #0072b2; --s1: #c65200; --s2: #007f5c; --s3: #a8437f; --s4: #806000; }
.chart { --s5: #5557a5; }
@media screen and (prefers-color-scheme: dark) {
  .chart { --chart-ink: #e8eaeb; --chart-muted: #a4abb1; --chart-line: #3a4045; --chart-ground: #1e2225; }
  .chart { --s0: #6fc0f0; --s1: #ff9a52; --s2: #4fd1a5; --s3: #f0a3cf; --s4: #e8d44d; --s5: #b3b5ff; }
}
.chart text { fill: var(--chart-ink); }
.chart .tick { fill: var(--chart-muted); font-size: 10px; }
.chart .grid { stroke: var(--chart-line); }
.chart .level { stroke: var(--chart-ink); stroke-dasharray: 2 3; }
.chart .named { fill: var(--chart-ink); stroke: var(--chart-ground); stroke-width: 3; paint-order: stroke; }
.chart .line { fill: none; stroke: currentColor; stroke-width: 1.75; }
.chart .bar { stroke: currentColor; stroke-width: 1.5; }
.chart .mark { fill: currentColor; stroke: var(--chart-ground); stroke-width: 0.75; }
.chart .hollow { fill: var(--chart-ground); stroke: currentColor; stroke-width: 1.5; }
.chart .ground { fill: var(--chart-ground); }
.chart .s0 { color: var(--s0); } .chart .s1 { color: var(--s1); } .chart .s2 { color: var(--s2); }
.chart .s3 { color: var(--s3); } .chart .s4 { color: var(--s4); } .chart .s5 { color: var(--s5); }
"""
_COLOURS = 6
_DASHES = ("", "6 3", "2 2", "8 3 2 3", "10 4", "4 2")
_SHAPES: tuple[Callable[[float, float], str], ...] = (
    lambda x, y: f"M{x - _MARK:.1f} {y:.1f}a{_MARK} {_MARK} 0 1 0 {2 * _MARK} 0a{_MARK} {_MARK} 0 1 0 {-2 * _MARK} 0z",
    lambda x, y: f"M{x - 4:.1f} {y - 4:.1f}h8v8h-8z",
    lambda x, y: f"M{x:.1f} {y - 5:.1f}l5 9h-10z",
    lambda x, y: f"M{x:.1f} {y - 5.5:.1f}l5 5.5l-5 5.5l-5 -5.5z",
    lambda x, y: f"M{x:.1f} {y + 5:.1f}l5 -9h-10z",
    lambda x, y: f"M{x - 1.7:.1f} {y - 5:.1f}h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3h-3.3v-3.4h3.3z",
)


@dataclass(frozen=True)
class Axis:
    """A scale with its ticks.

    Attributes:
        low, high: the values at its ends.
        ticks: values, and what stands at them.
        logarithmic: equal ratios take equal lengths.
    """

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, from 0 to 1; one beyond an end lies at the end."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        return min(1.0, max(0.0, (value - low) / (high - low)))


def linear_axis(label: str, values: Sequence[float], *, from_zero: bool = True, room: float = 0.06) -> Axis:
    """An axis over all the values; with `from_zero`, lengths along it are true to their ratios."""
    low, high = min(values), max(values)
    if from_zero:
        low = min(0.0, low)
    span = (high - low) or abs(high) * 0.1 or 1.0
    high += room * span
    if not from_zero:
        low -= room * span
    return Axis(label, low, high, _even_ticks(low, high))


def logarithmic_axis(label: str, values: Sequence[float]) -> Axis:
    """An axis over all the values that are above 0."""
    known = [value for value in values if value > 0] or [1.0]
    low, high = min(known) / 1.1, max(known) * 1.1
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for leading in ((1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**decade for decade in decades for digit in leading]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= 7:
            break
    named = tuple((tick, f"{tick:,g}") for tick in ticks)
    return Axis(label, low, high, named if len(named) > 2 else _even_ticks(low, high), logarithmic=True)


def category_axis(label: str, names: Sequence[str]) -> Axis:
    """An axis of names at 0, 1, 2, …"""
    return Axis(label, -0.5, len(names) - 0.5, tuple((float(index), name) for index, name in enumerate(names)))


class Chart:
    """A chart that is drawn piece by piece.

    Args:
        name: unique in its page; the ids in it begin with it.
        title, description: what a screen reader says.
        series: their names, in the order of their numbers.
    """

    def __init__(self, name: str, title: str, description: str, x: Axis, y: Axis, series: Sequence[str]):
        self.name = name
        self.title = title
        self.description = description
        self._x, self._y, self._series = x, y, series
        self._marks: list[str] = []

    def line(self, series: int, points: Sequence[tuple[float, float]]) -> None:
        """Joins points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self._at(*point) for point in points))
        dash = f' stroke-dasharray="{_DASHES[series % _COLOURS]}"' if series % _COLOURS else ""
        self._marks.append(f'<polyline class="line {_colour(series)}" points="{path}"{dash}/>')

    def point(
        self,
        series: int,
        x: float,
        y: float,
        *,
        x_interval: tuple[float, float] | None = None,
        y_interval: tuple[float, float] | None = None,
        hollow: bool = False,
        note: str = "",
    ) -> None:
        """A marker with its intervals; `note` is shown where the pointer rests."""
        left, top = self._at(x, y)
        bars = []
        if x_interval:
            low, high = (self._at(bound, y)[0] for bound in x_interval)
            bars.append(f"M{low:.1f} {top - 3:.1f}v6m0 -3H{high:.1f}m0 -3v6")
        if y_interval:
            low, high = (self._at(x, bound)[1] for bound in y_interval)
            bars.append(f"M{left - 3:.1f} {low:.1f}h6m-3 0V{high:.1f}m-3 0h6")
        drawn = f'<path class="bar" fill="none" d="{"".join(bars)}"/>' if bars else ""
        tip = f"<title>{_text(note)}</title>" if note else ""
        mark = _shape(series, left, top, hollow=hollow)
        self._marks.append(f'<g class="{_colour(series)}">{tip}{drawn}{mark}</g>')

    def level(self, y: float, label: str) -> None:
        """A line across at one height; its name hides what lies below it."""
        _, top = self._at(self._x.low, y)
        self._marks.append(
            f'<path class="level" d="M{_LEFT} {top:.1f}H{WIDTH - _RIGHT}"/>'
            f'<text class="named" x="{_LEFT + 4}" y="{top - 4:.1f}">{_text(label)}</text>'
        )

    def svg(self, style: str = "") -> str:
        """The element; with a style it is whole as a file of its own."""
        height = HEIGHT + _LEGEND_ROW * len(self._series)
        ids = f"{self.name}-title {self.name}-description"
        ground = f'<style>{style}</style><rect class="ground" width="100%" height="100%"/>' if style else ""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" aria-labelledby="{ids}" '
            f'viewBox="0 0 {WIDTH} {height}">'
            f'<title id="{self.name}-title">{_text(self.title)}</title>'
            f'<desc id="{self.name}-description">{_text(self.description)}</desc>'
            f"{ground}{self._axes()}{''.join(self._marks)}{self._legend()}</svg>"
        )

    def _at(self, x: float, y: float) -> tuple[float, float]:
        left = _LEFT + self._x.place(x) * (WIDTH - _LEFT - _RIGHT)
        return left, HEIGHT - _BOTTOM - self._y.place(y) * (HEIGHT - _TOP - _BOTTOM)

    def _axes(self) -> str:
        bottom = HEIGHT - _BOTTOM
        parts = [f'<path class="grid" d="M{_LEFT} {bottom}H{WIDTH - _RIGHT}"/>']
        for value, label in self._x.ticks:
            left, _ = self._at(value, self._y.low)
            parts.append(f'<path class="grid" d="M{left:.1f} {bottom}v4"/>')
            parts.append(
                f'<text class="tick" text-anchor="middle" x="{left:.1f}" y="{bottom + 15}">{_text(label)}</text>'
            )
        for value, label in self._y.ticks:
            _, top = self._at(self._x.low, value)
            parts.append(f'<path class="grid" d="M{_LEFT} {top:.1f}H{WIDTH - _RIGHT}"/>')
            parts.append(
                f'<text class="tick" text-anchor="end" x="{_LEFT - 5}" y="{top + 3.5:.1f}">{_text(label)}</text>'
            )
        middle = (_LEFT + WIDTH - _RIGHT) / 2
        across = (_TOP + bottom) / 2
        parts.append(f'<text text-anchor="middle" x="{middle:.0f}" y="{HEIGHT - 6}">{_text(self._x.label)}</text>')
        turned = f'transform="translate(11 {across:.0f}) rotate(-90)"'
        parts.append(f'<text text-anchor="middle" {turned}>{_text(self._y.label)}</text>')
        return "".join(parts)

    def _legend(self) -> str:
        parts = []
        for index, name in enumerate(self._series):
            top = HEIGHT + _LEGEND_ROW * index + 6
            shown = name if len(name) <= _LEGEND_CHARACTERS else name[: _LEGEND_CHARACTERS - 1] + "…"
            dash = f' stroke-dasharray="{_DASHES[index % _COLOURS]}"' if index % _COLOURS else ""
            parts.append(
                f'<g class="{_colour(index)}"><path class="line" d="M{_LEFT} {top}h28"{dash}/>'
                f"{_shape(index, _LEFT + 14, top)}</g>"
                f'<text x="{_LEFT + 36}" y="{top + 4}">{_text(shown)}</text>'
            )
        return "".join(parts)


def _text(text: str) -> str:
    return escape(readable(text))


def _colour(series: int) -> str:
    return f"s{series % _COLOURS}"


def _shape(series: int, x: float, y: float, *, hollow: bool = False) -> str:
    return f'<path class="{"hollow" if hollow else "mark"}" d="{_SHAPES[series % _COLOURS](x, y)}"/>'


def _even_ticks(low: float, high: float) -> tuple[tuple[float, str], ...]:
    """Ticks at round numbers, about five."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple((index * step, f"{index * step:,.{digits}f}") for index in range(first, last + 1))
