"""The comparison runs every form on the same weights, and they agree."""

import pytest

from benchmarks.xlnet import compare


def test_all_forms_agree_and_are_timed() -> None:
    result = compare(layers=1, batch=2, length=9, rounds=1)
    assert {"stock", "fused", "fused, positions frozen"} <= set(result["seconds"]) == set(result["speed_up"])
    assert ("onnx" in result["seconds"]) == (result["device"] == "cpu")
    assert 0 < result["max_difference"] < 1e-5
    for name, seconds in result["seconds"].items():
        assert result["speed_up"][name] == pytest.approx(result["seconds"]["stock"] / seconds)
