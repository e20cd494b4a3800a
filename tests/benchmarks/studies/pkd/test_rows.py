"""Answers packed into rows, and rows that are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.studies.lines import pack, unpack
from benchmarks.studies.pkd.rows import read_rows
from common.errors import InputError


@given(
    st.integers(2, 200).flatmap(
        lambda labels: st.tuples(st.just(labels), st.lists(st.integers(0, labels - 1), min_size=1))
    )
)
def test_packing_loses_nothing(case: tuple[int, list[int]]) -> None:
    labels, answers = case
    assert unpack(pack(np.array(answers), labels), len(answers), labels).tolist() == answers


def test_two_labels_take_a_bit_each() -> None:
    assert pack(np.array([1, 0, 0, 0, 0, 0, 1, 1]), 2) == "gw=="  # 0b10000011


@pytest.mark.parametrize(
    ("text", "rows", "labels", "said"),
    [
        ("gw==", 9, 2, "not of 9 texts"),
        ("g*==", 8, 2, "no base64"),
        ("////", 12, 3, "more than 3 labels"),
    ],
)
def test_answers_that_do_not_fit_are_refused(text: str, rows: int, labels: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        unpack(text, rows, labels)


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "CoLA.jsonl").write_text('{"task": "CoLA"}\n')
    with pytest.raises(InputError, match=r"CoLA.jsonl, line 1: damaged"):
        read_rows(tmp_path, "CoLA")
    assert read_rows(tmp_path, "RTE") == []
