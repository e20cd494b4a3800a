"""Where `understudy distill` keeps the teacher's answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_where_the_teachers_answers_are_kept(
    understudy: Callable[..., Any],
    bert_teacher: Path,
    small_tables: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    train, dev = small_tables
    given = (
        *("distill", "--teacher", bert_teacher, "--layers", 2, "--init", "teacher-skip", "--epochs", 1),
        *("--train", train, "--dev", dev, "--overwrite", "-o", tmp_path / "student"),
    )
    default, own = tmp_path / "home" / "understudy" / "teacher", tmp_path / "own"

    assert understudy(*given, "--no-cache").code == 0
    assert not default.exists()
    assert understudy(*given, "--cache", own).code == 0
    assert not default.exists()
    assert "The teacher's answers to 96 rows are now kept in" in understudy(*given).out
    assert "The teacher's answers to 96 rows come from" in understudy(*given).out
    # One for the training rows, one for the dev rows.
    assert sorted(path.name for path in default.iterdir()) == sorted(path.name for path in own.iterdir())
    assert len(list(default.iterdir())) == 2

    for options, reason in (
        (("--cache", own, "--no-cache"), "--cache and --no-cache exclude each other"),
        (("--cache", train / "cache"), f"{train / 'cache'} is no writable directory, and the teacher's answers"),
        (("--early-stopping", 0), "early_stopping must be at least 1 epoch"),
    ):
        result = understudy(*given, *options)
        assert result.code == 2
        assert result.err.startswith(f"understudy: {reason}")
        assert result.err.count("\n") == 1
