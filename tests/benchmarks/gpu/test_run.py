"""The GPU run on a machine without a GPU: its parts, what it makes of their outputs, and the tile table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import run as gpu
from benchmarks.gpu import tiles
from benchmarks.gpu.parts import Finished, Part, read_sanitizer, read_tests
from kernels import configurations, dispatch
from kernels.configurations import Configuration

ROOT = Path(__file__).parents[3]
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="what it does where there is no GPU")


@pytest.fixture(autouse=True)
def _one_thread(_few_threads: None) -> None:
    torch.set_num_threads(1)  # at these sizes, a second thread is only waited for


def python(name: str, code: str, seconds: float = 20.0, **options: Any) -> Part:
    return Part(name, (sys.executable, "-c", code), seconds, **options)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def test_a_part_is_told_where_and_how_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    code = (
        "import json, os, sys; print('a library talks'); "
        "print(json.dumps([{'a': sys.argv[1:], 'i': os.environ.get('TRITON_INTERPRET'), 's': os.environ['SET']}][0]))"
    )
    command = (sys.executable, "-c", code, "{output}", "{seconds}")
    part = Part("told", command, 100, environment={"TRITON_INTERPRET": None, "SET": "x"})
    entry = part.run(tmp_path, left=50)
    assert entry["status"] == "done"
    assert entry["result"] == {"a": [str(tmp_path), "20"], "i": None, "s": "x"}
    assert entry["command"].startswith(sys.executable)


@pytest.mark.skipif(sys.platform != "linux", reason="how Linux tells of processes")
def test_a_part_ends_at_its_limit_with_all_that_it_started(tmp_path: Path) -> None:
    code = (
        "import subprocess, time; child = subprocess.Popen(['sleep', '60']); "
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid)); print('so far', flush=True); time.sleep(60)"
    )
    entry = python("slow", code, seconds=1.5).run(tmp_path, left=100)
    assert entry["status"] == "out of time"
    assert entry["tail"] == ["so far"]
    assert entry["seconds"] < 10
    for _ in range(100):
        if not alive(int((tmp_path / "pid").read_text())):
            break
        time.sleep(0.02)
    assert not alive(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(
    ("part", "left", "cpu", "status", "reason"),
    [
        (Part("missing", ("no-such-program",), 5), 100, False, "not run", "no-such-program is not installed"),
        (python("late", "print(1)"), 0.5, False, "not run", "no time was left"),
        (python("cuda", "print({})"), 100, True, "not run", "it needs a CUDA GPU"),
        (python("words", "print('no object')"), 100, False, "failed", "its output cannot be read"),
        (python("odd", "print('{no json')"), 100, False, "failed", "its output cannot be read"),
    ],
)
def test_a_part_that_gives_nothing_says_why(
    part: Part, left: float, cpu: bool, status: str, reason: str, tmp_path: Path
) -> None:
    entry = part.run(tmp_path, left, cpu=cpu)
    assert entry["status"] == status
    assert reason in entry["reason"]
    assert "result" not in entry


def test_a_part_for_the_cpu_sees_no_gpu(tmp_path: Path) -> None:
    code = "import json, os, sys; print(json.dumps({'devices': os.environ['CUDA_VISIBLE_DEVICES'], 'a': sys.argv[1:]}))"
    entry = python("toy", code, on_cpu=("--small",)).run(tmp_path, 100, cpu=True)
    assert entry["result"] == {"devices": "", "a": ["--small"]}


def test_pytests_outcomes(tmp_path: Path) -> None:
    (tmp_path / "test_sample.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('case', ['one token', 'two FAILED words'])\n"
        "def test_good(case): pass\n"
        "def test_bad(): assert 1 == 2\n"
        "def test_skipped(): pytest.skip('why')\n"
        "def test_error(missing): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-vv", "-rN", "-p", "no:cacheprovider", "test_sample.py"]
    environment = {**os.environ, "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    entry = read_tests(Finished(done.returncode, done.stdout, done.stderr))
    assert entry["status"] == "failed"
    assert entry["result"] == {
        "passed": 2, "failed": 1, "error": 1, "skipped": 1, "failing": ["test_bad", "test_error"],
    }  # fmt: skip
    assert any("assert 1 == 2" in line for line in entry["tail"])


def test_pytests_outcomes_in_several_processes() -> None:
    text = (
        "scheduling tests via LoadScheduling\n\n"
        "tests/kernels/kernel_checks.py::test_exact[one token-dtype0] \n"
        "[gw0] [ 50%] PASSED tests/kernels/kernel_checks.py::test_exact[one token-dtype0] \n"
        "tests/kernels/kernel_checks.py::test_strides \n"
        "[gw1] [100%] PASSED tests/kernels/kernel_checks.py::test_strides \n"
    )
    everything = {"passed": 2, "failed": 0, "error": 0, "skipped": 0, "failing": []}
    assert read_tests(Finished(0, text, "")) == {"status": "passed", "result": everything}
    late = read_tests(Finished(None, text.rsplit("[gw1]", 1)[0], ""))
    assert (late["status"], late["result"]["passed"]) == ("out of time", 1)
    assert read_tests(Finished(2, "ERROR: file or directory not found", ""))["status"] == "not run"
    assert read_tests(Finished(None, text.replace("%] PASSED", "%] FAILED"), ""))["status"] == "failed"


@pytest.mark.parametrize(
    ("code", "text", "status"),
    [
        (0, "========= COMPUTE-SANITIZER\nran forward\n========= ERROR SUMMARY: 0 errors\n", "passed"),
        (9, "========= Invalid __global__ read\n========= ERROR SUMMARY: 3 errors\n", "failed"),
        (9, "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)\n", "failed"),
        (1, "========= Error: Device not supported.\n========= ERROR SUMMARY: 1 error\n", "not run"),
        (1, "ModuleNotFoundError: No module named 'torch'\n========= ERROR SUMMARY: 0 errors\n", "failed"),
        (None, "========= COMPUTE-SANITIZER\n", "out of time"),
        (0, "no tool ran\n", "failed"),
    ],
)  # fmt: skip
def test_the_sanitizers_verdict(code: int | None, text: str, status: str) -> None:
    entry = read_sanitizer(Finished(code, text, ""))
    assert entry["status"] == status
    if status == "not run":
        assert entry["reason"].startswith("Error: Device not supported")


def test_the_results_are_whole_after_every_part(tmp_path: Path) -> None:
    show = f"print(open({str(tmp_path / gpu.RESULTS)!r}).read())"
    parts = (
        python("correctness", "print('t.py::test_one FAILED'); raise SystemExit(1)", read=read_tests),
        python("second", "print('{\"answer\": 42}')"),
        python("third", show),
    )
    report = gpu.run(parts, tmp_path)
    seen = report["parts"]["third"]["result"]
    assert list(seen["parts"]) == ["correctness", "second"]
    assert seen["parts"]["second"]["result"] == {"answer": 42}
    assert json.loads((tmp_path / gpu.RESULTS).read_text()) == report
    assert next(iter(report)) == "verdict"
    assert report["verdict"].startswith("WRONG: correctness failed")
    told = gpu.lines(report, parts, tmp_path)
    assert told[0] == report["verdict"] == told[-2]
    assert [path.name for path in tmp_path.iterdir()] == [gpu.RESULTS]


def test_the_verdict() -> None:
    passed = {"correctness": {"status": "passed", "result": {"passed": 34}}}
    assert gpu.verdict(passed) == "right: 34 checks of the kernels passed on this GPU"
    assert gpu.verdict(passed | {"memcheck": {"status": "not run"}}).startswith("right")
    assert gpu.verdict(passed | {"racecheck": {"status": "failed"}}).startswith("WRONG: racecheck")
    assert gpu.verdict(passed | {"engine": {"status": "failed"}}).startswith("WRONG: engine")
    assert gpu.verdict({"correctness": {"status": "out of time"}}).startswith("unknown")
    assert gpu.verdict({"correctness": read_tests(Finished(1, "", "No module named pytest"))}).startswith("unknown")


def test_the_engines_remark_is_of_what_the_engine_runs() -> None:
    rows = [
        {"family": "bert", "layers": 3, "dtype": dtype, "texts": texts, "right": True,
         "texts_per_s": {"padded": 900.0, "packed": 300.0, "graphs": 450.0}}
        for dtype in ("float16", "float32") for texts in (8, 32)
    ]  # fmt: skip
    told = gpu._engine_remark({"rows": rows})
    assert told == "4 of 4 right; 32 texts: bert 3 layers float32 graphs 450/s (0.50× padded)"


def test_correctness_comes_before_every_timing_and_all_fits_the_promise() -> None:
    names = [part.name for part in gpu.PARTS]
    assert names[:2] == ["machine", "correctness"]
    assert names[-1] == "attention"
    assert sum(part.seconds for part in gpu.PARTS[:-1]) < gpu.SECONDS - 90 < 600
    needing = [part.name for part in gpu.PARTS if part.on_cpu is None]
    assert {"correctness", "memcheck", "racecheck", "tiles"} <= set(needing)


@NO_GPU
def test_the_command_without_a_gpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu.run", "--output", str(tmp_path / "out")]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert len(refused.stderr.splitlines()) == 1
    assert "CUDA GPU is needed" in refused.stderr
    assert not (tmp_path / "out").exists()
    toy = [*command, "--cpu", "--only", "machine", "correctness", "tiles"]
    done = subprocess.run(toy, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    parts = json.loads((tmp_path / "out" / gpu.RESULTS).read_text())["parts"]
    assert parts["machine"]["result"]["device"] == "cpu"
    assert parts["tiles"] == {"status": "not run", "reason": "it needs a CUDA GPU"}
    assert done.stdout.splitlines()[-2].startswith("unknown")


def test_it_needs_nothing_that_only_serving_has() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['fastapi', 'uvicorn', 'fastapi_swagger', 'orjson', 'typer'])); "
        "import benchmarks.gpu.run, benchmarks.gpu.tiles, benchmarks.gpu.sanitizer, benchmarks.gpu.machine, "
        "benchmarks.gpu.engine, benchmarks.gpu.onnx, benchmarks.relative_attention, benchmarks.xlnet"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


SOME = [
    Configuration(32, 32, 4, 2),
    Configuration(64, 32, 4, 2),
    Configuration(64, 64, 8, 2),
    Configuration(64, 64, 8, 3),
]


@pytest.fixture
def few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "BATCH", 1)
    monkeypatch.setattr(tiles, "HEADS", 1)
    monkeypatch.setattr(tiles, "LENGTHS", (64, 128))
    monkeypatch.setattr(tiles, "LONGEST", 100)
    for module in (tiles, configurations):
        monkeypatch.setattr(module, "candidates", lambda *_, **__: SOME)


def forced_now() -> Configuration:
    """Which configuration a kernel would run with now, whichever of them is forced."""
    return next(iter(configurations._forced.values()), SOME[0])


@pytest.mark.usefixtures("few_shapes")
def test_the_fastest_tiles_that_are_right_are_proposed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = dispatch.forward, dispatch.backward

    def forward(a: Any) -> Any:
        if forced_now() == SOME[3]:
            raise RuntimeError("out of resource: shared memory\nmore")
        out, logsumexp = right[0](a)
        return out * (1.5 if forced_now() == SOME[2] else 1.0), logsumexp

    def backward(*a: Any) -> Any:
        gradients = right[1](*a)
        return [g * (1.5 if forced_now() == SOME[2] else 1.0) for g in gradients]

    monkeypatch.setattr(dispatch, "forward", forward)
    monkeypatch.setattr(dispatch, "backward", backward)
    times = {SOME[0]: 3.0, SOME[1]: 2.0, SOME[2]: 1.0, SOME[3]: 4.0}
    calls = []

    def timer(call: Any) -> float:
        calls.append(call())
        return times[forced_now()]

    rows = list(tiles.tune([torch.float32], torch.device("cpu"), float("inf"), timer))
    assert [(row["length"], row["kernel"]) for row in rows] == [
        (length, kernel) for length in (128, 64) for kernel in ("forward", "queries", "keys")
    ]
    assert [row["measured_at"] for row in rows] == [100] * 3 + [64] * 3
    for row in rows:
        assert Configuration(*(row[name] for name in Configuration._fields)) == SOME[1]
        assert row["gain"] == 1.5
        last = None if row["kernel"] == "forward" else 4.0
        assert [tried.get("median_ms") for tried in row["tried"]] == [3.0, 2.0, None, last]
        assert row["tried"][2]["reason"].startswith("its answers differ")
    assert rows[0]["tried"][3]["reason"] == "out of resource: shared memory"
    assert not configurations._forced

    # The table is in force once it lies where the kernels look for it.
    table = tmp_path / tiles.TABLE
    configurations.write_table(table, [entry for row in rows if (entry := tiles.entry(row))], "a card")
    monkeypatch.setattr(configurations, "TABLE", table)
    configurations._table.cache_clear()
    try:
        assert configurations.configuration("keys", torch.float32, 64, 60) == SOME[1]
        assert configurations.configuration("keys", torch.float16, 64, 60) == SOME[0]
    finally:
        configurations._table.cache_clear()


@pytest.mark.usefixtures("few_shapes")
def test_tuning_stops_in_time_and_survives_a_kernel_without_any(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 10.0, 20.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))

    def timer(_: Any) -> float:
        raise RuntimeError("registers")

    rows = list(tiles.tune([torch.float32], torch.device("cpu"), 15.0, timer))
    assert [row["kernel"] for row in rows] == ["forward", "queries"]
    assert rows[0]["rows"] is None
    assert tiles.entry(rows[0]) is None
    assert rows[0]["gain"] is None


def test_make_gpu_runs_it_without_an_environment() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "OUT", "MAKEFLAGS")}
    command = ["make", "-n", "gpu", "OUT=some/where"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=True)
    assert "python3 -m benchmarks.gpu.run --output some/where" in done.stdout.splitlines()
