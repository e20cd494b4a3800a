"""The command `compare`: what it prints and writes, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.scored_tables import scored, write


def test_the_command_reports_writes_json_and_fails_below_the_share(
    tmp_path: Path, understudy: Callable[..., Any]
) -> None:
    labels = [f"label {number}" for number in range(30)]
    a = [scored(label, text=f"[red]{label}", label=label) for label in [*labels, *["kept"] * 70]]
    b = [scored("other" if row["prediction"] != "kept" else "kept", text=row["text"], label=row["label"]) for row in a]
    paths = [write(tmp_path / f"{name}.jsonl", rows) for name, rows in (("a", a), ("b", b))]
    output = tmp_path / "report.json"
    result = understudy("compare", *paths, "--rows", 1, "--json", output, "--fail-under", 0.7)
    assert (result.code, result.err) == (0, "")
    for line in (
        "100 rows, 100 compared, 0 with an error",
        "agreement 0.7000 (95 % interval 0.6042 to 0.7811), 70 rows alike",
        "and 10 more kinds, 10 rows",
        "where they differ: A right 30, B right 0, both wrong 0 (McNemar's exact p 1.86e-09)",
        "row 1: label 0 0.9000 → other 0.9000 (right: label 0)",
        "[red]label 0",
    ):
        assert line in result.out
    told = json.loads(output.read_text())
    assert told["labels"]["agreement"]["mean"] == 0.7
    assert len(told["labels"]["flips"]) == 30
    below = understudy("compare", *paths, "--fail-under", 0.71)
    assert (below.code, below.err.strip()) == (
        1,
        "understudy: A and B agree on 70 of 100 rows: 0.700000 is below 0.71",
    )
    again = understudy("compare", *paths, "--json", output)
    assert (again.code, "pass --overwrite" in again.err) == (2, True)
    on_input = understudy("compare", *paths, "--json", paths[0], "--overwrite")
    assert (on_input.code, "is one of the inputs" in on_input.err) == (2, True)
    assert understudy("compare", *paths, "--fail-under", 2).code == 2


def test_the_command_tells_of_numbers(tmp_path: Path, understudy: Callable[..., Any]) -> None:
    sides = [[scored(x, x, text=str(x), label=x) for x in (0.5, 1.5, 3.0)] for _ in range(2)]
    for row in sides[1]:
        row["prediction"] = row["score"] = row["score"] + 0.25
    paths = [write(tmp_path / f"{name}.jsonl", rows) for name, rows in zip("ab", sides, strict=True)]
    result = understudy("compare", *paths)
    assert result.code == 0
    assert "mean of B less A +0.25" in result.out
    assert "correlation: Pearson 1.0000, Spearman 1.0000" in result.out
    assert understudy("compare", *paths, "--fail-under", 0.9).code == 2
