"""A sweep under way: a table on a terminal, lines elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from distill.sweep import table as module
from distill.sweep.results import Row
from distill.sweep.table import RunTable, run_table


def row(seed: int, accuracy: float | None) -> Row:
    settings = {"layers": 2, "method": "kd", "learning_rate": 5e-05, "width": None, "seed": seed}
    if accuracy is None:
        return Row(f"key{seed}", settings, failed="the loss is nan at step 3")
    return Row(f"key{seed}", settings, chosen_on={"accuracy": accuracy}, wall_time_s=12.3)


def new_table(total: int = 20, *, lower_is_better: bool = False) -> RunTable:
    columns = ["layers", "method", "learning_rate", "width", "seed"]
    return RunTable(total, columns, "accuracy", lower_is_better=lower_is_better)


def screen(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> io.StringIO:
    written = io.StringIO()
    monkeypatch.setattr(module, "stderr", Console(file=written, force_terminal=terminal, width=120))
    return written


def test_lines_name_the_run_and_the_best(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    written = screen(monkeypatch, terminal=False)
    table = new_table()
    with run_table(table):
        table.known(row(0, 0.5))
        for seed, accuracy in ((1, 0.7), (2, None), (3, 0.6)):
            table.begin(row(seed, accuracy).settings)
            table.listen("epoch 1 of 4")
            table.end(row(seed, accuracy))
    assert written.getvalue() == ""
    run = "layers 2, method kd, learning_rate 5e-05, width –, seed"
    assert capsys.readouterr().out.splitlines() == [
        "20 runs, 1 done before; a line for each as it ends",
        f"[2/20] {run} 1: accuracy 0.7000 in 12 s; best accuracy 0.7000",
        f"[3/20] {run} 2: failed: the loss is nan at step 3; best accuracy 0.7000",
        f"[4/20] {run} 3: accuracy 0.6000 in 12 s; best accuracy 0.7000",
    ]


def test_the_live_table_has_the_best_the_latest_and_the_one_under_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = screen(monkeypatch, terminal=True)
    table = new_table(lower_is_better=True)
    with run_table(table):
        for seed in range(15):
            table.begin(row(seed, 0.0).settings)
            table.end(row(seed, 0.1 if seed == 1 else 0.9))
        table.begin(row(99, 0.0).settings)
        table.listen("epoch 2 of 4 50 % loss 0.3")
        shown = io.StringIO()
        Console(file=shown, width=160).print(table)
    text = shown.getvalue()
    assert "15 of 20 runs; best accuracy 0.1000" in text
    assert "0.1000 in 12 s" in text
    assert "epoch 2 of 4 50 % loss 0.3" in text
    # The best of all, the last twelve, and the one under way.
    assert text.count("kd") == 14
    assert "\x1b[" in written.getvalue()
    assert capsys.readouterr().out == ""
