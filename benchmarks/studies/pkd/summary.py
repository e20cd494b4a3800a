"""What a task's rows say: means with intervals over seeds and examples, shares of the teacher's, paired comparisons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from benchmarks.studies.lines import unpack
from benchmarks.studies.pkd.data import Tables
from benchmarks.studies.pkd.plan import TEACHER, Cell, TaskPlan
from benchmarks.studies.pkd.rows import StudyRow, check_data, check_teacher, current_rows
from common.errors import InputError
from common.resampled_metrics import resampled_metric
from common.statistics import Comparison, Interval, bootstrap_interval, compare_mean, draw_examples

# First against second. The paper's claim is the first two of them.
CONTESTS = (
    ("pkd-skip", "kd"),
    ("kd", "finetune"),
    ("pkd-skip", "finetune"),
    ("pkd-skip", "pkd-last"),
    ("best", "pkd-skip"),
    ("kd-teacher-start", "kd"),
    ("pkd-skip-teacher-start", "kd-teacher-start"),
    ("best", "kd-teacher-start"),
)


@dataclass(frozen=True)
class Runs:
    """Models that differ in the seed alone.

    Attributes:
        values: by seed, the metric on dev.
        resampled: by seed, the metric on each resample of the dev rows, `[resamples]`.
    """

    values: Mapping[int, float]
    resampled: Mapping[int, NDArray[np.float64]]

    @property
    def mean(self) -> Interval:
        """Over seeds and examples."""
        return bootstrap_interval(list(self.values.values()), np.stack(list(self.resampled.values())))


@dataclass(frozen=True)
class TaskSummary:
    """One task of the study as far as it has gone.

    Attributes:
        teachers: their rows, by seed; without one there is nothing else.
        tried: the rows of teachers with other settings.
        lead: the teachers' metric.
        commonest: the metric of always giving dev's commonest label; what does no better has learned nothing.
        students: by depth and method, as far as there are some.
        failed: cells whose run left the finite numbers.
        missing: cells that have no row.
        outdated: how many rows have settings that the plan has no more.
    """

    plan: TaskPlan
    teachers: dict[int, StudyRow]
    tried: list[StudyRow]
    lead: Runs | None
    commonest: float
    students: dict[tuple[int, str], Runs]
    failed: list[Cell]
    missing: list[Cell]
    outdated: int

    @property
    def is_weak(self) -> bool:
        """Whether the teachers are not told apart from always giving the commonest label."""
        return self.lead is not None and self.lead.mean.low <= self.commonest

    @property
    def better_tried(self) -> StudyRow | None:
        """The teacher with other settings that the held-out part likes best, where it likes it more than the plan's of
        that seed."""
        own = {seed: self.chosen_on(row) for seed, row in self.teachers.items()}
        better = [row for row in self.tried if row.seed in own and self.chosen_on(row) > own[row.seed]]
        return max(better, key=self.chosen_on, default=None)

    def chosen_on(self, teacher: StudyRow) -> float:
        """A teacher's metric on the part held out of train."""
        return (teacher.chosen_on or {})[self.plan.metric]

    def kept(self, layers: int, method: str) -> Interval | None:
        """The share of its teacher's metric; None where there is no such student, or a share means nothing."""
        runs = self.students.get((layers, method))
        if runs is None or self.lead is None:
            return None
        lead = self.lead
        if any(min(lead.values[seed], lead.resampled[seed].min()) <= 0 for seed in runs.values):
            return None
        shares = [own / lead.values[seed] for seed, own in runs.values.items()]
        draws = [own / lead.resampled[seed] for seed, own in runs.resampled.items()]
        return bootstrap_interval(shares, np.stack(draws))


@dataclass(frozen=True)
class Contest:
    """One method against another, on the same seeds and examples.

    Attributes:
        tasks: whose mean it is.
        seeds: of each task, how many both methods have.
    """

    tasks: tuple[str, ...]
    layers: int
    first: str
    second: str
    seeds: tuple[int, ...]
    result: Comparison


def summarise(
    plan: TaskPlan, rows: Sequence[StudyRow], order: Sequence[Cell], tables: Callable[[], Tables]
) -> TaskSummary:
    """Sums one task up.

    Args:
        rows: all of the task.
        order: the task's cells, of which those without a row are missing.
        tables: the task's, asked for where there are rows.

    Raises:
        InputError: rows of other data, or of different teachers.
    """
    current = current_rows(rows, plan)
    teachers = [row for row in rows if row.method == TEACHER]
    leads = {row.seed: row for row in current.values() if row.method == TEACHER}
    tried = [row for row in teachers if not row.is_current(plan)]
    students = {cell: row for cell, row in current.items() if row.method != TEACHER}
    missing = [cell for cell in order if cell not in students]
    outdated = len({row.cell for row in rows if row.method != TEACHER} - current.keys())
    alone = next((cell for cell in students if cell.seed not in leads), None)
    if alone is not None:
        raise InputError(f"the results have the row '{alone}' but not its teacher's")
    if not leads:
        return TaskSummary(plan, {}, tried, None, 0.0, {}, [], missing, outdated)
    ready = tables()
    check_data(list(current.values()), ready)
    for seed, lead in leads.items():
        check_teacher(rows, lead.weights_sha256, plan, seed)
    targets = ready.targets()
    # Tasks are drawn independently of each other.
    counts = draw_examples(len(targets), seed=crc32(plan.name.encode()))

    def runs(chosen: Mapping[int, StudyRow]) -> Runs:
        labels = len(ready.task.labels)
        answers = {seed: unpack(row.answers, len(targets), labels) for seed, row in chosen.items()}
        return Runs(
            {seed: (row.dev or {})[plan.metric] for seed, row in chosen.items()},
            {seed: resampled_metric(ready.task, plan.metric, own, targets, counts) for seed, own in answers.items()},
        )

    groups: dict[tuple[int, str], dict[int, StudyRow]] = {}
    for cell, row in sorted(students.items()):
        if row.failed is None:
            groups.setdefault((cell.layers, cell.method), {})[cell.seed] = row
    failed = [cell for cell, row in students.items() if row.failed is not None]
    grouped = {group: runs(chosen) for group, chosen in groups.items()}
    always = np.full_like(targets, np.bincount(targets).argmax())
    commonest = float(resampled_metric(ready.task, plan.metric, always, targets, np.ones((1, len(targets))))[0])
    return TaskSummary(plan, leads, tried, runs(leads), commonest, grouped, failed, missing, outdated)


def contest(tasks: Sequence[TaskSummary], layers: int, first: str, second: str) -> Contest | None:
    """One method against another over one task, or their mean difference over several; None where no seed has both.

    Of several tasks each weighs the same, however many seeds it has.
    """
    differences = [_differences(task, layers, first, second) for task in tasks]
    groups = [group for group in differences if group is not None]
    if not groups or len(groups) < len(tasks):
        return None
    seeds = tuple(len(observed) for observed, _ in groups)
    return Contest(tuple(task.plan.name for task in tasks), layers, first, second, seeds, compare_mean(groups))


def _differences(
    task: TaskSummary, layers: int, first: str, second: str
) -> tuple[list[float], NDArray[np.float64]] | None:
    """The first's metric less the second's for each seed that both have, `[seeds]`; and on each resample of the dev
    rows, `[seeds, resamples]`."""
    own, other = task.students.get((layers, first)), task.students.get((layers, second))
    if own is None or other is None:
        return None
    seeds = sorted(own.values.keys() & other.values.keys())
    if not seeds:
        return None
    draws = np.stack([own.resampled[seed] - other.resampled[seed] for seed in seeds])
    return [own.values[seed] - other.values[seed] for seed in seeds], draws
