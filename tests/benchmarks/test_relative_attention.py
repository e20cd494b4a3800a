"""The comparison runs both models on the same weights, and they agree."""

from benchmarks.relative_attention import compare


def test_stock_and_fused_agree_and_both_are_timed() -> None:
    result = compare(layers=1, batch=2, length=9, rounds=1)
    assert result["max_difference"] < 1e-5
    assert result["seconds"]["stock"] > 0
    assert result["speed_up"] == result["seconds"]["stock"] / result["seconds"]["fused"]
