"""The report from made-up rows, whose figures are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.studies.lines import pack
from benchmarks.studies.pkd.data import Tables, prepare
from benchmarks.studies.pretraining import report as module
from benchmarks.studies.pretraining.plan import ENCODERS, RATES, Cell, settings_of
from benchmarks.studies.pretraining.report import report, results_of
from benchmarks.studies.pretraining.rows import ClassifierRow, EncoderRow
from common.errors import InputError
from tests.benchmarks.studies.pkd.conftest import PLAN


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Tables:
    return prepare(PLAN, data, tmp_path_factory.mktemp("work"))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TASKS", {"messages": PLAN})
    monkeypatch.setattr(module, "TARGETS", {"messages": 5.0})


def row_of(
    tables: Tables, encoder: str, wrong: int, rate: float = RATES[0], seed: int = 0, held: float = 0.5
) -> ClassifierRow:
    """A row that gets the first `wrong` of 48 dev rows wrong."""
    targets, labels = tables.targets(), len(tables.task.labels)
    answers = np.where(np.arange(len(targets)) < wrong, (targets + 1) % labels, targets)
    return ClassifierRow(
        encoder=encoder,
        task="messages",
        rate=rate,
        seed=seed,
        settings=dict(vars(settings_of(Cell(encoder, "messages", rate, seed), PLAN))),
        data=tables.describe(),
        encoder_sha256="a",
        chosen_on={"accuracy": held},
        dev={"accuracy": 1 - wrong / len(targets)},
        answers=pack(answers, labels),
        best_epoch=1,
        wall_time_s=1.0,
        machine={},
    )


def test_the_rate_is_chosen_by_the_held_out_part_alone(tables: Tables) -> None:
    # The other rate is better on dev, which chooses nothing.
    rows = [row_of(tables, "bert-none", 24, RATES[0], held=0.9), row_of(tables, "bert-none", 8, RATES[1], held=0.8)]
    found = results_of("messages", rows, tables)
    assert found.rates == {"bert-none": RATES[0]}
    assert found.runs["bert-none"].mean.mean == pytest.approx(0.5)
    # Of one rate alone nothing is known yet.
    assert results_of("messages", rows[:1], tables).runs == {}


def test_encoders_are_compared_over_the_seeds_that_both_have(tables: Tables) -> None:
    rows = [row_of(tables, name, 24, rate, held=rate) for name in ("bert-none", "bert-masked") for rate in RATES]
    rows += [row_of(tables, "bert-none", 24, RATES[1], 1), row_of(tables, "bert-none", 24, RATES[1], 2)]
    rows += [row_of(tables, "bert-masked", 12, RATES[1], 1)]
    found = results_of("messages", rows, tables).contest("bert-masked", "bert-none")
    assert found is not None
    comparison, seeds = found
    assert seeds == 2
    assert comparison.difference.mean == pytest.approx(0.125)  # none of the first seed, a quarter of the second
    assert results_of("messages", rows, tables).contest("bert-infoword", "bert-none") is None


def test_rows_of_other_data_are_refused(tables: Tables) -> None:
    row = row_of(tables, "bert-none", 8)
    with pytest.raises(InputError, match="other tables"):
        results_of("messages", [replace(row, data={**row.data, "dev": {"sha256": "0", "rows": 48}})], tables)


def test_the_report_says_what_is_there(tables: Tables) -> None:
    rows = [
        row_of(tables, name, wrong, rate) for name, wrong in (("bert-none", 24), ("bert-masked", 8)) for rate in RATES
    ]
    settings = ENCODERS["bert-masked"].settings.describe()
    corpus = {"sha256": "c", "lines": 1200}
    encoder = EncoderRow("bert-masked", settings, corpus, "a", 10, {"device": "cpu"}, 5_000, 2, {"loss": 3.5}, 60.0)
    text = report({"bert-masked": encoder}, [results_of("messages", rows, tables)])
    assert "| bert-masked | 5,000 | 4,800 | loss 3.50 | 60 | cpu |" in text
    assert "| bert-infoword | not there yet |" in text
    assert "**bert-masked against bert-none, messages**: cannot be told from one seed, +33.3" in text
    assert "the aim of 5 points is met" in text
    assert "1,200 lines" in text
