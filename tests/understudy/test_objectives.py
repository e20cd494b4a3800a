"""`distill` with objectives beyond the paper's, by their flags."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.settings import RECIPES

Run = Callable[..., Any]


@pytest.fixture
def distilled(understudy: Run, bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path) -> Run:
    """Runs `distill` with these flags."""
    train, dev = small_tables

    def run(*flags: object) -> Any:
        return understudy(
            *("distill", "--teacher", bert_teacher, "--layers", 2, "--train", train, "--dev", dev),
            *("--no-cache", "-o", tmp_path / "student", *flags),
        )

    return run


def _settings(directory: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((directory / "student" / "distillation.json").read_text())["settings"]
    return settings


def test_every_objective_has_its_flag(distilled: Run, tmp_path: Path) -> None:
    flags: dict[str, Any] = {
        "method": "pkd-last",
        "init": "teacher-first",
        "width": 16,
        "heads": 4,
        "beta": 3.0,
        "hidden_weight": 0.5,
        "relation_weight": 0.25,
        "relations": "minilm",
        "relation_layer": 3,
        "augment": 1,
        "dim_weight": 0.125,
        "epochs": 1,
        "learning_rate": 0.001,
    }
    result = distilled(*(part for name, value in flags.items() for part in (f"--{name.replace('_', '-')}", value)))
    assert result.code == 0, result.err
    record = json.loads((tmp_path / "student" / "distillation.json").read_text())
    assert record["settings"].items() >= flags.items()
    assert record["steps"][0].keys() >= {"hard", "soft", "patience", "hidden", "relation", "dim"}


def test_best_is_a_method_whose_settings_flags_override(distilled: Run, tmp_path: Path) -> None:
    result = distilled("--method", "best", "--epochs", 1, "--temperature", 3)
    assert result.code == 0, result.err
    assert _settings(tmp_path).items() >= {**RECIPES["best"], "epochs": 1, "temperature": 3.0}.items()


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--method", "worst"], "method must be one of finetune, kd, pkd-skip, pkd-last, best, not 'worst'"),
        (["--method", "finetune", "--augment", 2], "finetune learns from the labels alone"),
        (["--method", "kd", "--alpha", 0, "--augment", 2], "--augment needs a loss with the teacher's answers in it"),
        (["--width", 64], "the student must be narrower than the teacher, whose width is 32: 64"),
        (["--relation-weight", 1, "--relation-layer", 9], "relation_layer must be one of the teacher's layers, 1 to 4"),
        (["--hidden-weight", "nan"], "hidden_weight must be a number from 0"),
        (["--dim-weight", 1, "--batch-size", 1], "dim_weight compares the rows of a batch"),
    ],
)
def test_what_does_not_fit_is_one_line(flags: list[object], reason: str, distilled: Run, tmp_path: Path) -> None:
    result = distilled("--init", "teacher-skip", *flags)
    assert result.code == 2, result
    assert reason in result.err
    assert result.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
