"""How many texts and groups are timed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import speed
from benchmarks.pair import open_pair
from common.tokenization import Text


def test_a_spent_budget_leaves_enough_texts(
    student: Path, teacher: Path, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "LATENCY_SECONDS", 0.0)
    monkeypatch.setattr(speed, "THROUGHPUT_SECONDS", {1: 0.0, 8: 0.0, 32: 0.0})
    texts: list[Text] = list(messages)
    seen: dict[int, dict[str, list[Text]]] = {}
    monkeypatch.setattr(
        speed,
        "time_batches",
        lambda engine, part, size: seen.setdefault(size, {}).update({engine.name: list(part)}) or 1.0,
    )
    measured = speed.measure_speed(open_pair(student, teacher, "onnx", "cpu", 1), texts, rounds=3, seed=0)
    assert measured["latency"]["measured"] >= 100
    assert {part["batch"]: part["texts"] for part in measured["throughput"]} == {1: 32, 8: 64, 32: 128}
    for by_engine in seen.values():
        assert by_engine["student"] == by_engine["teacher"]
