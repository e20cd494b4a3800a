"""The report from made-up rows, whose figures are known."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.studies.lines import pack
from benchmarks.studies.pkd import report as command
from benchmarks.studies.pkd.conclusions import conclusions, contests_of, seed_counts, target_verdict, verdict
from benchmarks.studies.pkd.data import Tables, prepare
from benchmarks.studies.pkd.plan import (
    CONTROLS,
    METHODS,
    PAPER_KEPT,
    TASKS,
    TEACHER,
    Cell,
    TaskPlan,
    cells,
    settings_of,
    teacher_training,
)
from benchmarks.studies.pkd.report import report
from benchmarks.studies.pkd.rows import StudyRow, add_row
from benchmarks.studies.pkd.summary import Contest, TaskSummary, contest, summarise
from common.errors import InputError
from common.statistics import Comparison, Interval
from tests.benchmarks.studies.pkd.conftest import PLAN

PLAN_OF_TWO = replace(PLAN, targets={2: 0.95})
# Dev rows that a teacher and two of its students get wrong.
ONE_SEED = ((TEACHER, 8), ("finetune", 20), ("kd", 16), ("best", 10))
ORDER = cells([PLAN_OF_TWO], [2], [*METHODS, *CONTROLS], PLAN.seeds)
TEACHER_SHA256 = "a" * 64


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Tables:
    return prepare(PLAN, data, tmp_path_factory.mktemp("work"))


def row_of(
    tables: Tables, wrong: int, method: str = TEACHER, seed: int = 0, plan: TaskPlan = PLAN_OF_TWO, layers: int = 2
) -> StudyRow:
    """A row that gets the first `wrong` dev rows wrong."""
    targets = tables.targets()
    labels = len(tables.task.labels)
    answers = np.where(np.arange(len(targets)) < wrong, (targets + 1) % labels, targets)
    cell = Cell(plan.name, layers, method, seed)
    settings = vars(teacher_training(plan, seed)) if method == TEACHER else settings_of(cell, plan).describe()
    return StudyRow(
        task=plan.name,
        layers=4 if method == TEACHER else layers,
        method=method,
        seed=seed,
        settings=dict(settings),
        data=tables.describe(),
        teacher=TEACHER_SHA256,
        machine={},
        chosen_on={"accuracy": 0.75},
        dev={"accuracy": 1 - wrong / len(targets)},
        answers=pack(answers, labels),
        weights_sha256=TEACHER_SHA256,
    )


def leads(tables: Tables) -> list[StudyRow]:
    """Two seeds' teachers, each with 8 dev rows wrong."""
    return [row_of(tables, 8, seed=seed) for seed in (0, 1)]


def summed(tables: Tables, rows: list[StudyRow]) -> TaskSummary:
    return summarise(PLAN_OF_TWO, rows, ORDER, lambda: tables)


def test_means_shares_and_differences(tables: Tables) -> None:
    rows = leads(tables)
    rows += [row_of(tables, wrong, "kd", seed) for seed, wrong in enumerate((10, 14))]
    rows += [row_of(tables, wrong, "finetune", seed) for seed, wrong in enumerate((30, 34))]
    task = summed(tables, rows)
    assert len(tables.targets()) == 48
    assert task.lead is not None
    assert task.lead.mean.mean == pytest.approx(40 / 48)
    kd = task.students[2, "kd"]
    assert kd.mean.mean == pytest.approx(36 / 48)
    assert kd.mean.low < 34 / 48 < 38 / 48 < kd.mean.high
    kept = task.kept(2, "kd")
    assert kept is not None
    assert kept.mean == pytest.approx(36 / 40)
    # The same dev rows are hard for teacher and student: their share varies less than each of them.
    assert kept.high - kept.low < (kd.mean.high - kd.mean.low) / (40 / 48)
    against = contest([task], 2, "kd", "finetune")
    assert against is not None
    assert against.seeds == (2,)
    assert against.result.difference.mean == pytest.approx(20 / 48)
    assert verdict(against) == "better"
    back = contest([task], 2, "finetune", "kd")
    assert back is not None
    assert verdict(back) == "worse"
    assert contest([task], 2, "kd", "best") is None
    assert len(task.missing) == len(ORDER) - 4


def test_settings_that_the_held_out_part_likes_better_are_named(tables: Tables) -> None:
    tried = [
        replace(row, settings=row.settings | {"learning_rate": rate}, chosen_on={"accuracy": value})
        for row, rate, value in zip([row_of(tables, 8)] * 3, (1e-5, 2e-5, 3e-5), (0.75, 0.9, 0.8), strict=True)
    ]
    assert not any("settings" in sentence for sentence in conclusions([summed(tables, [*leads(tables), tried[0]])]))
    (sentence,) = (each for each in conclusions([summed(tables, leads(tables) + tried)]) if "settings" in each)
    assert "2e-05" in sentence
    assert "0.9000" in sentence
    assert "0.7500" in sentence


def test_in_a_mean_over_tasks_each_weighs_the_same(tables: Tables) -> None:
    # Three rows better with each of two seeds, and six with one.
    two = [*leads(tables), *(row_of(tables, n, name, s) for name, n in (("kd", 10), ("best", 7)) for s in (0, 1))]
    first, second = summed(tables, two), summed(tables, [row_of(tables, n, name) for name, n in ONE_SEED])
    both = contest([first, second], 2, "best", "kd")
    assert both is not None
    assert both.seeds == (2, 1)
    assert seed_counts(both) == "1 to 2"
    assert both.result.difference.mean == pytest.approx((3 + 6) / 2 / 48)
    none = summed(tables, [row_of(tables, 8), row_of(tables, 16, "kd")])
    assert contest([first, none], 2, "best", "kd") is None


def test_a_task_whose_teacher_is_weak_is_in_no_mean(tables: Tables) -> None:
    good = summed(tables, [row_of(tables, n, name) for name, n in ONE_SEED])
    weak = summed(tables, [row_of(tables, 30 if name == TEACHER else n, name) for name, n in ONE_SEED])
    assert [weak.is_weak, good.is_weak] == [True, False]
    assert target_verdict(weak, 2) == "weak teacher"
    for tasks, counts in (([good, weak, good], [1, 1, 1, 2]), ([good, weak], [1, 1]), ([weak], [1])):
        assert [len(made.tasks) for made in contests_of(tasks, 2, "best", "kd")] == counts
    assert any("kd against finetune" in line for line in conclusions([good]))
    assert not any("against" in line for line in conclusions([weak]))


@pytest.mark.parametrize(
    ("wrong", "expected"), [((10,), "open"), ((10, 10), "held"), ((8, 12), "held"), ((10, 12), "missed"), ((), "open")]
)
def test_targets_are_of_the_mean_over_all_seeds(tables: Tables, wrong: tuple[int, ...], expected: str) -> None:
    # The teacher has 40 of 48, the target is 38 of 40.
    task = summed(tables, [*leads(tables), *(row_of(tables, n, "best", seed) for seed, n in enumerate(wrong))])
    assert target_verdict(task, 2) == expected


def test_a_teacher_no_better_than_the_commonest_label_is_named(tables: Tables) -> None:
    good, weak = summed(tables, [row_of(tables, 8)]), summed(tables, [row_of(tables, 30)])
    assert good.commonest == pytest.approx(16 / 48)
    assert not any("Weak teachers" in line for line in conclusions([good]))
    assert any("those of messages are not told apart" in line for line in conclusions([weak]))


@pytest.mark.parametrize(
    ("interval", "seeds", "expected"),
    [
        (Interval(1, 0.1, 2), (3, 2), "better"),
        (Interval(1, 0, 2), (3,), "undecided"),
        (Interval(-1, -2, -0.1), (2,), "worse"),
        (Interval(1, 0.1, 2), (1,), "one seed"),
        (Interval(-1, -2, -0.1), (5, 1), "one seed"),
    ],
)
def test_verdicts(interval: Interval, seeds: tuple[int, ...], expected: str) -> None:
    made = Contest(("a",) * len(seeds), 3, "best", "kd", seeds, Comparison(interval, 0.01, 0.01))
    assert verdict(made) == expected


def test_foreign_rows_are_refused(tables: Tables) -> None:
    lead = row_of(tables, 8)
    with pytest.raises(InputError, match="of the teacher bbbbbbbbbbbb…"):
        summed(tables, [lead, replace(row_of(tables, 9, "kd"), teacher="b" * 64)])
    data = {**lead.data, "train": {"sha256": "0", "rows": 1}}
    with pytest.raises(InputError, match="another train table"):
        summed(tables, [lead, replace(row_of(tables, 9, "kd"), data=data)])
    with pytest.raises(InputError, match="but not its teacher's"):
        summed(tables, [row_of(tables, 9, "kd")])


def test_the_last_row_of_a_cell_counts_and_earlier_settings_do_not(tables: Tables) -> None:
    early = replace(row_of(tables, 40, "best"), settings={**row_of(tables, 40, "best").settings, "hidden_weight": 3.0})
    task = summed(tables, [row_of(tables, 8), row_of(tables, 20, "kd"), row_of(tables, 10, "kd"), early])
    assert task.students[2, "kd"].mean.mean == pytest.approx(38 / 48)
    assert (2, "best") not in task.students
    assert task.outdated == 1
    failed = replace(row_of(tables, 0, "kd", 1), failed="the loss is nan", dev=None, answers="")
    task = summed(tables, [*leads(tables), row_of(tables, 10, "kd"), failed])
    assert list(task.students[2, "kd"].values) == [0]
    assert [cell.seed for cell in task.failed] == [1]


def test_the_report_says_what_is_there_and_what_is_missing(tables: Tables) -> None:
    empty = [summarise(plan, [], [], lambda: tables) for plan in TASKS.values()]
    rows = [row_of(tables, 8), replace(row_of(tables, 9), settings={**vars(PLAN.training), "epochs": 9})]
    rows += [row_of(tables, wrong, method, 0) for method, wrong in (("kd", 10), ("finetune", 34), ("best", 9))]
    text = report([summed(tables, rows), *empty])
    assert "3 of 10 cells are there, and 0 of 6 of the controls" in text
    assert "| messages | accuracy | 0.8333 (" in text
    assert "9 epochs, 0.005, batch 32: 0.7500" in text
    assert "6 epochs, 5e-05, batch 32: not run yet" in text
    assert "kd against finetune cannot be told from one seed on messages (+50.0 points" in text
    assert "**PKD-Skip ≥ KD ≥ fine-tuning, 3 layers**: nothing yet from a teacher that has learned something." in text
    assert "| messages | 2 | 95.0 % | 97.5 % (" in text
    assert "1 of 2 | open |" in text
    assert "| messages | 2 | 1 | 1 | 0–1 | 0–1 | 1 | 0–1 | 0–1 | 0–1 |" in text
    assert "Nothing can be said of SICK-NLI, CoLA" in text
    # Tables are whole: every line of one has as many columns.
    for block in text.split("\n\n"):
        widths = {line.count("|") for line in block.splitlines() if line.startswith("|")}
        assert len(widths) <= 1, block


def test_the_papers_shares_are_those_of_its_table() -> None:
    # Sun et al. 2019, table 1: PKD-Skip of 6 layers and its teacher of 12, on GLUE's test rows.
    table = {"SST-2": (92.0, 94.3), "MRPC": (79.9, 85.2), "RTE": (65.5, 69.1)}
    assert {
        name: pytest.approx(student / teacher, abs=3e-3) for name, (student, teacher) in table.items()
    } == PAPER_KEPT


def test_the_command_writes_the_report(
    tmp_path: Path, data: Path, tables: Tables, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "TASKS", {**TASKS, PLAN_OF_TWO.name: PLAN_OF_TWO})
    monkeypatch.setattr(command, "DEPTHS", (2,))
    results, output = tmp_path / "results", tmp_path / "study.md"
    for row in (row_of(tables, 8), row_of(tables, 10, "kd")):
        add_row(results, row)
    arguments = ["report", "--data", data, "--results", results, "--output", output]
    monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
    command.main()
    assert "| messages | 0.833 |" in output.read_text()
    assert str(output) in capsys.readouterr().out
    (results / "messages.jsonl").write_text("{}\n")
    with pytest.raises(SystemExit) as end:
        command.main()
    assert end.value.code == 2
    assert "messages.jsonl, line 1: damaged" in capsys.readouterr().err
