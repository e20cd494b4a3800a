"""Fresh processes: what they cost, and how they fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.bench import process_cost
from benchmarks.bench.process_cost import ProcessCost, measure_process
from common.errors import WorkFailedError

ROOT = Path(__file__).parents[3]


def test_a_process_answers_and_reports(student: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A directory that looks like one of ours must not hide ours.
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").write_text("raise RuntimeError('the wrong one')")
    monkeypatch.chdir(tmp_path)
    cost = measure_process(student, "onnx", "cpu", 1, ["hello", ("a", "pair")])
    assert cost.start_up_s > 0
    assert cost.peak_memory_bytes > 1_000_000


def test_a_failed_process_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(WorkFailedError, match=r"ended with code 1: .*no such bundle directory") as caught:
        measure_process(tmp_path / "nothing", "onnx", "cpu", 1, ["hello"])
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="how Linux counts")
def test_the_peak_is_the_process_own() -> None:
    held = b"x" * 400_000_000  # what getrusage would report of a child, too
    code = "from benchmarks.bench.process_cost import peak_memory; print(peak_memory())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert 5_000_000 < int(answer.stdout) < len(held)


def test_the_measured_process_imports_no_torch(student: Path) -> None:
    code = (
        "import sys, io; sys.stdin = io.StringIO('[\"hello\"]'); from benchmarks.bench.process_cost import main; "
        f"main({str(student)!r}, 'onnx', 'cpu', '1'); "
        "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert answer.returncode == 0, answer.stderr


def test_models_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[tuple[str, str, int]] = []

    def measure(path: Path, engine: str, _device: str, threads: int, _texts: object) -> ProcessCost:
        launched.append((path.name, engine, threads))
        return ProcessCost(float(len(launched)), len(launched))

    monkeypatch.setattr(process_cost, "measure_process", measure)
    models: list[Any] = [
        SimpleNamespace(id=id, path=Path(id), threads=2, engine=SimpleNamespace(model=SimpleNamespace(engine=engine)))
        for id, engine in (("teacher", "onnx"), ("student", "torch"))
    ]
    costs = process_cost.measure_processes(models, ["hello"], device="cpu")
    assert launched[:4] == [
        ("teacher", "onnx", 2),
        ("student", "torch", 2),
        ("student", "torch", 2),
        ("teacher", "onnx", 2),
    ]
    assert [cost.start_up_s for cost in costs["teacher"]] == [1, 4, 5, 8, 9, 12]
    assert len(costs["student"]) == process_cost.LAUNCHES
