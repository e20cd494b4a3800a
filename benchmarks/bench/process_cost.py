"""What a model costs a process: start-up time and peak memory, each measured in a process of its own.

Run as a program, this file is that process. It imports what serving a bundle needs and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import WorkFailedError
from common.progress import progress
from common.tokenization import Text

if TYPE_CHECKING:
    from benchmarks.bench.contestants import LocalModel

BATCH_SIZE = 32
# Fresh processes of each model: as many as an interval needs.
LAUNCHES = 6
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class ProcessCost:
    """One process's.

    Attributes:
        start_up_s: from the start of the process to its first answer, which includes Python, the imports, verifying
            the bundle and opening the model.
        peak_memory_bytes: the most physical memory it held, the interpreter and libraries included.
    """

    start_up_s: float
    peak_memory_bytes: int


def measure_processes(
    models: Sequence[LocalModel], texts: Sequence[Text], *, device: str
) -> dict[str, list[ProcessCost]]:
    """What each model costs a process, by its id, a launch each; the models take turns.

    Args:
        texts: as in `measure_process`.
        device: as in `Engine.load`.

    Raises:
        WorkFailedError: a process failed.
    """
    costs: dict[str, list[ProcessCost]] = {model.id: [] for model in models}
    with progress("starting", LAUNCHES * len(models), "processes") as advance:
        for launch in range(LAUNCHES):
            first = launch % len(models)
            for model in [*models[first:], *models[:first]]:
                cost = measure_process(model.path, model.engine.model.engine, device, model.threads, texts)
                costs[model.id].append(cost)
                advance(1)
    return costs


def measure_process(bundle: Path, engine: str, device: str, threads: int, texts: Sequence[Text]) -> ProcessCost:
    """Starts a fresh Python that opens the bundle, answers the first text and then all of them.

    Args:
        engine, device, threads: as in `Engine.load`.
        texts: answered in batches of `BATCH_SIZE`; their longest batch sets the peak.

    Raises:
        WorkFailedError: the process failed.
    """
    # -P keeps the directory one happens to be in from hiding our modules.
    command = [sys.executable, "-P", "-m", "benchmarks.bench.process_cost", str(bundle.resolve())]
    command += [engine, device, str(threads)]
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": path},
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                # A process that ended early has closed its end; its exit code tells more than the pipe's error.
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(json.dumps(list(texts)).encode())
                    process.stdin.close()
                first = process.stdout.readline()
                start_up = time.perf_counter() - started
                rest = process.stdout.read()
            except BaseException:
                process.kill()
                raise
        if process.returncode or not first:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines() or ["no message"]
            raise WorkFailedError(
                f"the process that measures {bundle} ended with code {process.returncode}: {lines[-1]}"
            )
    return ProcessCost(start_up, json.loads(rest)["peak_memory_bytes"])


def peak_memory() -> int:
    """The most bytes of physical memory that this process held."""
    # Linux carries a parent's peak over into getrusage of a child that it starts; VmHWM begins with the program.
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(bundle: str, engine: str, device: str, threads: str) -> None:
    """The measured process: a line when the first text is answered, and its peak memory when all are."""
    from common.batching import BatchLimits
    from serve.engine import Engine

    limits = BatchLimits(items=BATCH_SIZE)
    loaded = Engine.load(bundle, engine=engine, device=device, threads=int(threads), limits=limits)
    texts = [tuple(text) if isinstance(text, list) else text for text in json.load(sys.stdin)]
    loaded.classify(texts[:1])
    print("answered", flush=True)
    loaded.classify(texts)
    print(json.dumps({"peak_memory_bytes": peak_memory()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
