"""A study in small: one task of the shipped messages, a base of four layers, students of two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchmarks.studies.pkd.__main__ import study
from benchmarks.studies.pkd.plan import Cell, TaskPlan, cells
from common.examples import Columns
from distill.settings import TrainingSettings

PLAN = TaskPlan(
    name="messages",
    train="messages/train.tsv",
    dev="messages/dev.tsv",
    columns=Columns("text", None, "label"),
    metric="accuracy",
    training=TrainingSettings(epochs=1, learning_rate=5e-3, max_length=32, metric="accuracy"),
    seeds=(0, 1),
    targets={2: 0.9},
)
ORDER = cells([PLAN], [2], ["kd", "finetune"], PLAN.seeds)

RunStudy = Callable[..., int]


@pytest.fixture
def run_study(tmp_path: Path, data: Path, bert_base: Path, monkeypatch: pytest.MonkeyPatch) -> RunStudy:
    """Runs the small study into `tmp_path`; returns how many cells are left."""
    monkeypatch.chdir(bert_base.parent)  # students find the teacher's base by its name

    def run(
        order: Sequence[Cell] = ORDER,
        minutes: float = 10,
        plan: TaskPlan = PLAN,
        work: str = "work",
        data: Path = data,
        results: str = "results",
        workers: int = 1,
    ) -> int:
        return study(order, [plan], data, tmp_path / work, tmp_path / results, minutes, bert_base.name, workers)

    return run
