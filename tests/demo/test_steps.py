"""The whole demo on a small base model: every step real, and used again by the second run."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench import process_cost
from benchmarks.bench.report.schema import read_results
from demo import steps
from demo.messages import DEV, TRAIN
from serve.engine import Engine, Prediction
from tests.conftest import INTENTS, messages, write_tsv

Run = Callable[..., Any]


def test_the_demo_from_messages_to_a_bundle_and_again(
    understudy: Run, bert_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TEACHER_EPOCHS", "STUDENT_EPOCHS"):
        monkeypatch.setattr(steps, name, 1)
    monkeypatch.setattr(steps, "BENCH_SECONDS", 0.2)
    monkeypatch.setattr(process_cost, "LAUNCHES", 1)
    for name, path in (("TRAIN", TRAIN), ("DEV", DEV)):
        rows = [row for row in messages(path) if row["label"] in INTENTS]
        monkeypatch.setattr(steps, name, write_tsv(tmp_path / path.name, rows))
    home = tmp_path / "demo"
    result = understudy("demo", "-o", home, "--model", bert_base, "--no-serve")
    assert result.code == 0, result.err
    for word in ("layers", "parameters", "bundle size", "p50", "p99", "texts/s", "kept", "start-up"):
        assert word in result.out, word
    answer = Engine.load(home / "student-bundle").classify(["Where is my parcel?"])[0]
    assert isinstance(answer, Prediction)
    assert Engine.load(home / "student-bundle").bundle.manifest.layers == 3
    assert (home / "report" / "report.md").is_file()

    before = {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}
    again = understudy("demo", "-o", home, "--model", bert_base, "--no-serve")
    assert again.code == 0
    assert again.out.count("is there from an earlier run and is used again") == 5
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()} == before

    # A damaged part is made anew, and only it.
    model = home / "student-bundle" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    healed = understudy("demo", "-o", home, "--model", bert_base, "--no-serve")
    assert healed.code == 0
    assert healed.out.count("is there from an earlier run and is used again") >= 3
    Engine.load(home / "student-bundle")
    assert [model.role for model in read_results(home / "report").models] == ["teacher", "student"]


def test_a_port_that_cannot_be_had_is_told_before_the_work(understudy: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = understudy("demo", "-o", tmp_path / "demo", "--port", taken.getsockname()[1])
    assert (result.code, result.out) == (2, "")
    assert "is in use: choose another with --port" in result.err
    assert understudy("demo", "-o", tmp_path / "demo", "--port", 70_000).code == 2
    assert not (tmp_path / "demo").exists()


def test_foreign_files_are_left_alone(understudy: Run, tmp_path: Path) -> None:
    (tmp_path / "demo" / "teacher").mkdir(parents=True)
    (tmp_path / "demo" / "teacher" / "mine.txt").write_text("mine")
    result = understudy("demo", "-o", tmp_path / "demo", "--no-serve")
    assert result.code == 2
    assert "was not made by Understudy" in result.err
    assert (tmp_path / "demo" / "teacher" / "mine.txt").read_text() == "mine"
