"""The charts: well-formed, within their frame, and readable without colours or eyes."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench.report.plots import CHARTS
from benchmarks.bench.report.schema import parse_results
from benchmarks.bench.report.svg import (
    CHART_STYLE,
    HEIGHT,
    WIDTH,
    Axis,
    Chart,
    category_axis,
    linear_axis,
    logarithmic_axis,
)
from tests.benchmarks.bench.factory import HOSTILE, make_results, remote

SVG = "{http://www.w3.org/2000/svg}"
finite = st.floats(-1e9, 1e9)
positive = st.floats(1e-3, 1e7)


def _check_axis(axis: Axis, values: list[float]) -> None:
    places = [axis.place(value) for value in sorted(values)]
    assert places == sorted(places)
    assert places[0] >= 0
    assert places[-1] <= 1
    slack = 1e-6 * (axis.high - axis.low)
    assert all(axis.low - slack <= value <= axis.high + slack for value, _ in axis.ticks)
    assert 2 <= len(axis.ticks) <= 13
    assert len({label for _, label in axis.ticks}) == len(axis.ticks)


@given(st.lists(finite, min_size=1, max_size=20), st.booleans())
def test_a_linear_axis_holds_all_values_in_order(values: list[float], from_zero: bool) -> None:
    axis = linear_axis("x", values, from_zero=from_zero)
    if max(map(abs, values)) > 1e-3 and max(values) - min(values) > 1e-6 * max(map(abs, values)):
        _check_axis(axis, values)
    assert all(0 <= axis.place(value) <= 1 for value in values)


@given(st.lists(positive, min_size=1, max_size=20))
def test_a_logarithmic_axis_holds_all_values_in_order(values: list[float]) -> None:
    axis = logarithmic_axis("x", values)
    _check_axis(axis, values)
    assert 0 <= axis.place(0.0) <= 1


def test_lengths_from_zero_are_true_to_their_ratios() -> None:
    axis = linear_axis("x", [2.0, 8.0])
    assert axis.place(8) / axis.place(2) == pytest.approx(4)


def test_a_step_is_round() -> None:
    assert [label for _, label in linear_axis("x", [0.0, 9.0]).ticks] == ["0", "2", "4", "6", "8"]
    assert [label for _, label in linear_axis("x", [0.91, 0.93], from_zero=False).ticks] == [
        "0.910",
        "0.915",
        "0.920",
        "0.925",
        "0.930",
    ]


def test_names_stand_a_unit_apart() -> None:
    axis = category_axis("x", ["a", "b", "c"])
    assert [axis.place(value) for value, _ in axis.ticks] == pytest.approx([1 / 6, 1 / 2, 5 / 6])


@pytest.mark.parametrize("draw", CHARTS)
@pytest.mark.parametrize(
    "results", [make_results(1), make_results(7), remote(make_results(2))], ids=["1", "7", "remote"]
)
def test_every_chart_is_sound(draw: object, results: dict[str, object]) -> None:
    parsed = parse_results(results)
    chart = draw(parsed)  # type: ignore[operator]
    assert chart is not None
    root = ElementTree.fromstring(chart.svg(CHART_STYLE))
    title, description = (root.find(f"{SVG}{name}") for name in ("title", "desc"))
    assert title is not None
    assert description is not None
    assert root.get("aria-labelledby", "").split() == [title.get("id"), description.get("id")]
    assert root.get("role") == "img"
    assert all(model.id in (description.text or "") for model in parsed.models if model.where == "in-process")
    for mark in root.iter(f"{SVG}path"):
        places = re.findall(r"[M]([-\d.]+) ([-\d.]+)", mark.get("d", ""))
        assert all(-1 <= float(x) <= WIDTH and -1 <= float(y) <= HEIGHT + 17 * 9 for x, y in places)
    legend = {text.text for text in root.iter(f"{SVG}text")}
    assert {model.id for model in parsed.models} <= legend


@pytest.mark.parametrize("draw", CHARTS)
def test_a_part_that_was_not_measured_has_no_chart(draw: object) -> None:
    results = make_results(labelled=False, scenarios=())
    results["noise"]["rounds"] = {}
    assert draw(parse_results(results)) is None  # type: ignore[operator]


def test_texts_in_a_chart_are_no_markup() -> None:
    axis = category_axis(HOSTILE, [HOSTILE])
    chart = Chart("chart", HOSTILE, HOSTILE, axis, linear_axis(HOSTILE, [1.0]), [HOSTILE])
    chart.point(0, 0, 1, note=HOSTILE)
    chart.level(1, HOSTILE)
    root = ElementTree.fromstring(chart.svg(CHART_STYLE))
    assert not {element.tag for element in root.iter()} & {f"{SVG}script", f"{SVG}img"}


def test_series_differ_by_shape_and_dash_and_not_by_colour_alone() -> None:
    chart = Chart("chart", "", "", linear_axis("x", [1.0]), linear_axis("y", [1.0]), list("abcdef"))
    root = ElementTree.fromstring(chart.svg())
    lines = [path.get("stroke-dasharray") for path in root.iter(f"{SVG}path") if path.get("class") == "line"]
    shapes = [
        re.sub(r"^M[-\d.]+ [-\d.]+", "", path.get("d", ""))
        for path in root.iter(f"{SVG}path")
        if path.get("class") == "mark"
    ]
    assert len(set(lines)) == len(set(shapes)) == 6


def _luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2 defines it."""
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    channels = [int(digits[index : index + 2], 16) / 255 for index in (0, 2, 4)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_colour_stands_out_3_to_1_from_its_ground(scheme: int) -> None:
    style = CHART_STYLE.split("@media")[scheme]
    ground = _luminance(re.findall(r"--chart-ground: #(\w+)", style)[0])
    colours = re.findall(r"--s\d: #(\w+)", style)
    assert len(colours) == 6
    for colour in colours:
        lighter, darker = sorted((_luminance(colour), ground), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 3, colour
