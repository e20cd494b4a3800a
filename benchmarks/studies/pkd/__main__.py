"""Patient Knowledge Distillation on real tasks: `python -m benchmarks.studies.pkd --data DIR --work DIR`.

Fine-tunes a teacher for each task and seed, trains the students that the results lack, and adds a row for each as soon
as it is there: the study grows from run to run, and a killed one goes on where it was. What the rows say,
`python -m benchmarks.studies.pkd.report` tells.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.studies.arguments import chosen_names
from benchmarks.studies.pkd.data import prepare
from benchmarks.studies.pkd.models import TaskRun, ready_task, student_row, teacher, teacher_row
from benchmarks.studies.pkd.plan import CONTROLS, DEPTHS, METHODS, SEEDS, TASKS, TEACHER, Cell, TaskPlan, cells
from benchmarks.studies.pkd.rows import (
    RESULTS,
    StudyRow,
    add_row,
    check_data,
    current_rows,
    read_rows,
)
from benchmarks.studies.workers import Job, Results, run_jobs, worker_count
from common.errors import InputError, UnderstudyError
from common.progress import say
from distill.sources import DEFAULT_BASE, Source


def study(
    order: Sequence[Cell],
    plans: Iterable[TaskPlan],
    data: Path,
    work: Path,
    results: Path,
    minutes: float,
    base: str,
    workers: int = 1,
) -> int:
    """Runs the cells that the results lack, in this order, as long as the time lasts; returns how many are left.

    Args:
        plans: of the tasks that the cells are of.
        minutes: after so many no further cell is begun; the first is begun in any case.
        workers: processes that run cells at the same time.
    """
    until = time.monotonic() + 60 * minutes
    by_name = {plan.name: plan for plan in plans}
    known = {name: current_rows(read_rows(results, name), plan) for name, plan in by_name.items()}
    missing = [cell for cell in order if cell not in known[cell.task]]
    say(f"{len(order) - len(missing):,} of {len(order):,} cells are there")
    # With one worker a teacher comes just before its first student; several have something to do meanwhile.
    groups = dict.fromkeys((cell.task, cell.seed) for cell in missing)
    leads = {
        (name, seed): Job((name, seed), ready_task, _given(by_name[name], seed, data, work / name, results, base))
        for name, seed in groups
    }
    jobs = []
    for number, cell in enumerate(missing):
        group = (cell.task, cell.seed)
        if group in leads:
            jobs.append(replace(leads.pop(group), required=number == 0))
        jobs.append(Job(cell, student_row, partial(_of_student, cell), (group,), required=number == 0))
    if workers > 1:
        jobs.sort(key=lambda job: (_seed_of(job), isinstance(job.name, Cell)))
    ready: dict[tuple[str, int], tuple[TaskRun, Source, StudyRow]] = {}
    left = len(missing)
    for job, result in run_jobs(jobs, workers, until):
        if isinstance(result, tuple):
            ready[job.name] = result  # type: ignore[index]
            continue
        add_row(results, result)
        task_run, _, lead = ready[result.task, result.seed]
        say(f"{job.name}: {_outcome(result, lead, task_run.plan.metric)}")
        left -= 1
    return left


def _seed_of(job: Job) -> int:
    return job.name.seed if isinstance(job.name, Cell) else job.name[1]  # type: ignore[index]


def _given(*arguments: Any) -> Callable[[Results], tuple[Any, ...]]:
    return lambda _: arguments


def _of_student(cell: Cell, done: Results) -> tuple[TaskRun, Source, Cell]:
    task_run, source, _ = done[cell.task, cell.seed]
    return task_run, source, cell


def tune(plans: Sequence[TaskPlan], data: Path, work: Path, results: Path, base: str) -> None:
    """Fine-tunes a teacher with each of the settings that a plan names, and keeps a row of those that have none."""
    for plan in plans:
        task_run = TaskRun(plan, prepare(plan, data, work / plan.name), work / plan.name, base)
        for training in (plan.training, *plan.tried):
            rows = read_rows(results, plan.name)
            check_data(rows, task_run.tables)
            if not any(row.method == TEACHER and row.settings == vars(training) for row in rows):
                row = teacher_row(task_run, teacher(task_run, training), training)
                add_row(results, row)
                assert row.chosen_on is not None
                say(f"{plan.name}, {training}: {plan.metric} {row.chosen_on[plan.metric]:.4f} on the held-out part")


def _outcome(row: StudyRow, lead: StudyRow, metric: str) -> str:
    if row.dev is None or lead.dev is None:
        return f"failed: {row.failed}"
    return f"dev {metric} {row.dev[metric]:.4f}, teacher {lead.dev[metric]:.4f}; {row.wall_time_s:.0f} s"


def _numbers(text: str, known: Sequence[int], what: str) -> list[int]:
    """`0-2,4` as [0, 1, 2, 4]."""
    numbers: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            numbers += range(int(first), int(last or first) + 1)
    except ValueError:
        raise InputError(f"--{what} takes numbers and ranges such as 0-2,4, not '{text}'") from None
    unknown = [number for number in numbers if number not in known]
    if unknown or not numbers:
        raise InputError(f"--{what} takes {', '.join(map(str, known))} in this study, not '{text}'")
    return list(dict.fromkeys(numbers))


def main() -> None:
    """Parses the arguments and runs what is missing."""
    parser = argparse.ArgumentParser(description="Patient Knowledge Distillation on real tasks")
    parser.add_argument("--data", type=Path, required=True, help="directory with a folder for each task")
    parser.add_argument("--work", type=Path, required=True, help="for teachers, their answers, and runs under way")
    parser.add_argument("--results", type=Path, default=RESULTS, help="directory of the rows")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--depths", default=",".join(map(str, DEPTHS)))
    parser.add_argument("--methods", default=",".join((*METHODS, *CONTROLS)))
    parser.add_argument("--seeds", default=f"{SEEDS[0]}-{SEEDS[-1]}")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after these no further cell is begun")
    parser.add_argument(
        "--workers", type=worker_count, default=1, help="processes that train at the same time, on one GPU, say"
    )
    parser.add_argument("--base", default=DEFAULT_BASE, help="the pre-trained model: a name or a directory")
    parser.add_argument("--tune", action="store_true", help="only the teachers, with every setting that was tried")
    given = parser.parse_args()
    try:
        plans = [TASKS[name] for name in TASKS if name in chosen_names(given.tasks, TASKS, "task")]
        if given.tune:
            tune(plans, given.data, given.work, given.results, given.base)
            return
        order = cells(
            plans,
            _numbers(given.depths, DEPTHS, "depths"),
            chosen_names(given.methods, (*METHODS, *CONTROLS), "method"),
            _numbers(given.seeds, SEEDS, "seeds"),
        )
        left = study(order, plans, given.data, given.work, given.results, given.minutes, given.base, given.workers)
    except UnderstudyError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    say(f"{left:,} cells are left" if left else "All cells are there")


if __name__ == "__main__":
    main()
