"""The study's models: a task's teacher, which is fine-tuned once, and its students, a row each."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe_machine
from benchmarks.studies.lines import pack
from benchmarks.studies.pkd.data import Tables, prepare
from benchmarks.studies.pkd.plan import TEACHER, Cell, TaskPlan, settings_of, teacher_training
from benchmarks.studies.pkd.rows import StudyRow, add_row, check_data, check_teacher, read_rows
from common.examples import read_examples
from distill.finetuning import finetune
from distill.record import read_record
from distill.settings import TrainingSettings
from distill.sources import DEFAULT_BASE, Source, find_model
from distill.sweep.results import open_results
from distill.sweep.runs import Setting, discard_student, measure, run
from distill.training import choose_device


@dataclass(frozen=True)
class TaskRun:
    """What all models of one task share.

    Attributes:
        work: the task's directory, for teachers, students under way and the teacher's answers.
        base: the pre-trained model behind the teacher.
    """

    plan: TaskPlan
    tables: Tables
    work: Path
    base: str = DEFAULT_BASE


def teacher(task_run: TaskRun, training: TrainingSettings) -> Source:
    """The base model fine-tuned with these settings, by an earlier call or now; its epoch is picked on `holdout`."""
    made_of = json.dumps([task_run.base, vars(training), task_run.tables.describe()], sort_keys=True)
    directory = task_run.work / "teachers" / hashlib.sha256(made_of.encode()).hexdigest()[:12]
    if not directory.exists():
        tables = task_run.tables
        finetune(task_run.base, str(tables.train), str(tables.holdout), directory, training, tables.columns)
    return find_model(str(directory))


def teacher_row(task_run: TaskRun, source: Source, training: TrainingSettings) -> StudyRow:
    """A teacher's row, measured on dev."""
    record = read_record(source.path)
    assert record is not None
    measured = measure(source, setting_of(task_run, source))
    return StudyRow(
        task=task_run.plan.name,
        layers=record["layers"]["count"],
        method=TEACHER,
        seed=training.seed,
        settings=dict(vars(training)),
        data=task_run.tables.describe(),
        teacher=source.sha256,
        machine=machine(),
        chosen_on=record["best_dev"],
        dev=measured.metrics,
        answers=pack(measured.answers, len(task_run.tables.task.labels)),
        best_epoch=record["best_epoch"],
        parameters=measured.parameters,
        weights_sha256=source.sha256,
        wall_time_s=record["wall_time_s"],
    )


def ready_task(
    plan: TaskPlan, seed: int, data: Path, work: Path, results: Path, base: str
) -> tuple[TaskRun, Source, StudyRow]:
    """A task with a seed's teacher, whose row is added where there is none.

    Raises:
        InputError: there are rows of another teacher, or of other data.
    """
    task_run = TaskRun(plan, prepare(plan, data, work), work, base)
    rows = read_rows(results, plan.name)
    check_data(rows, task_run.tables)
    training = teacher_training(plan, seed)
    source = teacher(task_run, training)
    check_teacher(rows, source.sha256, plan, seed)
    leads = [row for row in rows if row.method == TEACHER and row.seed == seed and row.is_current(plan)]
    if not leads:
        leads.append(teacher_row(task_run, source, training))
        add_row(results, leads[0])
    return task_run, source, leads[0]


def student_row(task_run: TaskRun, source: Source, cell: Cell) -> StudyRow:
    """Trains a cell's student, from where a killed study left it, and measures it on dev.

    Raises:
        InputError: the cell's work directory is of another teacher or data, or another study works in it.
    """
    setting = setting_of(task_run, source)
    settings = settings_of(cell, task_run.plan)
    about = {"teacher": source.describe(), **task_run.tables.describe()}
    trained_on = machine()
    # One for each, so that several can be trained at the same time.
    directory = task_run.work / "students" / f"{cell.layers}-{cell.method}-{cell.seed}"
    with open_results(directory, about) as results:
        row = run(settings, setting, results)
        answers = "" if row.failed else pack(results.answers(row.key), len(task_run.tables.task.labels))
        discard_student(results, row.key)
    return StudyRow(
        task=cell.task,
        layers=cell.layers,
        method=cell.method,
        seed=cell.seed,
        settings=row.settings,
        data=task_run.tables.describe(),
        teacher=source.sha256,
        machine=trained_on,
        failed=row.failed,
        chosen_on=row.chosen_on,
        dev=row.dev,
        answers=answers,
        best_epoch=row.best_epoch,
        parameters=row.parameters,
        weights_sha256=row.weights_sha256,
        wall_time_s=row.wall_time_s,
    )


def setting_of(task_run: TaskRun, source: Source) -> Setting:
    """What a model of the task is measured with."""
    tables = task_run.tables
    dev = read_examples(str(tables.dev), tables.columns)
    return Setting(
        teacher=source,
        train=str(tables.train),
        chosen_on=str(tables.holdout),
        dev=dev,
        task=tables.task,
        unlabelled=None,
        columns=tables.columns,
        cache=task_run.work / "answers",
    )


def machine() -> dict[str, Any]:
    """What a row was trained on: `describe_machine`, the device and the threads of this process."""
    device = torch.cuda.get_device_name() if choose_device().type == "cuda" else "cpu"
    return {**describe_machine(), "device": device, "threads": torch.get_num_threads()}
