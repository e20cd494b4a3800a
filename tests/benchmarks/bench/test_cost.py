"""Costs are arithmetic: each figure is recomputed by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.bench import cost
from benchmarks.bench.cost import costs
from benchmarks.bench.estimates import Estimate
from benchmarks.bench.offline import Pass
from benchmarks.bench.process_cost import ProcessCost
from benchmarks.bench.report.schema import Cost
from benchmarks.bench.roofline import Roofline
from common.errors import WorkFailedError

PEAK = Roofline(Estimate(4e9, 3e9, 5e9), 2)
PROCESSES = {"student": [ProcessCost(0.3, 200), ProcessCost(0.1, 300), ProcessCost(0.2, 100)]}
# 4 texts of 10 tokens in 1 to 7 ms.
PASSES = {"student": [Pass(milliseconds / 1e3, 0.0, (10,) * 4) for milliseconds in range(1, 8)]}


@pytest.fixture(autouse=True)
def _a_million_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "flops_by_length", lambda _bundle, lengths: {length: 1e6 * length for length in lengths})


def model(device: str = "cpu") -> Any:
    bundle = SimpleNamespace(manifest=SimpleNamespace(max_length=20))
    return SimpleNamespace(
        id="student", threads=2, engine=SimpleNamespace(bundle=bundle, model=SimpleNamespace(device=device))
    )


def figures(passes: dict[str, list[Pass]] = PASSES, price: float | None = 0.05, device: str = "cpu") -> dict[str, Any]:
    result = costs([model(device)], PROCESSES, passes, [10, 30], PEAK, price_per_core_hour=price)
    Cost.model_validate(result)
    return result["models"]["student"]


def test_figures() -> None:
    found = figures()
    assert (found["start_up_s"]["value"], found["peak_memory_bytes"]["value"]) == (0.2, 200)
    assert found["start_up_s"]["low"] is None
    # Of 30 tokens the model reads 20.
    assert found["flops_per_text"] == 15e6
    # In the middle round 4 texts took 4 ms.
    assert found["flops_per_s"]["value"] == 10e9
    assert found["core_seconds_per_million"]["value"] == 2000
    assert found["price_per_million"]["value"] == pytest.approx(2000 / 3600 * 0.05, rel=1e-5)
    assert found["core_seconds_per_million"]["low"] < 2000 < found["core_seconds_per_million"]["high"]


def test_the_share_of_the_peak_has_the_doubts_about_both() -> None:
    share, speed = figures()["roofline_share"], figures()["flops_per_s"]
    assert share["value"] == 2.5
    assert share["low"] == pytest.approx(speed["low"] / 5e9, rel=1e-5)
    assert share["high"] == pytest.approx(speed["high"] / 3e9, rel=1e-5)


def test_without_a_price_there_is_none() -> None:
    assert figures(price=None)["price_per_million"] is None
    assert figures(price=0.0)["price_per_million"]["value"] == 0


def test_without_the_offline_scenario_speeds_are_not_known() -> None:
    found = figures(passes={})
    assert [
        found[name] for name in ("flops_per_s", "roofline_share", "core_seconds_per_million", "price_per_million")
    ] == [None] * 4
    assert found["flops_per_text"] == 15e6


def test_a_gpu_has_neither_cores_nor_this_roofline() -> None:
    found = figures(device="cuda")
    assert (found["roofline_share"], found["core_seconds_per_million"], found["price_per_million"]) == (
        None,
        None,
        None,
    )
    assert found["flops_per_s"]["value"] == 10e9


def test_flops_that_cannot_be_counted_are_said_to_be_unknown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise WorkFailedError("the products of the operator Einsum cannot be counted")

    monkeypatch.setattr(cost, "flops_by_length", fail)
    found = figures()
    assert (found["flops_per_text"], found["flops_per_s"], found["roofline_share"]) == (None, None, None)
    assert found["core_seconds_per_million"]["value"] == 2000
    assert "FLOPs of student are not known" in capsys.readouterr().out
