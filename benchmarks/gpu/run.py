"""Everything that needs a GPU, in one command: `make gpu`, or `python3 -m benchmarks.gpu.run`.

Runs in under ten minutes and needs neither a virtual environment nor a network, only a Python with PyTorch, Triton,
transformers, pytest and matplotlib. Each part is a process with a time limit; `gpu.json` is written anew after each,
so that whatever ends the run leaves what was done:

    verdict   whether the kernels are right, in words; it stands first
    seconds   so far
    parts     by name: status ('passed' or 'failed' for checks, 'done' for measurements, 'out of time', 'not run'),
              seconds, command, result; reason or the tail of the output where it did not go well

Beside it: `relative_attention.json` and its plot (see that module), and a proposed `tile_table.json`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.parts import DONE, FAILED, NOT_RUN, PASSED, Entry, Part, read_sanitizer, read_tests
from benchmarks.gpu.report import summary_lines, table
from benchmarks.relative_attention import RESULTS as ATTENTION
from benchmarks.relative_attention import save
from common.files import read_json

RESULTS = "gpu.json"
# Of the whole run, with a margin to the ten minutes that it promises.
SECONDS = 565

_PYTHON = sys.executable
# Compiling is most of the checks' time, and takes more cores where pytest can use them.
_WORKERS = ("-n", "8") if importlib.util.find_spec("xdist") else ()
# The caching allocator would hide that an access left its tensor.
_UNCACHED = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


def _sanitizer(tool: str) -> tuple[str, ...]:
    # CUDA's toolkit lies here where it is not on the path.
    program = shutil.which("compute-sanitizer", path=f"{os.environ.get('PATH', '')}:/usr/local/cuda/bin")
    options = ("--tool", tool, "--error-exitcode", "9", "--print-limit", "10")
    return (program or "compute-sanitizer", *options, _PYTHON, "-m", "benchmarks.gpu.sanitizer")


def _machine_remark(result: Any) -> str:
    return f"{result['device']}, driver {result.get('driver')}, torch {result['torch']}, triton {result['triton']}"


def _tests_remark(result: Any) -> str:
    counts = ", ".join(f"{result[name]} {name}" for name in ("passed", "failed", "error", "skipped") if result[name])
    return "; ".join([counts, *result["failing"][:3]])


def _tiles_remark(result: Any) -> str:
    gains = [row["gain"] for row in result["rows"] if row["gain"]]
    return f"{len(gains)} rows decided, the greatest gain {max(gains, default=1.0):.2f}×"


def _xlnet_remark(result: Any) -> str:
    return ", ".join(f"{r['speed_up']['fused']:.2f}× stock at T={r['length']}, {r['dtype']}" for r in result["results"])


def _engine_remark(result: Any) -> str:
    """What the engine itself runs, float32 in graphs (on a CPU without), at the largest batch, over padded batches."""
    largest = max(row["texts"] for row in result["rows"])
    told = []
    for row in result["rows"]:
        if row["texts"] == largest and row["dtype"] == "float32":
            rates = row["texts_per_s"]
            form = "graphs" if "graphs" in rates else "packed"
            case = f"{row['family']} {row['layers']} layers float32 {form}"
            told.append(f"{case} {rates[form]:,.0f}/s ({rates[form] / rates['padded']:.2f}× padded)")
    right = sum(row["right"] for row in result["rows"])
    return f"{right} of {len(result['rows'])} right; {largest} texts: {'; '.join(told)}"


def _training_remark(result: Any) -> str:
    told = [
        f"{row['layers']} layers, {row['length']} tokens {row['steps_per_s']['graphs']:,.0f} steps/s "
        f"({row['gain']:.2f}× without)"
        for row in result["rows"]
    ]
    return "; ".join(told)


def _onnx_remark(result: Any) -> str:
    if result["reason"]:
        return str(result["reason"])
    largest = max(row["texts"] for row in result["rows"])
    rates = [
        f"{row['family']} {row['layers']} layers {row['texts_per_s']:,.0f}/s"
        for row in result["rows"]
        if row["texts"] == largest
    ]
    return f"{largest} texts: {'; '.join(rates)}"


def _attention_remark(result: Any) -> str:
    known = [target["met"] for target in result["targets"] if target["met"] is not None]
    return f"{sum(known)} of {len(known)} targets met; {result['stopped'] or 'all cases measured'}"


# In order. A part that prints one JSON object needs but a name, a command and its seconds; the last one takes what
# time is left.
PARTS = (
    Part(
        "machine", (_PYTHON, "-m", "benchmarks.gpu.machine"), 30,
        remark=_machine_remark, on_cpu=(),
    ),
    Part(
        "correctness",
        (_PYTHON, "-m", "pytest", "-vv", "-rN", "-p", "no:cacheprovider", *_WORKERS, "tests/kernels/kernel_checks.py",
         "tests/distill/test_training_pass.py"),
        100, read=read_tests, remark=_tests_remark,
        environment={"TRITON_INTERPRET": None, "PYTEST_ADDOPTS": None, "UNDERSTUDY_SOAK": "1"},
    ),
    Part(
        "memcheck", _sanitizer("memcheck"), 55,
        read=read_sanitizer, remark=lambda result: str(result["summary"]), environment=_UNCACHED,
    ),
    Part(
        "racecheck", _sanitizer("racecheck"), 55,
        read=read_sanitizer, remark=lambda result: str(result["summary"]), environment=_UNCACHED,
    ),
    Part(
        "tiles", (_PYTHON, "-m", "benchmarks.gpu.tiles", "--output", "{output}", "--seconds", "{seconds}"), 60,
        remark=_tiles_remark,
    ),
    Part(
        "xlnet", (_PYTHON, "-m", "benchmarks.xlnet", "--json", "--length", "128", "512"), 40,
        remark=_xlnet_remark, on_cpu=("--layers", "1", "--batch", "2", "--length", "16", "--rounds", "1"),
    ),
    Part(
        "engine", (_PYTHON, "-m", "benchmarks.gpu.engine"), 45,
        remark=_engine_remark, on_cpu=("--layers", "1", "--width", "48", "--texts", "1", "3"),
    ),
    Part(
        "training", (_PYTHON, "-m", "benchmarks.gpu.training"), 30,
        remark=_training_remark, on_cpu=("--layers", "1", "--width", "48", "--rows", "2", "--length", "16"),
    ),
    Part(
        "onnx", (_PYTHON, "-m", "benchmarks.gpu.onnx"), 45,
        remark=_onnx_remark, on_cpu=("--device", "cpu", "--layers", "1", "--width", "48", "--texts", "1", "3"),
    ),
    Part(
        "attention",
        (_PYTHON, "-m", "benchmarks.relative_attention", "--json", "--output", "{output}", "--seconds", "{seconds}"),
        SECONDS, remark=_attention_remark, on_cpu=("--length", "16", "32"),
    ),
)  # fmt: skip


def run(parts: tuple[Part, ...], output: Path, *, cpu: bool = False, seconds: float = SECONDS) -> dict[str, Any]:
    """Runs the parts one after the other.

    Args:
        output: the results' directory, made if missing.
        seconds: of the whole run.
        cpu: for a machine without a GPU: toy sizes, and the parts that need one not at all.

    Returns:
        What `gpu.json` holds.
    """
    output.mkdir(parents=True, exist_ok=True)
    if any(part.name == "attention" for part in parts):
        (output / ATTENTION).unlink(missing_ok=True)  # an earlier run's would be told as this one's
    started = time.monotonic()
    report: dict[str, Any] = {"verdict": verdict({}), "seconds": 0.0, "parts": {}}
    for part in parts:
        print(f"{part.name} …", file=sys.stderr, flush=True)
        report["parts"][part.name] = part.run(output, seconds - (time.monotonic() - started), cpu=cpu)
        report["verdict"] = verdict(report["parts"])
        report["seconds"] = round(time.monotonic() - started, 1)
        save(report, output / RESULTS)
    return report


def verdict(entries: dict[str, Entry]) -> str:
    """What the checks say of all the figures beside them."""
    checks = ("correctness", "memcheck", "racecheck", "engine", "onnx")
    bad = [name for name in checks if entries.get(name, {}).get("status") == FAILED]
    if bad:
        return f"WRONG: {', '.join(bad)} failed, so that the times below are those of kernels that are not right"
    if entries.get("correctness", {}).get("status") == PASSED:
        return f"right: {entries['correctness']['result']['passed']} checks of the kernels passed on this GPU"
    return "unknown: the kernels' checks did not run to their end here"


def lines(report: dict[str, Any], parts: tuple[Part, ...], output: Path) -> list[str]:
    """The whole run in short: the attention's table, then the parts, and the verdict first and last."""
    rows = [["part", "status", "seconds", "remark"]]
    for part in parts:
        entry = report["parts"][part.name]
        remark = part.remark(entry["result"]) if "result" in entry else entry.get("reason", "")
        if not remark and entry["status"] == FAILED:
            remark = (entry.get("tail") or [""])[-1]
        rows.append([part.name, entry["status"], f"{entry.get('seconds', 0):.0f}", remark[:150]])
    told = [report["verdict"]]
    # Written shape by shape, so that a part which was killed has left it, too.
    if "attention" in report["parts"] and (output / ATTENTION).is_file():
        told += summary_lines(read_json(output / ATTENTION))
    return [*told, "", *table(rows), "", report["verdict"], f"{report['seconds']:.0f} s; {output / RESULTS}"]


def main() -> None:
    """Parses the arguments, runs the parts and prints what came out; 1 if one failed, 2 without a GPU."""
    parser = argparse.ArgumentParser(description="everything that needs a GPU, in under ten minutes")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="directory of the results")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], help="these parts and no others")
    parser.add_argument("--cpu", action="store_true", help="try the path at toy sizes without a GPU")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="when it ends; parts without time do not run")
    arguments = parser.parse_args()
    if not arguments.cpu and not torch.cuda.is_available():
        print("a CUDA GPU is needed; --cpu tries the path at toy sizes without one", file=sys.stderr)
        sys.exit(2)
    parts = tuple(part for part in PARTS if arguments.only is None or part.name in arguments.only)
    report = run(parts, arguments.output, cpu=arguments.cpu, seconds=arguments.seconds)
    print("\n".join(lines(report, parts, arguments.output)))
    if any(entry["status"] not in (PASSED, DONE, NOT_RUN) for entry in report["parts"].values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
