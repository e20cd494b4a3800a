"""What a benchmark may be asked for."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.bench.settings import SCENARIOS, BenchSettings
from common.errors import InputError
from common.machine import usable_cores


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scenarios": ("offline", "batch")}, "single-stream, multi-stream, server, offline; 'batch' is none"),
        ({"scenarios": ()}, "none is named"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"seconds": 0.0}, "seconds must be above 0"),
        ({"seconds": float("nan")}, "seconds must be above 0"),
        ({"latency_bound_ms": float("inf")}, "latency_bound_ms must be above 0"),
        ({"price_per_core_hour": -1.0}, "price_per_core_hour must be at least 0"),
        ({"threads": 10_000}, f"this machine's {usable_cores()} cores"),
        ({"engine": "tensorrt"}, "engine must be one of onnx, torch"),
        ({"device": "tpu"}, "tpu"),
    ],
)
def test_bad_settings_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BenchSettings(**given)


def test_settings_are_told_with_the_threads_that_are_used() -> None:
    told = BenchSettings().describe()
    assert told["threads"] == usable_cores()
    assert told["scenarios"] == list(SCENARIOS)
    assert BenchSettings(threads=1).describe()["threads"] == 1
