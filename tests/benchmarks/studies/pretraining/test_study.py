"""The study end to end in small: two encoders of shipped messages, a task, rows that a second call goes on from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.studies.lines import unpack
from benchmarks.studies.pkd.data import prepare, words
from benchmarks.studies.pretraining import __main__ as command
from benchmarks.studies.pretraining import corpus, models, plan, rows
from benchmarks.studies.pretraining.__main__ import best_rate, study
from benchmarks.studies.pretraining.plan import EncoderPlan
from benchmarks.studies.pretraining.rows import ClassifierRow, read_cells, read_encoders
from common.examples import read_examples
from distill.pretraining.settings import PretrainingSettings
from distill.sources import find_model
from tests.benchmarks.studies.pkd.conftest import PLAN

_SETTINGS = PretrainingSettings("masked", steps=3, batch_size=4, max_length=16)
ENCODERS = {
    "bert-none": EncoderPlan("bert-none", "bert", _SETTINGS, pretrained=False),
    "bert-masked": EncoderPlan("bert-masked", "bert", _SETTINGS),
}
TASK = replace(PLAN, training=replace(PLAN.training, max_length=16))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (plan, rows, command):
        monkeypatch.setattr(module, "ENCODERS", ENCODERS)
        monkeypatch.setattr(module, "TASKS", {"messages": TASK}, raising=False)
    monkeypatch.setattr(corpus, "TABLES", {"messages": TASK})
    monkeypatch.setattr(models, "BUILT_IN_VOCABULARY", 200)


def test_a_study_makes_its_encoders_and_goes_on(tmp_path: Path, data: Path) -> None:
    def run(**options: Any) -> tuple[dict[str, Any], dict[Any, ClassifierRow]]:
        study(list(ENCODERS.values()), ["messages"], data, tmp_path / "work", tmp_path / "results", **options)
        encoders = read_encoders(tmp_path / "results")
        return encoders, read_cells(tmp_path / "results", encoders)

    encoders, begun = run(seeds=(0,))
    assert encoders["bert-none"].tokens == 0 < encoders["bert-masked"].tokens
    assert encoders["bert-none"].parameters == encoders["bert-masked"].parameters
    assert {(cell.encoder, cell.rate, cell.seed) for cell in begun} == {
        (name, rate, 0) for name in ENCODERS for rate in plan.RATES
    }
    encoders, whole = run(seeds=(0, 1))
    assert {cell: whole[cell] for cell in begun} == begun
    metric = TASK.metric
    for name in ENCODERS:
        rate = best_rate([row for cell, row in begun.items() if cell.encoder == name], metric)
        assert [cell.rate for cell in whole if cell.encoder == name and cell.seed == 1] == [rate]
    before = (tmp_path / "results" / "cells.jsonl").read_text()
    run(seeds=(0, 1))
    assert (tmp_path / "results" / "cells.jsonl").read_text() == before

    tables = prepare(TASK, data, tmp_path / "again")
    for row in whole.values():
        answers = unpack(row.answers, len(tables.targets()), len(tables.task.labels))
        assert np.mean(answers == tables.targets()) == pytest.approx(row.dev[metric])
        assert row.encoder_sha256 == find_model(str(tmp_path / "work" / "encoders" / row.encoder)).sha256


def test_the_corpus_has_no_text_that_is_reported_on(tmp_path: Path, data: Path) -> None:
    tables = prepare(TASK, data, tmp_path / "tables")
    lines = corpus.write_corpus(data, [tables], tmp_path / "corpus.txt").read_text().splitlines()
    reported = {words(text) for text in read_examples(str(tables.dev), tables.columns).texts}
    assert len(lines) == len(set(lines)) > 0
    assert not reported & {words(line) for line in lines}
    learned = {words(text) for text in read_examples(str(tables.train), tables.columns).texts}
    assert learned <= {words(line) for line in lines}
