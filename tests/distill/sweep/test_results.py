"""The rows of a sweep: whole or absent, and never those of other data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from distill.sweep.results import Row, open_results

ABOUT = {"teacher": {"name": "t", "sha256": "a" * 64}, "train": {"name": "t.tsv", "sha256": "b" * 64}, "holdout": None}
SETTINGS = {"layers": 2, "alpha": 0.1 + 0.2, "seed": 0}


def _row(key: str, metric: float = 0.5) -> Row:
    return Row(key, SETTINGS, chosen_on={"accuracy": metric}, dev={"accuracy": metric}, wall_time_s=1.5)


def test_rows_and_answers_come_back_as_they_were(tmp_path: Path) -> None:
    with open_results(tmp_path / "sweep", ABOUT) as results:
        key = results.key(SETTINGS)
        assert results.get(key) is None
        results.add(_row(key, 1 / 3), np.array([1, 0, 2]))
        results.add(Row("other", SETTINGS, failed="the loss is nan"))
    with open_results(tmp_path / "sweep", ABOUT) as results:
        assert results.get(key) == _row(key, 1 / 3)
        assert results.answers(key).tolist() == [1, 0, 2]
        assert results.get("other") == Row("other", SETTINGS, failed="the loss is nan")
        assert results.key({**SETTINGS, "seed": 1}) != key == results.key(dict(reversed(SETTINGS.items())))


def test_what_is_called_otherwise_is_the_same_and_what_is_another_is_refused(tmp_path: Path) -> None:
    with open_results(tmp_path, ABOUT) as results:
        key = results.key(SETTINGS)
    with open_results(tmp_path, {**ABOUT, "train": {"name": "moved.tsv", "sha256": "b" * 64}}) as results:
        assert results.key(SETTINGS) == key
    for name, change in (("train", {"name": "t.tsv", "sha256": "c" * 64}), ("holdout", 0.1)):
        before = sorted(tmp_path.iterdir())
        with (
            pytest.raises(InputError, match=rf"is a sweep of a changed '{name}' \(.* before, .* now\)"),
            open_results(tmp_path, {**ABOUT, name: change}),
        ):
            pass
        assert sorted(tmp_path.iterdir()) == before


def test_a_torn_last_row_is_dropped_and_a_damaged_one_named(tmp_path: Path) -> None:
    with open_results(tmp_path, ABOUT) as results:
        results.add(_row("a"), np.zeros(3))
    path = tmp_path / "results.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + json.dumps(vars(_row("b"))).encode()[:40])
    with open_results(tmp_path, ABOUT) as results:
        assert results.get("a") is not None
        assert path.read_bytes() == whole
        results.add(_row("b"), np.zeros(3))
    path.write_bytes(whole + b'{"key": 3, "nonsense": 4}\n')
    with pytest.raises(InputError, match=r"results\.jsonl, line 2: damaged"), open_results(tmp_path, ABOUT):
        pass


def test_a_row_without_whole_answers_is_no_finished_run(tmp_path: Path) -> None:
    with open_results(tmp_path, ABOUT) as results:
        results.add(_row("a"), np.zeros(3))
        (tmp_path / "answers" / "a.npy").write_bytes(b"")
        with pytest.raises(InputError, match=r"a\.npy is damaged: delete it to repeat that run"):
            results.answers("a")
        (tmp_path / "answers" / "a.npy").unlink()
        assert results.get("a") is None


def test_two_sweeps_in_one_directory_are_refused(tmp_path: Path) -> None:
    with (
        open_results(tmp_path, ABOUT),
        pytest.raises(InputError, match="another sweep is running"),
        open_results(tmp_path, ABOUT),
    ):
        pass
    with open_results(tmp_path, ABOUT):
        pass


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds something else than a sweep"), open_results(tmp_path, ABOUT):
        pass
    with pytest.raises(InputError, match="is a file"), open_results(tmp_path / "thesis.txt", ABOUT):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
