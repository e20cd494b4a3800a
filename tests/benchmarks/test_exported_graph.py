"""The comparison runs two different graphs of one model, and they agree."""

import pytest

from benchmarks.exported_graph import compare


def test_both_graphs_agree_and_are_timed() -> None:
    (result,) = compare(layers=1, width=64, rounds=1, shapes=[(2, 9)])
    assert 0 < result["max_difference"]["plain"] < 1e-5  # not one graph twice, and the same answers
    seconds = result["seconds"]
    assert result["speed_up"]["plain"] == pytest.approx(seconds["plain"] / seconds["ours"])
