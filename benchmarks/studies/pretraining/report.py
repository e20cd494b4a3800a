"""The study told: `python -m benchmarks.studies.pretraining.report --data DIR` writes docs/pretraining_study.md.

The data is needed for the right answers alone, which the rows do not hold.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from benchmarks.studies.arguments import write_report
from benchmarks.studies.lines import unpack
from benchmarks.studies.pkd.data import Tables, prepare
from benchmarks.studies.pkd.summary import Runs
from benchmarks.studies.pretraining.__main__ import best_rate
from benchmarks.studies.pretraining.plan import CONTESTS, ENCODERS, RATES, SEEDS, TARGETS, TASKS
from benchmarks.studies.pretraining.rows import RESULTS, ClassifierRow, EncoderRow, read_cells, read_encoders
from common.errors import InputError
from common.resampled_metrics import resampled_metric
from common.statistics import CONFIDENCE, RESAMPLES, Comparison, Interval, compare, draw_examples

REPORT = Path("docs/pretraining_study.md")


@dataclass(frozen=True)
class TaskResults:
    """One task as far as it has gone.

    Attributes:
        rates: by encoder, the learning rate that the held-out part chose; an encoder of which not all rates have run
            has none, and no runs.
        runs: by encoder, its seeds at that rate.
    """

    name: str
    rates: Mapping[str, float]
    runs: Mapping[str, Runs]

    def contest(self, first: str, second: str) -> tuple[Comparison, int] | None:
        """One encoder against another over the seeds that both have, and how many these are; None without any."""
        if first not in self.runs or second not in self.runs:
            return None
        own, other = self.runs[first], self.runs[second]
        seeds = sorted(own.values.keys() & other.values.keys())
        if not seeds:
            return None
        observed = [own.values[seed] - other.values[seed] for seed in seeds]
        draws = np.stack([own.resampled[seed] - other.resampled[seed] for seed in seeds])
        return compare(observed, draws), len(seeds)


def results_of(task: str, rows: list[ClassifierRow], tables: Tables) -> TaskResults:
    """Sums one task up.

    Raises:
        InputError: rows of other data.
    """
    metric, described = TASKS[task].metric, tables.describe()
    targets, labels = tables.targets(), len(tables.task.labels)
    counts = draw_examples(len(targets), seed=crc32(task.encode()))
    rates, runs = {}, {}
    for encoder in ENCODERS:
        own = [row for row in rows if row.encoder == encoder and row.task == task]
        if any(row.data != described for row in own):
            raise InputError(f"the rows of {encoder} on {task} are of other tables than these")
        first = [row for row in own if row.seed == SEEDS[0]]
        if {row.rate for row in first} != set(RATES):
            continue
        rates[encoder] = best_rate(sorted(first, key=lambda row: row.rate), metric)
        chosen = {row.seed: row for row in own if row.rate == rates[encoder]}
        answers = {seed: unpack(row.answers, len(targets), labels) for seed, row in chosen.items()}
        runs[encoder] = Runs(
            {seed: row.dev[metric] for seed, row in chosen.items()},
            {seed: resampled_metric(tables.task, metric, each, targets, counts) for seed, each in answers.items()},
        )
    return TaskResults(task, rates, runs)


def report(encoders: Mapping[str, EncoderRow], tasks: list[TaskResults]) -> str:
    """The whole report in Markdown."""
    return "\n".join(_lines(encoders, tasks)).rstrip() + "\n"


def _lines(encoders: Mapping[str, EncoderRow], tasks: list[TaskResults]) -> Iterator[str]:
    yield from (
        "# Pretraining objectives on real text",
        "",
        "Made by `python -m benchmarks.studies.pretraining.report` from the rows in "
        "`benchmarks/results/pretraining_study`; `python -m benchmarks.studies.pretraining` adds rows.",
        "",
        "Encoders of four layers and width 256, pretrained on the same text and fine-tuned, against the same random "
        "weights fine-tuned.",
        "",
        "## What can be concluded",
        "",
        *(f"- {line}" for line in _conclusions(tasks)),
        "",
        "## Encoders",
        "",
        "| encoder | tokens read | steps | last losses | seconds | device |",
        "|---|---|---|---|---|---|",
    )
    for name, plan in ENCODERS.items():
        row = encoders.get(name)
        if row is None:
            yield f"| {name} | not there yet | | | | |"
            continue
        losses = ", ".join(
            f"{term} {value:.2f}" for term, value in row.losses.items() if term not in ("step", "lr", "targets")
        )
        steps = f"{plan.settings.steps:,}" if plan.pretrained else "0"
        device = row.machine.get("device", "")
        yield f"| {name} | {row.tokens:,} | {steps} | {losses} | {row.wall_time_s:.0f} | {device} |"
    yield from ("", "## Fine-tuned", "", "| encoder | " + " | ".join(task.name for task in tasks) + " |")
    yield "|---" * (1 + len(tasks)) + "|"
    for name in ENCODERS:
        yield f"| {name} | " + " | ".join(_cell(task, name) for task in tasks) + " |"
    yield from ("", "## Compared", "", "| first − second | task | seeds | points |", "|---|---|---|---|")
    for first, second in CONTESTS:
        for task in tasks:
            found = task.contest(first, second)
            if found is not None:
                comparison, seeds = found
                yield f"| {first} − {second} | {task.name} | {seeds} | {_points(comparison.difference)} |"
    yield from ("", "## How it is done", "", *_method(encoders))


def _conclusions(tasks: list[TaskResults]) -> Iterator[str]:
    for first, second in CONTESTS:
        for task in tasks:
            found = task.contest(first, second)
            if found is None:
                continue
            difference, target = found[0].difference, TARGETS.get(task.name)
            word = "better" if difference.low > 0 else "worse" if difference.high < 0 else "not told apart"
            if found[1] == 1:
                word = "cannot be told from one seed"
            aim = ""
            if target is not None and second.endswith("-none"):
                aim = f"; the aim of {target:g} points is {'met' if 100 * difference.mean >= target else 'missed'}"
            seeds = f"{found[1]} seed{'s' if found[1] > 1 else ''}"
            yield f"**{first} against {second}, {task.name}**: {word}, {_points(difference)} points ({seeds}){aim}."
    if not any(task.runs for task in tasks):
        yield "Nothing yet."


def _method(encoders: Mapping[str, EncoderRow]) -> Iterator[str]:
    corpora = {(row.corpus["sha256"], row.corpus["lines"]) for row in encoders.values()}
    lines = ", ".join(f"{count:,} lines" for _, count in sorted(corpora))
    slices = " and ".join(
        f"{plan.name} has a fixed slice of {plan.train_rows:,} training rows"
        for plan in TASKS.values()
        if plan.train_rows is not None
    )
    yield from (
        f"- **Text**: all text columns of the seven tasks' tables, each text once ({lines}); the dev texts reported on "
        "here are left out. Each line is a document, so that memory and recurrence have nothing to remember.",
        "- **Same budget**: steps, rows a step, length, rate and starting weights are one set; XLNet's tokenizer gives "
        "a few more tokens for the same text. `none` is those starting weights, with the tokenizer of the family.",
        f"- **Fine-tuning**: the learning rate is chosen of {' and '.join(f'{rate:g}' for rate in RATES)} for each "
        "encoder and task by a tenth of the training rows, on the first seed; that part picks each run's epoch too. "
        f"Dev chooses nothing. {slices}.",
        f"- **Intervals** are of {100 * CONFIDENCE:.0f} %, by {RESAMPLES:,} bootstrap resamples of the examples and "
        "Student's t over seeds; with one seed over examples alone. Differences are paired over both. Each "
        "objective was run once, so how much pretraining varies is in no interval.",
    )


def _cell(task: TaskResults, name: str) -> str:
    if name not in task.runs:
        return "–"
    mean, runs = task.runs[name].mean, task.runs[name]
    return f"{mean.mean:.3f} ({mean.low:.3f} to {mean.high:.3f}) {len(runs.values)}×, rate {task.rates[name]:g}"


def _points(interval: Interval) -> str:
    return f"{100 * interval.mean:+.1f} ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"


def _of(data: Path, results: Path) -> str:
    encoders = read_encoders(results)
    rows = list(read_cells(results, encoders).values())
    with tempfile.TemporaryDirectory() as place:
        tasks = [results_of(name, rows, prepare(plan, data, Path(place) / name)) for name, plan in TASKS.items()]
    return report(encoders, tasks)


def main() -> None:
    """Parses the arguments and writes the report."""
    write_report(_of, RESULTS, REPORT)


if __name__ == "__main__":
    main()
