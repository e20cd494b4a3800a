"""A training table cut in two: the same each time, of each label its share, and no text on both sides."""

from __future__ import annotations

import json
from pathlib import Path

from common.examples import BY_USUAL_NAMES, read_examples
from common.labels import SINGLE_LABEL, Task
from distill.sweep.holdout import split_train
from tests.conftest import write_tsv

TASK = Task(SINGLE_LABEL, ("a", "b"))


def _split(rows: list[dict[str, str]], directory: Path, **more: bool) -> list[list[dict[str, str]]]:
    directory.mkdir()
    table = read_examples(str(write_tsv(directory / "t.tsv", rows)), BY_USUAL_NAMES)
    parts = split_train(table, BY_USUAL_NAMES, TASK, 0.25, directory / "parts", **more)
    return [[json.loads(line) for line in part.read_text().splitlines()] for part in parts]


def test_copies_of_a_text_stay_together(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(40)]
    copies = [{"text": f"TEXT  {n}", "label": "ab"[n % 2]} for n in range(40)]
    train, aside = _split([*rows, *copies], tmp_path / "a", copies_together=True)
    sides = [{row["text"].casefold().replace("  ", " ") for row in part} for part in (train, aside)]
    assert not sides[0] & sides[1]
    assert (len(train), len(aside)) == (60, 20)
    assert [row["label"] for row in aside].count("a") == 10
    assert (train, aside) == tuple(_split([*rows, *copies], tmp_path / "b", copies_together=True))
    # Without that, so many copies cannot all fall on one side by chance.
    train, aside = _split([*rows, *copies], tmp_path / "c")
    assert {row["text"].casefold().replace("  ", " ") for row in train} & {row["text"].casefold() for row in aside}


def test_a_table_without_copies_is_cut_alike(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": "ab"[n % 3 == 0]} for n in range(40)]
    assert _split(rows, tmp_path / "a", copies_together=True) == _split(rows, tmp_path / "b")
