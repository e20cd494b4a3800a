"""The benchmark of precisions measures real graphs, and sees what depends on neighbours."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.precision import OURS, PLAIN, USUAL, compare


def test_all_graphs_are_measured(bert_teacher: Path, small_tables: tuple[Path, Path]) -> None:
    train, dev = map(str, small_tables)
    results = {row["name"]: row for row in compare(bert_teacher, dev, train, rounds=1)}
    assert list(results) == [PLAIN, OURS, USUAL, "int8", "int8, 7-bit weights", "int8-static"]
    assert results[PLAIN]["agreement"] == results[OURS]["agreement"] == results[PLAIN]["speed_up"] == 1
    assert results[USUAL]["batch_shift"] > 10 * results["int8"]["batch_shift"]
    assert results["int8"]["bytes"] < results[OURS]["bytes"]
    for row in results.values():
        assert row["metric"] == "accuracy"
        assert 0 < row["value"] <= 1
        assert row["texts_per_s"] == pytest.approx(results[PLAIN]["texts_per_s"] * row["speed_up"])
