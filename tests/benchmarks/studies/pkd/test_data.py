"""How a task's tables are cut."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.studies.pkd.data import prepare
from common.errors import InputError
from common.examples import Examples, read_examples
from tests.benchmarks.studies.pkd.conftest import PLAN


def _read(path: Path) -> Examples:
    return read_examples(str(path), PLAN.columns)


def test_no_dev_row_is_trained_on(tmp_path: Path, data: Path) -> None:
    (tmp_path / "messages").mkdir()
    train, dev = ((data / name).read_text() for name in (PLAN.train, PLAN.dev or ""))
    text, label = dev.splitlines()[1].split("\t")
    (tmp_path / PLAN.train).write_text(f"{train}{text.upper()} !\t{label}\n")
    (tmp_path / str(PLAN.dev)).write_text(dev)
    tables = prepare(PLAN, tmp_path, tmp_path / "work")
    parts = [_read(tables.train), _read(tables.holdout)]
    original = _read(data / PLAN.train)
    assert Counter(text for part in parts for text in part.texts) == Counter(original.texts)
    assert len(parts[1]) == pytest.approx(len(original) / 10, abs=1)
    assert tables.dev == tmp_path / str(PLAN.dev)


def test_without_dev_rows_some_are_cut_off(tmp_path: Path, data: Path) -> None:
    plan = replace(PLAN, dev=None)
    tables, again = (prepare(plan, data, tmp_path / name) for name in ("a", "b"))
    assert tables.describe() == again.describe()
    parts = [_read(path) for path in (tables.train, tables.holdout, tables.dev)]
    original = _read(data / PLAN.train)
    assert Counter(text for part in parts for text in part.texts) == Counter(original.texts)
    assert set(Counter(parts[2].labels).values()) == {5}  # 15 % of 32 each
    assert len(tables.targets()) == len(parts[2])


def test_a_slice_is_fixed_and_of_the_size_asked_for(tmp_path: Path, data: Path) -> None:
    plan = replace(PLAN, train_rows=60)
    tables, again = (prepare(plan, data, tmp_path / name) for name in ("a", "b"))
    assert tables.describe() == again.describe()
    assert len(_read(tables.train)) + len(_read(tables.holdout)) == 60
    with pytest.raises(InputError, match="has 96 rows; the study takes 96 of more"):
        prepare(replace(PLAN, train_rows=96), data, tmp_path / "c")
