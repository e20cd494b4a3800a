"""The benchmark of the kernels, on the CPU: what it measures, refuses, leaves out and concludes."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import relative_attention
from benchmarks.attention_baselines import (
    BIASED,
    COMMON,
    EAGER,
    FLASH,
    FLEX,
    FUSED,
    FUSED_PROJECTING,
    IMPLEMENTATIONS,
    Implementation,
    fused,
)
from benchmarks.gpu import timing
from benchmarks.gpu.report import summary_lines, table
from benchmarks.gpu.targets import BOTH, FORWARD, growth_exponent, summarize
from benchmarks.relative_attention import BATCHES, LENGTHS, Step, disagreement, measure, plan, run

CPU = torch.device("cpu")
HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


@pytest.fixture(autouse=True)
def _one_thread(_few_threads: None) -> None:
    torch.set_num_threads(1)  # at these sizes, a second thread is only waited for


def timed(median: float, peak: int | None = None) -> dict[str, Any]:
    return {"status": "timed", "difference": None, "median_ms": median, "peak_bytes": peak}


def record(
    name: str, forward: dict[str, Any], both: dict[str, Any], batch: int = 8, length: int = 512
) -> dict[str, Any]:
    case = {"device": "a card", "dtype": "float16", "batch": batch, "length": length}
    return {**case, "implementation": name, FORWARD: forward, BOTH: both}


def test_the_plan_has_every_measurement_once_and_the_headline_first() -> None:
    steps = list(plan([HALF, BRAIN], BATCHES, LENGTHS))
    assert [(step.batch, step.length) for step in steps[:6]] == [(8, n) for n in (512, 1024, 128, 4096, 2048, 256)]
    found = [(step.dtype, step.batch, step.length, name) for step in steps for name in step.names]
    assert len(found) == len(set(found)) == 2 * len(BATCHES) * len(LENGTHS) * len(IMPLEMENTATIONS)
    batches = [step.batch for step in steps if FLEX not in step.names]
    assert list(dict.fromkeys(batches)) == [8, 32, 64, 1]


def test_a_run_measures_writes_and_says_cpu(tmp_path: Path) -> None:
    steps = [Step(SINGLE, 1, 8, tuple(IMPLEMENTATIONS))]
    report = run(steps, CPU, tmp_path, seconds=60)
    assert json.loads((tmp_path / relative_attention.RESULTS).read_text()) == report
    assert report["stopped"] is None
    assert report["not_reached"] == []
    by_name = {r["implementation"]: r for r in report["records"]}
    assert by_name.keys() == IMPLEMENTATIONS.keys()
    assert {r["device"] for r in [*report["records"], *report["ratios"], *report["targets"]]} == {"cpu"}
    assert report["machine"]["device"] == "cpu"
    for name in (FUSED, FUSED_PROJECTING, COMMON, EAGER, BIASED, FLASH):
        for work in (FORWARD, BOTH):
            done = by_name[name][work]
            assert done["status"] == "timed", done
            assert 0 < done["low_ms"] <= done["median_ms"] <= done["high_ms"]
            assert done["timer"] == timing.CLOCK
            assert done["peak_bytes"] is None
        both, forward = by_name[name][BOTH]["median_ms"], by_name[name][FORWARD]["median_ms"]
        assert by_name[name]["backward_ms"] == both - forward
    assert 0 < by_name[COMMON][BOTH]["difference"] < 1e-5
    assert by_name[FLASH][FORWARD]["difference"] is None
    assert by_name[FLEX][FORWARD]["status"] == "timed"
    assert "backward on CPU" in by_name[FLEX][BOTH]["reason"]
    assert any("a CPU's times" in line for line in summary_lines(report))


def test_a_stop_leaves_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    monkeypatch.setattr(relative_attention, "measure", lambda way, *_: record(way.name, timed(1.0), timed(2.0)))
    steps = [Step(HALF, 8, 512, (FUSED, FLASH)), Step(HALF, 8, 128, (FUSED, FLASH))]
    report = run(steps, CPU, tmp_path, seconds=35)
    assert [r["implementation"] for r in report["records"]] == [FUSED, FLASH, FUSED]
    assert report["not_reached"] == [{"dtype": "float16", "batch": 8, "length": 128, "implementations": [FLASH]}]
    assert report["stopped"] == "the time of 35 s was up"
    assert json.loads((tmp_path / relative_attention.RESULTS).read_text())["stopped"] == report["stopped"]
    assert summary_lines(report)[-1].endswith("measurements not reached: 1")


def test_a_lost_gpu_ends_the_run_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore")

    monkeypatch.setattr(relative_attention, "measure", fail)
    report = run([Step(HALF, 8, 512, (FUSED,))], CPU, tmp_path, seconds=60)
    assert report["stopped"].startswith(relative_attention.LOST)
    assert "illegal memory access" in report["stopped"]
    assert "more" not in report["stopped"]
    assert report["not_reached"][0]["implementations"] == [FUSED]


def raises(error: Exception) -> Any:
    def call(_: Any) -> Any:
        raise error

    return call


@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        (lambda p: 1.01 * fused(p), "disagrees"),
        (lambda p: fused(p) * float("nan"), "disagrees"),
        (raises(torch.OutOfMemoryError("too large")), "out of memory"),
        (raises(ValueError("first line\nsecond line")), "failed"),
    ],
)
def test_a_competitor_without_the_answer_has_no_time(call: Any, outcome: str) -> None:
    found = measure(Implementation("another", call, FUSED), Step(SINGLE, 1, 8, ()), CPU)
    for work in (FORWARD, BOTH):
        assert found[work]["status"] == outcome
        assert "median_ms" not in found[work]
    assert found["backward_ms"] is None
    assert found[FORWARD].get("reason", "first line") == "first line"


def test_a_wrong_gradient_is_seen() -> None:
    def call(p: Any) -> torch.Tensor:
        out = fused(p)
        return out + (p.r.sum() - p.r.detach().sum())  # the same numbers

    found = measure(Implementation("another", call, FUSED), Step(SINGLE, 1, 8, ()), CPU)
    assert found[FORWARD]["status"] == "timed"
    assert found[BOTH]["status"] == "disagrees"


def test_disagreement_is_the_greatest_relative_one() -> None:
    ones = torch.ones(4)
    assert disagreement([ones, None, 1.5 * ones], [ones, None, ones]) == pytest.approx(0.5)
    assert disagreement([2 * ones, 1.5 * ones], [ones, ones]) == pytest.approx(1.0)
    assert disagreement([ones, None], [ones, ones]) == float("inf")
    assert disagreement([ones * float("nan"), ones], [ones, ones]) == float("inf")


def test_ratios_and_targets() -> None:
    records = [
        record(FUSED, timed(0.15), timed(0.5)),
        record(FUSED_PROJECTING, timed(0.2), timed(0.6)),
        record(FLASH, timed(0.1), timed(0.2)),
        record(COMMON, timed(1.6), {"status": "out of memory"}),
        record(EAGER, timed(0.4), timed(1.2)),
        record(BIASED, timed(0.27), timed(1.5)),
        record(FUSED, timed(0.13), timed(0.3), length=128),
        record(FLASH, timed(0.1), timed(0.2), length=128),
        record(FUSED, timed(0.13), timed(0.3), batch=1, length=128),
        record(FLASH, timed(0.1), timed(0.2), batch=1, length=128),
    ]
    summary = summarize(records)
    forward = summary["ratios"][0]
    assert forward["over_flash"] == 1.5
    assert forward["over_cudnn"] is None
    assert forward["common_over"] == 8.0  # both with their projection
    # 0.27 / 0.15, the positions given, is less than 0.4 / 0.2, projecting.
    assert (forward["best_other"], forward["best_other_over"]) == (BIASED, 1.8)
    assert forward["projecting_once"] == 4.0
    assert forward["kernel"] == 2.0
    assert forward["projecting_once"] * forward["kernel"] == forward["common_over"]
    assert summary["ratios"][1]["common_over"] is None

    by_case = {(t["target"], t["batch"], t["length"], t["pass"]): t for t in summary["targets"]}
    long, short = "over flash attention, T ≥ 512", "over flash attention, T = 128, B ≥ 8"
    assert by_case[long, 8, 512, FORWARD]["met"] is True
    assert (
        by_case[short, 8, 128, FORWARD] | {"measured": 1.3, "limit": 1.2, "met": False}
        == by_case[short, 8, 128, FORWARD]
    )
    assert (short, 1, 128, FORWARD) not in by_case
    assert (long, 8, 128, FORWARD) not in by_case
    assert by_case["over flash attention", 8, 512, BOTH]["met"] is False
    assert by_case["over flash attention", 8, 128, BOTH]["met"] is True
    assert by_case["faster than the common eager", 8, 512, FORWARD]["met"] is True
    assert by_case["faster than the common eager", 8, 128, FORWARD]["met"] is None
    assert by_case["faster than the best other", 8, 512, FORWARD]["measured"] == 1.8


def test_memory_is_called_linear_only_where_it_is() -> None:
    assert growth_exponent({64: 640.0, 128: 1280.0, 512: 5120.0}) == pytest.approx(1.0)
    assert growth_exponent({n: 3.0 * n**2 for n in (128, 256, 4096)}) == pytest.approx(2.0)
    lengths = (512, 1024, 4096)
    records = [record(FUSED, timed(1.0, 1000 + 90 * n), timed(1.0, 7 * n * n), length=n) for n in lengths]
    records += [record(COMMON, timed(1.0, n * n), timed(1.0), length=n) for n in lengths]
    summary = summarize(records)
    linear = {(entry["implementation"], entry["pass"]): entry["linear"] for entry in summary["memory"]}
    assert linear == {(FUSED, FORWARD): True, (FUSED, BOTH): False, (COMMON, FORWARD): False}
    met = [t["met"] for t in summary["targets"] if t["target"] == "exponent of memory over length"]
    assert met == [True, False]
    assert summarize(records[:2])["memory"] == []


def test_a_call_that_cannot_be_captured_is_timed_with_events(monkeypatch: pytest.MonkeyPatch) -> None:
    testing = pytest.importorskip("triton.testing")

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(testing, "do_bench", lambda *_, quantiles, **__: [10 * q for q in quantiles])
    monkeypatch.setattr(testing, "do_bench_cudagraph", lambda *_, quantiles, **__: list(quantiles))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    cuda = torch.device("cuda")
    assert timing.time_call(print, cuda, replay=True) == timing.Timing(0.5, 0.2, 0.8, timing.GRAPH)
    events = timing.Timing(5.0, 2.0, 8.0, timing.EVENTS)
    assert timing.time_call(print, cuda, replay=False) == events
    monkeypatch.setattr(testing, "do_bench_cudagraph", refuse)
    assert timing.time_call(print, cuda, replay=True) == events


def test_the_clocks_quantiles(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 0.01, 1.0, 1.02, 2.0, 2.06])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    found = timing.time_call(lambda: None, CPU, replay=True)
    assert found.timer == timing.CLOCK
    assert found.median_ms == pytest.approx(20.0)
    assert found.low_ms == pytest.approx(14.0)
    assert found.high_ms == pytest.approx(44.0)


def test_the_command_writes_results_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("what it does where there is no GPU")
    arguments = ["--output", str(tmp_path / "new"), "--batch", "1", "--length", "4", "8", "--json"]
    monkeypatch.setattr(sys, "argv", ["relative_attention", *arguments])
    relative_attention.main()
    printed = json.loads(capsys.readouterr().out)
    assert printed["stopped"] is None
    assert all(target["device"] == "cpu" for target in printed["targets"])
    written = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert written == [relative_attention.RESULTS, relative_attention.PLOT]
    assert (tmp_path / "new" / relative_attention.PLOT).read_bytes().startswith(b"\x89PNG")


def test_a_table_is_aligned() -> None:
    assert table([["name", "ms"], ["a", "1.5"], ["longer", "10.25"], ["b", "–"]]) == [
        "name       ms",
        "a         1.5",
        "longer  10.25",
        "b           –",
    ]
