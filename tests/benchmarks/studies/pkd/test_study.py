"""The study end to end on small models: rows, going on, refusals, other settings."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.studies.lines import unpack
from benchmarks.studies.pkd import __main__ as command
from benchmarks.studies.pkd.__main__ import tune
from benchmarks.studies.pkd.data import prepare
from benchmarks.studies.pkd.plan import CONTROLS, METHODS, TASKS, TEACHER, Cell, cells, settings_of
from benchmarks.studies.pkd.rows import read_rows
from common.errors import InputError
from common.examples import read_examples
from distill.distillation import distill
from distill.sources import weights_sha256
from tests.benchmarks.studies.pkd.conftest import ORDER, PLAN, RunStudy


def test_a_study_grows_from_run_to_run(run_study: RunStudy, tmp_path: Path, data: Path) -> None:
    results = tmp_path / "results"
    assert run_study(minutes=0) == 3  # the first cell is begun in any case
    begun = read_rows(results, "messages")
    assert [row.method for row in begun] == [TEACHER, "kd"]
    # A row that a killed study was writing is no row.
    with (results / "messages.jsonl").open("a") as file:
        file.write('{"task": "messages", "lay')
    assert run_study() == 0
    rows = read_rows(results, "messages")
    assert rows[:2] == begun
    assert [row.cell for row in rows if row.method != TEACHER] == ORDER
    leads = {row.seed: row.weights_sha256 for row in rows if row.method == TEACHER}
    assert len({leads[0], leads[1]}) == 2
    assert run_study() == 0
    assert read_rows(results, "messages") == rows

    tables = prepare(PLAN, data, tmp_path / "again")
    for row in rows:
        answers = unpack(row.answers, len(tables.targets()), len(tables.task.labels))
        assert row.dev is not None
        assert np.mean(answers == tables.targets()) == pytest.approx(row.dev["accuracy"])
        assert row.teacher == leads[row.seed]
    # No text of the data is in the results.
    content = (results / "messages.jsonl").read_text()
    assert not any(str(text) in content for text in read_examples(str(tables.dev), tables.columns).texts)
    # Each student is what `distill` makes of the same settings.
    found = (tmp_path / "work" / "messages" / "teachers").iterdir()
    (lead,) = (path for path in found if weights_sha256(path) == leads[0])
    record = distill(
        str(lead), str(tables.train), str(tables.holdout), tmp_path / "own", settings_of(ORDER[0], PLAN), tables.columns
    )
    assert weights_sha256(tmp_path / "own") == rows[1].weights_sha256
    assert record.best == rows[1].chosen_on


def test_several_workers_make_the_same_rows(run_study: RunStudy, tmp_path: Path) -> None:
    assert run_study(workers=2) == run_study(work="alone", results="alone") == 0
    made = {name: {row.cell: row for row in read_rows(tmp_path / name, "messages")} for name in ("results", "alone")}
    assert made["results"].keys() == made["alone"].keys() > set(ORDER)
    for cell, row in made["alone"].items():
        assert made["results"][cell].answers == row.answers


def test_rows_of_another_teacher_or_data_are_refused(
    run_study: RunStudy, tmp_path: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run_study(minutes=0)
    path = tmp_path / "results" / "messages.jsonl"
    before = path.read_text()
    path.write_text(before.replace(json.loads(before.splitlines()[0])["teacher"], "0" * 64))
    with pytest.raises(InputError, match="is of the teacher 000000000000…, the teacher here is"):
        run_study()
    path.write_text(before)

    other = tmp_path_factory.mktemp("other")
    shutil.copytree(data, other, dirs_exist_ok=True)
    table = other / "messages" / "dev.tsv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(InputError, match=r"another dev table than .*dev.tsv"):
        run_study(data=other, work="elsewhere")
    assert path.read_text() == before


def test_a_row_of_earlier_settings_does_not_count(run_study: RunStudy, tmp_path: Path) -> None:
    run_study(ORDER[:1])
    path = tmp_path / "results" / "messages.jsonl"
    path.write_text(path.read_text().replace('"alpha": 0.7', '"alpha": 0.3'))
    assert run_study(ORDER[:1]) == 0
    rows = read_rows(tmp_path / "results", "messages")
    assert [row.settings.get("alpha") for row in rows] == [None, 0.3, 0.7]


def test_tuning_keeps_a_row_for_each_setting_tried(
    tmp_path: Path, data: Path, bert_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bert_base.parent)
    plan = replace(PLAN, tried=(replace(PLAN.training, learning_rate=1e-5),))
    for _ in range(2):
        tune([plan], data, tmp_path / "work", tmp_path / "results", bert_base.name)
    rows = read_rows(tmp_path / "results", "messages")
    assert [row.settings["learning_rate"] for row in rows] == [5e-3, 1e-5]
    assert [row.is_current(plan) for row in rows] == [True, False]


def test_cells_come_seed_by_seed_and_methods_before_controls() -> None:
    plans = [TASKS["CoLA"], replace(TASKS["SST-2"], seeds=(0, 1, 2))]
    order = cells(plans, [3, 2], [*CONTROLS, *METHODS], range(5))
    assert len(order) == len(set(order)) == 2 * 8 * (5 + 3)
    assert order[:5] == [Cell("CoLA", 3, method, 0) for method in METHODS]
    assert [cell.seed for cell in order] == sorted(cell.seed for cell in order)
    first = [cell.method in CONTROLS for cell in order if cell.seed == 0]
    assert first == sorted(first)
    assert {cell.seed for cell in order if cell.task == "SST-2"} == {0, 1, 2}


def test_all_methods_have_the_same_budget_but_for_the_rate_of_best() -> None:
    plan = TASKS["RTE"]
    made = {cell.method: settings_of(cell, plan) for cell in cells([plan], [3], [*METHODS, *CONTROLS], [1])}
    trained = {name: settings.training for name, settings in made.items()}
    budget = replace(plan.training, seed=1)
    assert trained.pop("best") == replace(budget, learning_rate=2e-4)
    assert set(trained.values()) == {budget}
    assert {made[name].init for name in ("finetune", "kd", "pkd-last", "pkd-skip")} == {"pretrained"}
    assert {made[name].init for name in ("best", *CONTROLS)} == {"teacher-skip"}


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--tasks", "CoLA,WNLI", "there is no task 'WNLI' in this study"),
        ("--methods", "kd,magic", "there is no method 'magic' in this study"),
        ("--seeds", "0-9", "--seeds takes 0, 1, 2, 3, 4 in this study"),
        ("--seeds", "first", "--seeds takes numbers and ranges"),
        ("--depths", "", "--depths takes numbers and ranges"),
        ("--tasks", "CoLA", "train.tsv: no such file"),
    ],
)
def test_bad_arguments_are_one_line(
    flag: str,
    value: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = tmp_path / "results"
    arguments = ["study", "--data", tmp_path, "--work", tmp_path / "work", "--results", results, flag, value]
    monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
    with pytest.raises(SystemExit) as end:
        command.main()
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert said in error
    assert error.count("\n") == 1
    assert not results.exists()
