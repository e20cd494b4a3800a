"""The truth under load: `python -m benchmarks.servers.overload BUNDLE --data TABLE --json OUT`.

Starts our server with a small queue, measures what it can do in a closed loop, and offers it shares and multiples of
that on a schedule which does not wait for it. Every answer is checked against the engine's. After each overload the
load falls to half of the capacity, and the time is taken until the server answers as usual.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.pool
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe_machine
from benchmarks.measure import significant
from benchmarks.servers.connection import Address
from benchmarks.servers.load import Load, find_wrk, read_texts, run_wrk, write_bodies
from benchmarks.servers.open_loop import PATH, ROUNDING, KnownQuestion, Limits, Spacing, offer, schedule
from benchmarks.servers.overload_report import Capacity, Memory, Step, check_targets, table
from benchmarks.servers.processes import HOST, ServerProcess, free_ports
from benchmarks.servers.trace import OK, Trace
from common.errors import InputError, UnderstudyError, WorkFailedError
from common.files import write_json
from common.progress import say
from serve.engine import Engine, Prediction

CONNECTIONS = 32
QUEUE_TOKENS = 8192
FACTORS = (0.5, 0.9, 1.2, 3.0, 10.0)
# Of the capacity: what is usual, and what follows an overload.
CALM = 0.5
# Requests in a row that make a recovery.
RECOVERED_RUN = 20
_WARM_UP_SECONDS = 2
# A rate is tried for so long before a step; if the generator does not hold it, a lower one, so many times.
_TRIAL_SECONDS, _TRIALS, _STEP_DOWN = 2.0, 10, 0.8
_SAMPLE_SECONDS = 0.5


def known_answers(engine: Engine, texts: Sequence[str]) -> list[KnownQuestion]:
    """The texts with what the engine says to each alone; those that it cannot classify are left out.

    A score may differ by rounding, or by the shift between a text alone and in a batch that the manifest tells.

    Raises:
        InputError: no text is left.
    """
    manifest = engine.bundle.manifest
    proofs = (manifest.verification, manifest.precision_proof)
    tolerance = max(ROUNDING, *(proof.batch_shift or 0.0 for proof in proofs if proof))
    questions = []
    for text in texts:
        (answer,) = engine.classify([text])
        if isinstance(answer, Prediction):
            questions.append(KnownQuestion(text, answer.label, answer.score, answer.tokens, tolerance))
    if not questions:
        raise InputError("the table has no text that can be classified")
    return questions


class Bench:
    """A running server under open-loop load from a process of its own.

    Args:
        workers: a pool of one process.
        draw: of the schedules.
    """

    def __init__(
        self,
        server: ServerProcess,
        workers: multiprocessing.pool.Pool,
        questions: Sequence[KnownQuestion],
        limits: Limits,
        spacing: Spacing,
        draw: np.random.Generator,
    ):
        self._server = server
        self._workers = workers
        self._questions = questions
        self._limits = limits
        self._spacing = spacing
        self._draw = draw

    def calm(self, capacity: Load, seconds: float) -> float:
        """Seconds from the schedule within which 99 of 100 answers come at half the capacity.

        Raises:
            WorkFailedError: there are no right answers.
        """
        trace = self._offer(self._times(CALM * capacity.texts_per_s, seconds), seconds)
        if not trace.count(OK):
            raise WorkFailedError(f"at half its capacity the server gave no right answer: {trace.figures()}")
        return float(np.percentile(trace.latency(OK), 99))

    def step(self, factor: float, capacity: Capacity, seconds: float, calm_seconds: float) -> Step:
        """One rate for so many seconds; behind an overload, half the capacity at once."""
        full = capacity.load.texts_per_s
        before = self._server.memory_bytes()
        overload = factor > 1
        rate = self._held_rate(factor * full) if overload else factor * full
        times = self._times(rate, seconds)
        if overload:
            times = np.concatenate([times, seconds + self._times(CALM * full, calm_seconds)])
        peak: list[int] = []
        cpu, started = self._server.cpu_seconds(), time.monotonic()
        trace = self._offer(times, seconds, lambda: peak.append(self._server.memory_bytes() or 0))
        cpu_after, wall = self._server.cpu_seconds(), time.monotonic() - started
        return Step(
            factor=factor,
            asked_per_s=factor * full,
            load=trace.part(0.0, seconds),
            calm=trace.part(seconds, seconds + calm_seconds) if overload else None,
            recovery=trace.recovery(seconds, capacity.usual, RECOVERED_RUN) if overload else None,
            memory=Memory(before, max(peak) or None, self._server.memory_bytes()),
            server_cores=significant((cpu_after - cpu) / wall) if cpu and cpu_after else None,
        )

    def _held_rate(self, rate: float) -> float:
        """`rate`, or the highest of the lower ones tried that the generator holds beside the server."""
        for _ in range(_TRIALS):
            if self._offer(self._times(rate, _TRIAL_SECONDS), _TRIAL_SECONDS).held:
                break
            rate *= _STEP_DOWN
        return rate

    def _times(self, rate: float, seconds: float) -> NDArray[np.float64]:
        return schedule(rate, seconds, self._spacing, self._draw)

    def _offer(self, times: NDArray[np.float64], seconds: float, sample: Callable[[], object] = lambda: None) -> Trace:
        address = Address(HOST, int(self._server.url.rpartition(":")[2]))
        arguments = (address, self._questions, times, seconds, self._limits)
        # A pool does not tell when its process is lost.
        deadline = time.monotonic() + (times[-1] if len(times) else 0) + 2 * self._limits.patience + 30
        running = self._workers.apply_async(offer, arguments)
        while not running.ready():
            if time.monotonic() > deadline:
                raise WorkFailedError("the load generator's process was lost")
            sample()
            running.wait(_SAMPLE_SECONDS)
        sample()
        return running.get()


def overload(
    bundle: Path,
    texts: Sequence[str],
    limits: Limits,
    *,
    seconds: float = 60.0,
    calm_seconds: float = 2.0,
    capacity_seconds: int = 5,
    factors: Sequence[float] = FACTORS,
    serve_options: Sequence[str] = (),
    spacing: Spacing = "poisson",
    seed: int = 0,
) -> dict[str, Any]:
    """Measures one start of the server.

    Args:
        texts: what is asked, over and over, in an order drawn once.
        seconds: of each step.
        calm_seconds: after each overload.
        capacity_seconds: of the closed loop, and of the calm from which the usual latency is taken.
        factors: of the capacity, one a step.
        serve_options: more arguments for `understudy serve`; the queue holds `QUEUE_TOKENS` unless they say otherwise.
        seed: of the order and the schedules.

    Returns:
        `machine`, `settings`, `capacity`, `steps`, `targets`, and the server's `exit_code` (None: it had to be killed).

    Raises:
        InputError: no text can be classified, or the queue holds more texts than there are connections.
        WorkFailedError: wrk is not installed, or the server does not start or answer.
    """
    find_wrk()
    machine = describe_machine()
    queue_tokens, options = _with_queue(serve_options)
    questions = known_answers(Engine.load(bundle, device="cpu"), texts)
    random.Random(seed).shuffle(questions)
    tokens = float(np.mean([question.tokens for question in questions]))
    if queue_tokens / tokens >= limits.connections:
        raise InputError(
            f"a queue of {queue_tokens:,} tokens holds some {queue_tokens / tokens:,.0f} of these texts, and "
            f"{limits.connections:,} connections never fill it: give the server fewer with --max-queue-tokens"
        )
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "understudy", "serve", bundle, "--port", port, *options]
    steps = []
    with tempfile.TemporaryDirectory() as name, multiprocessing.get_context("spawn").Pool(1) as workers:
        bodies = write_bodies([question.body for question in questions], Path(name) / "bodies.jsonl")
        server = ServerProcess(command, port, "/health/ready", Path(name) / "server.log", {})
        with server:
            run_wrk(server.url + PATH, bodies, CONNECTIONS, _WARM_UP_SECONDS)
            load = run_wrk(server.url + PATH, bodies, CONNECTIONS, capacity_seconds)
            draw = np.random.default_rng(seed)
            bench = Bench(server, workers, questions, limits, spacing, draw)
            capacity = Capacity(load, tokens, queue_tokens, bench.calm(load, capacity_seconds))
            say(f"capacity: {load.texts_per_s:,.0f} texts/s")
            for factor in factors:
                steps.append(bench.step(factor, capacity, seconds, calm_seconds))
                say(f"{factor:g} x capacity: done")
    return {
        "machine": machine,
        "settings": {
            "bundle": bundle.name,
            "serve_options": options,
            "texts": len(questions),
            "score_tolerance": questions[0].tolerance,
            "seconds": seconds,
            "calm_seconds": calm_seconds,
            "spacing": spacing,
            "seed": seed,
            "limits": asdict(limits),
        },
        "capacity": capacity.as_dict(),
        "steps": [step.as_dict() for step in steps],
        "targets": check_targets(steps, capacity),
        "exit_code": server.exit_code,
    }


def _with_queue(options: Sequence[str]) -> tuple[int, list[str]]:
    """How many tokens the server's queue holds, and the options that say so."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--max-queue-tokens", type=int, default=QUEUE_TOKENS)
    given, others = parser.parse_known_args(list(options))
    return given.max_queue_tokens, [*others, f"--max-queue-tokens={given.max_queue_tokens}"]


def main() -> None:
    """Parses the arguments, measures, prints the table and writes the JSON; a missed target is no failure."""
    parser = argparse.ArgumentParser(description="The truth under load: our server at and beyond its capacity")
    parser.add_argument("bundle", type=Path, help="what is served")
    parser.add_argument("--data", required=True, help="table of texts")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each step")
    parser.add_argument("--calm-seconds", type=float, default=2.0, help="at half the capacity after each overload")
    parser.add_argument("--factors", type=float, nargs="+", default=list(FACTORS), help="of the capacity")
    parser.add_argument("--serve-option", action="append", default=[], help="for `understudy serve`, as in =--lanes=2")
    parser.add_argument("--connections", type=int, default=Limits.connections, help="open at a time, at most")
    parser.add_argument("--spacing", choices=get_args(Spacing), default="poisson", help="of the requests in time")
    parser.add_argument("--seed", type=int, default=0, help="of the schedules and of the texts' order")
    parser.add_argument("--json", type=Path, required=True, help="where the results go")
    given = parser.parse_args()
    # A stop request unwinds like Ctrl-C, so that no server stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        result = overload(
            given.bundle,
            read_texts(given.data),
            Limits(connections=given.connections),
            seconds=given.seconds,
            calm_seconds=given.calm_seconds,
            factors=given.factors,
            serve_options=given.serve_option,
            spacing=given.spacing,
            seed=given.seed,
        )
    except UnderstudyError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    write_json(given.json, result)
    print(table(result["steps"], result["capacity"], result["targets"]))


if __name__ == "__main__":
    main()
