"""Names on the commands of studies, and what a bad one ends with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.studies.arguments import chosen_names
from benchmarks.studies.pretraining import __main__ as pretraining
from common.errors import InputError


def test_names_come_once_and_must_be_known() -> None:
    assert chosen_names("b,a,b", ["a", "b", "c"], "task") == ["b", "a"]
    with pytest.raises(InputError, match="there is no task '' in this study; it has a, b"):
        chosen_names("a,", ["a", "b"], "task")


@pytest.mark.parametrize(
    ("flag", "said"), [("--encoders", "there is no encoder 'magic'"), ("--tasks", "there is no task 'magic'")]
)
def test_an_unknown_name_is_one_line_and_code_2(
    flag: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["study", "--data", tmp_path, "--work", tmp_path / "work", flag, "magic"]
    monkeypatch.setattr(sys, "argv", [str(argument) for argument in given])
    with pytest.raises(SystemExit) as end:
        pretraining.main()
    error = capsys.readouterr().err
    assert (end.value.code, error.count("\n")) == (2, 1)
    assert said in error
