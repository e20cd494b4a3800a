"""The study's results: a file a task, a line a model, with what it answered on each dev row but no text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.studies.lines import add_line, damaged, read_lines
from benchmarks.studies.pkd.data import Tables
from benchmarks.studies.pkd.plan import TEACHER, Cell, TaskPlan, settings_of, teacher_training
from common.errors import InputError
from distill.settings import DistillationSettings, TrainingSettings

RESULTS = Path("benchmarks/results/pkd_study")


@dataclass(frozen=True)
class StudyRow:
    """One model of the study.

    Attributes:
        method: the cell's, or `teacher`.
        settings: all of them, the seed among them.
        data: hash and rows of `train`, `holdout` and `dev` (`data.Tables`).
        teacher: hash of the teacher's weights; of its own for a teacher.
        failed: why there is no model, in one line; then it has none of what follows.
        chosen_on: metrics on the held-out part of train, which picked the epoch.
        dev: metrics on dev.
        answers: the label's index for each dev row, as `pack` gives it.
        best_epoch: whose weights were kept, from 1.
        parameters: of the model.
        wall_time_s: seconds of training.
        machine: what it was trained on.
    """

    task: str
    layers: int
    method: str
    seed: int
    settings: dict[str, Any]
    data: dict[str, dict[str, Any]]
    teacher: str
    machine: dict[str, Any]
    failed: str | None = None
    chosen_on: dict[str, float] | None = None
    dev: dict[str, float] | None = None
    answers: str = ""
    best_epoch: int = 0
    parameters: int = 0
    weights_sha256: str = ""
    wall_time_s: float = 0.0

    @property
    def cell(self) -> Cell:
        return Cell(self.task, self.layers, self.method, self.seed)

    def is_current(self, plan: TaskPlan) -> bool:
        """Whether it has the settings that the plan has today; new settings count as the defaults they have."""
        try:
            if self.method == TEACHER:
                return TrainingSettings(**self.settings) == teacher_training(plan, self.seed)
            return DistillationSettings.from_flat(self.settings) == settings_of(self.cell, plan)
        except (InputError, TypeError, KeyError):
            return False


def read_rows(directory: Path, task: str) -> list[StudyRow]:
    """All rows of a task, in the order in which they were made; those that a later one replaces too.

    Raises:
        InputError: a line is damaged.
    """
    path = _path(directory, task)
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            rows.append(StudyRow(**line))
        except TypeError:
            raise damaged(path, number) from None
    return rows


def add_row(directory: Path, row: StudyRow) -> None:
    """Appends a row, which is on the disk when this returns."""
    add_line(_path(directory, row.task), vars(row))


def check_data(rows: Sequence[StudyRow], tables: Tables) -> None:
    """Refuses rows of other data than these.

    Raises:
        InputError: with the first such row.
    """
    data = tables.describe()
    for row in rows:
        for name, now in data.items():
            if row.data.get(name) != now:
                raise InputError(
                    f"the row '{row.cell}' is of another {name} table than {getattr(tables, name)}: rows of different "
                    f"data do not compare; give the data that the study began with, or another --results"
                )


def check_teacher(rows: Sequence[StudyRow], sha256: str, plan: TaskPlan, seed: int) -> None:
    """Refuses a seed's rows of another teacher than the one with this hash; rows of earlier settings are of none.

    Raises:
        InputError: with the first such row.
    """
    for row in rows:
        if row.seed == seed and row.teacher != sha256 and row.is_current(plan):
            raise InputError(
                f"the row '{row.cell}' is of the teacher {row.teacher[:12]}…, the teacher here is {sha256[:12]}…: rows "
                f"of different teachers do not compare; give the --work of the first, or another --results"
            )


def current_rows(rows: Sequence[StudyRow], plan: TaskPlan) -> dict[Cell, StudyRow]:
    """The rows that have the plan's settings, the last of each cell; the teacher's among them."""
    return {row.cell: row for row in rows if row.is_current(plan)}


def _path(directory: Path, task: str) -> Path:
    return directory / f"{task}.jsonl"
