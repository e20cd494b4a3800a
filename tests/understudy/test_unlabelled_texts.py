"""`distill --unlabelled` with a server's log: learned from where it fits, one line where it does not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import INTENTS, messages

Run = Callable[..., Any]
OTHERS = [row["text"] for row in messages() if row["label"] not in INTENTS][:30]


def _entry(text: str, text_pair: str | None = None) -> dict[str, Any]:
    """A line of a server's log of disagreements."""
    answers = {name: {"label": label, "score": 0.5} for name, label in (("student", "a"), ("teacher", "b"))}
    return {"time": "2025-01-01T00:00:00Z", "text": text, "text_pair": text_pair, **answers}


@pytest.fixture
def distilled(
    understudy: Run, bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path
) -> Callable[..., Any]:
    """Runs `distill` with a log of these entries."""

    def run(entries: list[dict[str, Any]], *more: object) -> Any:
        log = tmp_path / "log.jsonl"
        log.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
        train, dev = small_tables
        return understudy(
            *("distill", "--teacher", bert_teacher, "--layers", 2, "--init", "teacher-skip", "--epochs", 1),
            *("--train", train, "--dev", dev, "--unlabelled", log, "-o", tmp_path / "student", *more),
        )

    return run


def test_a_servers_log_is_learned_from(
    distilled: Run, understudy: Run, small_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    in_dev = small_tables[1].read_text(encoding="utf-8").splitlines()[1].split("\t")[0]
    result = distilled([_entry(text) for text in (*OTHERS, OTHERS[0], in_dev)], "--label-column", "label")
    assert result.code == 0, result.err
    assert (
        "of 32 texts 1 that are repeated, 0 that are training rows and 1 that are in the dev table are left out"
        in result.out
    )
    assert "on 96 rows, and 30 without a label" in result.out
    assert "ignored" not in result.out
    data = json.loads((tmp_path / "student" / "distillation.json").read_text())["data"]
    assert data["unlabelled"]["name"] == "log.jsonl"
    assert data["unlabelled"]["sha256"] == hashlib.sha256((tmp_path / "log.jsonl").read_bytes()).hexdigest()
    assert data["unlabelled"]["rows"] == 32
    # The bundle says what its model was made from, whatever tables those were.
    assert understudy("export", tmp_path / "student", "-o", tmp_path / "bundle").code == 0
    assert json.loads((tmp_path / "bundle" / "understudy.json").read_text())["made_from"]["data"] == data


@pytest.mark.parametrize(
    ("entries", "more", "reason"),
    [
        ([_entry("a")], ["--method", "finetune"], "choose --method kd, pkd-skip, pkd-last or best"),
        ([_entry("a"), _entry("b", "c")], [], "log.jsonl, line 2: a pair among single texts: keep pairs and single"),
        ([_entry("a", "b"), _entry("c")], [], "log.jsonl, line 2: a single text among pairs (no 'text_pair'): keep"),
        ([_entry("a", "b")], [], "log.jsonl: one has pairs of texts, the other single texts"),
        ([_entry("a"), _entry(" ")], [], "log.jsonl, line 2: empty text"),
        ([{"student": "a"}], [], "log.jsonl has no text column"),
        ([{"text": "a", "label": "b"}], [], "log.jsonl has a label column, 'label', and the teacher"),
        ([], [], "log.jsonl is empty"),
    ],
)
def test_what_does_not_fit_is_one_line(
    entries: list[dict[str, Any]], more: list[str], reason: str, distilled: Run, tmp_path: Path
) -> None:
    result = distilled(entries, *more)
    assert result.code == 2, result
    assert reason in result.err
    assert result.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
