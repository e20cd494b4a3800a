"""The study told: `python -m benchmarks.studies.pkd.report --data DIR` writes docs/pkd_study.md from the rows.

The data is needed for the right answers alone, which the rows do not hold.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.studies.arguments import write_report
from benchmarks.studies.pkd import tables
from benchmarks.studies.pkd.conclusions import conclusions
from benchmarks.studies.pkd.data import DEV_SHARE, HOLDOUT_SHARE, prepare
from benchmarks.studies.pkd.plan import (
    BEST_RATE,
    CONTROLS,
    DEPTHS,
    METHODS,
    SEEDS,
    TASKS,
    TEACHER_LAYERS,
    TaskPlan,
    cells,
)
from benchmarks.studies.pkd.rows import RESULTS, read_rows
from benchmarks.studies.pkd.summary import TaskSummary, summarise
from common.statistics import CONFIDENCE, RESAMPLES
from distill.settings import RECIPES

REPORT = Path("docs/pkd_study.md")


def report(tasks: Sequence[TaskSummary]) -> str:
    """The whole report in Markdown."""
    return "\n".join(_lines(tasks)).rstrip() + "\n"


def summaries(plans: Sequence[TaskPlan], data: Path, results: Path) -> list[TaskSummary]:
    """Every task as far as it has gone; only the data of those that have rows is read.

    Raises:
        InputError: damaged rows, rows of other data, or of different teachers.
    """
    order = cells(plans, DEPTHS, (*METHODS, *CONTROLS), SEEDS)
    with tempfile.TemporaryDirectory() as place:
        return [
            summarise(
                plan,
                read_rows(results, plan.name),
                [cell for cell in order if cell.task == plan.name],
                partial(prepare, plan, data, Path(place) / plan.name),
            )
            for plan in plans
        ]


def _lines(tasks: Sequence[TaskSummary]) -> Iterator[str]:
    yield from (
        "# Patient Knowledge Distillation on real tasks",
        "",
        "Made by `python -m benchmarks.studies.pkd.report` from the rows in `benchmarks/results/pkd_study`; "
        "`make study` adds rows. A small model leaves most of a GPU idle: there WORKERS is best the number of cores, "
        "with NVIDIA's MPS running; a worker takes up to 4.3 GB of the GPU's memory.",
        "",
        f"{tables.progress(tasks, METHODS)} cells are there, and {tables.progress(tasks, CONTROLS)} of the controls "
        "(the methods from the teacher's layers). A cell is one student: a task, a depth, a method and a seed.",
        "",
        "## What can be concluded",
        "",
        *(f"- {line}" for line in conclusions(tasks)),
        "",
        "## Teachers",
        "",
        *tables.teachers(tasks),
        "",
    )
    for depth in DEPTHS:
        yield from (f"## Students of {depth} of {TEACHER_LAYERS} layers", "", *tables.students(tasks, depth))
    yield from ("## Paired comparisons", "", *tables.contests(tasks), "")
    yield from ("## Targets", "", *tables.targets(tasks), "")
    yield from ("## How it is done", "", *_method(tasks), "")
    yield from ("## Cells that are missing", "", *tables.missing(tasks), "")


def _method(tasks: Sequence[TaskSummary]) -> Iterator[str]:
    slices = ", ".join(
        f"{task.plan.name} has a fixed slice of {task.plan.train_rows:,} rows and {len(task.plan.seeds)} seeds"
        for task in tasks
        if task.plan.train_rows is not None
    )
    yield from (
        f"- **Chosen on what, reported on what.** {100 * HOLDOUT_SHARE:.0f} % of the training rows, stratified, pick "
        "every model's epoch and the teacher's settings; teachers and students learn from the rest; dev chooses "
        "nothing. Training rows with the words of a dev row are left out. Banking77 has no dev rows: "
        f"{100 * DEV_SHARE:.0f} % of its rows are cut off, stratified, with a fixed seed. CLINC150's dev is its `val`.",
        "- **Budget.** Epochs, batch, length and learning rate are one set a task, the teacher's, for all methods, but "
        f"that best learns at {BEST_RATE:g} everywhere; T, α and β are each method's recipe ({_recipe('pkd-skip')}; "
        f"best: {_recipe('best')}).",
        "- **Start.** finetune, kd, pkd-last and pkd-skip start from the first k layers of the pre-trained model, as "
        "in the paper; best starts from every n/k-th layer of the teacher, head included. So best against them tells "
        "of start, losses and, where the teacher's rate is another, of the rate together. The `-teacher-start` rows "
        "are the same methods from best's start: best against kd-teacher-start tells of its losses and rate, "
        "kd-teacher-start against kd of the start alone.",
        f"- **Intervals** are of {100 * CONFIDENCE:.0f} %, by {RESAMPLES:,} bootstrap resamples of the examples and "
        "Student's t over seeds; with one seed over examples alone. `3×` is the number of seeds. Differences are "
        "paired over seeds and examples, in points of the metric; Holm's p allows for all rows of the table. In a "
        "mean over tasks each weighs the same, however many seeds it has, and draws its own. One seed tells nothing of "
        "how seeds vary, which makes an interval too narrow, so there is no verdict. Each seed has a teacher of its "
        "own, fine-tuned with that seed, so that the spread of teachers is in the intervals too.",
        f"- **Slices**: {slices}." if slices else "- **Rows**: all of every task's, and five seeds.",
        "- **Not the paper's set-up:** a teacher of 6 layers, not 12, of 384 units; one budget a task, not a grid "
        "search for each method; dev rows, where the paper's figures are of GLUE's test rows.",
    )


def _recipe(method: str) -> str:
    names = {"temperature": "T", "alpha": "α", "beta": "β", "hidden_weight": "hidden", "relation_weight": "relation"}
    return ", ".join(f"{sign} {RECIPES[method][name]:g}" for name, sign in names.items() if RECIPES[method][name])


def main() -> None:
    """Parses the arguments and writes the report."""
    write_report(lambda data, results: report(summaries(list(TASKS.values()), data, results)), RESULTS, REPORT)


if __name__ == "__main__":
    main()
