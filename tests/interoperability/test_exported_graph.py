"""The benchmark of exported graphs measures Optimum's beside ours."""

from pathlib import Path

from benchmarks.exported_graph import compare


def test_optimums_graphs_agree_with_ours_and_are_timed(optimum_python: Path) -> None:
    (result,) = compare(layers=1, width=64, rounds=1, shapes=[(2, 9)], optimum=str(optimum_python))
    assert result["seconds"].keys() == {"ours", "plain", "optimum", "optimum-o2"}
    assert result["speed_up"].keys() == {"plain", "optimum", "optimum-o2"}
    assert 0 < max(result["max_difference"].values()) < 1e-5
