"""What `score` costs beside the engine alone: `python -m benchmarks.scoring BUNDLE --data TABLE --json OUT`.

The engine alone gets all texts at once, tokenized before, sorted by length, in batches of the same limits; once with
one lane of all threads, once as `score` opens it. `score` reads the table, tokenizes, runs, and writes CSV. All in
turn, in one process. Then the command itself is run on the table and on its rows many times over, for its peak memory.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.measure import significant
from common.batching import cut_batches
from common.errors import InputError, UnderstudyError
from common.examples import BY_USUAL_NAMES
from common.files import write_json
from common.tables import TableReader
from common.tokenization import Encoded
from serve.engine import Engine
from serve.scoring.run import open_engine
from serve.scoring.score import score
from serve.scoring.settings import ScoreSettings

TIMES = 10


def measure(bundle: Path, table: Path, rounds: int, work: Path) -> dict[str, Any]:
    """Rows a second of the engine alone and of `score`, of each round."""
    reader = TableReader(table)
    columns = BY_USUAL_NAMES.found_in(reader.columns, str(table), need_label=False)
    one_lane = Engine.load(bundle)
    prepared = one_lane.prepare([columns.text_of(row) for _, row in reader.rows()])
    encoded = [entry for entry in prepared if isinstance(entry, Encoded)]
    lanes = open_engine(bundle, ScoreSettings())
    output = work / "scored.csv"
    settings = ScoreSettings(overwrite=True, progress="none")
    ways: dict[str, Callable[[], object]] = {
        "engine_one_lane": lambda: _run(one_lane, encoded),
        "engine_lanes": lambda: _run(lanes, encoded),
        "score": lambda: score(bundle, table, output, settings),
    }
    # Once before, so that what is loaded on the way is loaded.
    for way in ways.values():
        way()
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            rates[name].append(len(prepared) / (time.perf_counter() - started))
    best = [max(pair) for pair in zip(rates["engine_one_lane"], rates["engine_lanes"], strict=True)]
    shares = [own / other for own, other in zip(rates["score"], best, strict=True)]
    return {
        "rows": len(prepared),
        "tokens": sum(text.tokens for text in encoded),
        "rows_per_second": {name: significant(median(values)) for name, values in rates.items()},
        "by_round": {name: [significant(value) for value in values] for name, values in rates.items()},
        "score_over_engine": significant(median(shares)),
        "score_over_engine_range": [significant(min(shares)), significant(max(shares))],
    }


def peak_memory(bundle: Path, table: Path, work: Path) -> dict[str, Any]:
    """Peak resident memory of the command, in MiB, on the table and on its rows `TIMES` times over."""
    many = work / f"many{table.suffix}"
    header, _, rows = table.read_bytes().partition(b"\n")
    with many.open("wb") as file:
        file.write(header + b"\n")
        for _ in range(TIMES):
            file.write(rows)
    once, often = (_peak(bundle, path, work) for path in (table, many))
    return {"once_mib": significant(once), f"times_{TIMES}_mib": significant(often), "ratio": significant(often / once)}


def _run(engine: Engine, encoded: list[Encoded]) -> None:
    batches = cut_batches([text.tokens for text in encoded], engine.limits)
    with ThreadPoolExecutor(engine.model.lanes) as lanes:
        for _ in lanes.map(lambda rows: engine.run([encoded[row] for row in rows]), batches):
            pass


def _peak(bundle: Path, table: Path, work: Path) -> float:
    command = [sys.executable, "-m", "understudy", "score", bundle, table, "-o", work / "peak.csv", "--overwrite"]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise InputError(f"`score` failed on {table}")
    return usage.ru_maxrss / 1024


def main() -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description="What scoring a table costs beside the engine alone")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="table of texts, of two shards and more")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-memory", action="store_true", help=f"leave out the run on {TIMES} times the rows")
    parser.add_argument("--json", type=Path, required=True, help="where the results go")
    given = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as directory:
            work = Path(directory)
            result: dict[str, Any] = {
                "machine": describe_machine(),
                "bundle": given.bundle.name,
                "data": given.data.name,
            }
            result["throughput"] = measure(given.bundle, given.data, given.rounds, work)
            print(result["throughput"])
            if not given.no_memory:
                result["memory"] = peak_memory(given.bundle, given.data, work)
                print(result["memory"])
            write_json(given.json, result)
    except UnderstudyError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
