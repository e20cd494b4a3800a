"""Pretraining objectives against random weights: `python -m benchmarks.studies.pretraining --data DIR --work DIR`.

Pretrains the encoders that the work directory lacks, fine-tunes each on the tasks, and adds a row for each classifier
as soon as it is there; a killed study goes on where it was. What the rows say,
`python -m benchmarks.studies.pretraining.report` tells.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.studies.arguments import chosen_names
from benchmarks.studies.pkd.data import Tables, prepare
from benchmarks.studies.pkd.models import TaskRun
from benchmarks.studies.pretraining.corpus import write_corpus
from benchmarks.studies.pretraining.models import classifier_row, encoder, encoder_row, tokenizer
from benchmarks.studies.pretraining.plan import (
    ENCODERS,
    RATES,
    SEEDS,
    TASKS,
    Cell,
    EncoderPlan,
    first_cells,
    further_cells,
)
from benchmarks.studies.pretraining.rows import (
    RESULTS,
    ClassifierRow,
    EncoderRow,
    add_row,
    read_cells,
    read_encoders,
)
from benchmarks.studies.workers import Job, Results, run_jobs, worker_count
from common.errors import UnderstudyError
from common.progress import say
from distill.sources import Source


@dataclass(frozen=True)
class Prepared:
    """What all models of the study share.

    Attributes:
        runs: each task's tables and directory.
    """

    corpus: Path
    runs: dict[str, TaskRun]


def study(
    encoders: Sequence[EncoderPlan],
    tasks: Sequence[str],
    data: Path,
    work: Path,
    results: Path,
    *,
    minutes: float = float("inf"),
    workers: int = 1,
    seeds: Sequence[int] = SEEDS,
) -> None:
    """Makes what the results lack, as long as the time lasts.

    Args:
        tasks: names of the plan's; none of them makes the encoders alone.
        minutes: after so many nothing further is begun.
        workers: processes that train at the same time.
    """
    until = time.monotonic() + 60 * minutes
    shared = prepare_study(data, work)
    known_encoders = read_encoders(results)
    jobs = list(_encoder_jobs(encoders, shared, work))
    sources: dict[str, Source] = {}
    for plan in encoders:
        if (work / "encoders" / plan.name).exists():
            sources[plan.name] = encoder(plan, shared.corpus, work / "tokenizers" / plan.family, work)
    current = {name: row for name, row in known_encoders.items() if name in sources}
    current = {name: row for name, row in current.items() if row.weights_sha256 == sources[name].sha256}
    known = read_cells(results, current)
    for plan in encoders:
        for task in tasks:
            jobs += _cell_jobs(plan.name, task, shared.runs[task], known, seeds)
    order = {name: number for number, name in enumerate(SEEDS)}
    jobs.sort(key=lambda job: order.get(job.name.seed, 0) if isinstance(job.name, Cell) else -1)
    for _, result in run_jobs(jobs, workers, until):
        if isinstance(result, EncoderRow):
            if result.encoder not in current:
                add_row(results, result)
            say(f"{result.encoder}: {result.tokens:,} tokens in {result.wall_time_s:.0f} s {_short(result.losses)}")
        elif isinstance(result, ClassifierRow):
            add_row(results, result)
            metric = TASKS[result.task].metric
            say(f"{result.cell}: dev {metric} {result.dev[metric]:.4f}; {result.wall_time_s:.0f} s")


def prepare_study(data: Path, work: Path) -> Prepared:
    """The corpus and the tasks' tables, the same each time."""
    runs = {name: TaskRun(plan, prepare(plan, data, work / name), work / name) for name, plan in TASKS.items()}
    tables: list[Tables] = [run.tables for run in runs.values()]
    return Prepared(write_corpus(data, tables, work / "corpus.txt"), runs)


def _encoder_jobs(encoders: Sequence[EncoderPlan], shared: Prepared, work: Path) -> list[Job]:
    families = dict.fromkeys(plan.family for plan in encoders)
    lengths = {plan.family: plan.settings.max_length for plan in encoders}
    jobs = [
        Job(family, tokenizer, _given(family, shared.corpus, work / "tokenizers" / family, lengths[family]))
        for family in families
    ]
    # The longest first: those that are pretrained.
    for plan in sorted(encoders, key=lambda plan: not plan.pretrained):
        made = partial(_of_tokenizer, plan, shared.corpus, work)
        jobs.append(Job(f"{plan.name}, weights", encoder, made, (plan.family,)))
        jobs.append(Job(plan.name, encoder_row, partial(_of_encoder, plan, shared.corpus), (f"{plan.name}, weights",)))
    return jobs


def _cell_jobs(name: str, task: str, run: TaskRun, known: dict[Cell, ClassifierRow], seeds: Sequence[int]) -> list[Job]:
    """A job for each cell that is not known; the further seeds' wait for the rates to be known."""
    first = first_cells([name], [task])
    missing = [cell for cell in first if cell not in known]
    weights = f"{name}, weights"
    jobs = [Job(cell, classifier_row, partial(_of_weights, run, cell), (weights,)) for cell in missing]
    rate = None if missing else best_rate([known[cell] for cell in first], run.plan.metric)
    for seed in seeds:
        if seed != SEEDS[0] and (rate is None or Cell(name, task, rate, seed) not in known):
            arguments = partial(_at_best_rate, run, name, task, seed, first, known)
            # Named by the last rate until its own is known.
            jobs.append(Job(Cell(name, task, RATES[-1], seed), classifier_row, arguments, (weights, *missing)))
    return jobs


def best_rate(rows: Sequence[ClassifierRow], metric: str) -> float:
    """The learning rate that is best on the part held out of train; the first of equals."""
    return max(rows, key=lambda row: row.chosen_on[metric]).rate


def _given(*arguments: Any) -> partial[tuple[Any, ...]]:
    return partial(_constant, arguments)


def _constant(arguments: tuple[Any, ...], _: Results) -> tuple[Any, ...]:
    return arguments


def _of_tokenizer(plan: EncoderPlan, corpus: Path, work: Path, done: Results) -> tuple[Any, ...]:
    return plan, corpus, done[plan.family], work


def _of_encoder(plan: EncoderPlan, corpus: Path, done: Results) -> tuple[Any, ...]:
    return plan, corpus, done[f"{plan.name}, weights"]


def _of_weights(run: TaskRun, cell: Cell, done: Results) -> tuple[Any, ...]:
    return run, done[f"{cell.encoder}, weights"], cell


def _at_best_rate(
    run: TaskRun,
    name: str,
    task: str,
    seed: int,
    first: Sequence[Cell],
    known: dict[Cell, ClassifierRow],
    done: Results,
) -> tuple[Any, ...]:
    rows = [done[cell] if cell in done else known[cell] for cell in first]
    (cell,) = further_cells(name, task, best_rate(rows, run.plan.metric), (seed,))
    return _of_weights(run, cell, done)


def _short(losses: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in losses.items() if name not in ("step", "lr", "targets"))


def main() -> None:
    """Parses the arguments and runs what is missing."""
    parser = argparse.ArgumentParser(description="Pretraining objectives against random weights")
    parser.add_argument("--data", type=Path, required=True, help="directory with a folder for each task")
    parser.add_argument("--work", type=Path, required=True, help="for corpus, tokenizers, encoders, runs under way")
    parser.add_argument("--results", type=Path, default=RESULTS, help="directory of the rows")
    parser.add_argument("--encoders", default=",".join(ENCODERS))
    parser.add_argument("--tasks", default=",".join(TASKS), help="none of them makes the encoders alone")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after these nothing further is begun")
    parser.add_argument(
        "--workers", type=worker_count, default=1, help="processes that train at the same time, on one GPU, say"
    )
    given = parser.parse_args()
    try:
        encoders = [ENCODERS[name] for name in chosen_names(given.encoders, ENCODERS, "encoder")]
        tasks = chosen_names(given.tasks, TASKS, "task") if given.tasks else []
        study(encoders, tasks, given.data, given.work, given.results, minutes=given.minutes, workers=given.workers)
    except UnderstudyError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
