"""Work that is cut into jobs, in several processes: a small model leaves most of a GPU, or of many cores, idle."""

from __future__ import annotations

import multiprocessing
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from common.errors import first_line
from common.machine import usable_cores
from common.progress import say, told_to

Results = Mapping[Hashable, Any]


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        name: its own.
        work: a module's function, so that another process finds it.
        arguments: those of `work`, from the results of the jobs in `after`.
        after: jobs that must be done first.
        required: whether it is begun whatever the time.
    """

    name: Hashable
    work: Callable[..., Any]
    arguments: Callable[[Results], tuple[Any, ...]]
    after: tuple[Hashable, ...] = field(default=())
    required: bool = False


def worker_count(text: str) -> int:
    """The argument of `--workers`.

    Raises:
        ArgumentTypeError: it is no number from 1.
    """
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"'{text}' is no number of processes")
    return int(text)


def run_jobs(jobs: Sequence[Job], workers: int, until: float = float("inf")) -> Iterator[tuple[Job, Any]]:
    """Runs the jobs, in their order as far as what they come after is done; yields each with its result as it ends.

    Args:
        workers: processes; 1 runs all in this one.
        until: when, on the monotonic clock, no further job is begun that is not required.

    Raises:
        Exception: the first that a job raised, once all others that could be done are; what comes after it is left out.
    """
    results: dict[Hashable, Any] = {}
    failures: list[BaseException] = []
    waiting = list(jobs)
    with _pool(workers) as pool:
        running: dict[Future[Any], Job] = {}
        while True:
            while len(running) < workers and (job := _next(waiting, results, until)) is not None:
                waiting.remove(job)
                running[_start(pool, job, results)] = job
            if not running:
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                job = running.pop(future)
                error = future.exception()
                if error is not None:
                    if pool is None:
                        raise error
                    say(f"{job.name} failed: {first_line(error)}")
                    failures.append(error)
                    continue
                results[job.name] = future.result()
                yield job, future.result()
    if failures:
        raise failures[0]


def _pool(workers: int) -> Any:
    if workers == 1:
        return nullcontext()
    threads = max(1, usable_cores() // workers)
    # A process that has CUDA open cannot be forked.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(threads,))


def _begin(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _next(waiting: Sequence[Job], results: Results, until: float) -> Job | None:
    late = time.monotonic() >= until
    ready = (job for job in waiting if all(name in results for name in job.after))
    return next((job for job in ready if job.required or not late), None)


def _start(pool: ProcessPoolExecutor | None, job: Job, results: Results) -> Future[Any]:
    arguments = job.arguments({name: results[name] for name in job.after})
    if pool is not None:
        return pool.submit(_silently, job.work, arguments)
    future: Future[Any] = Future()
    try:
        future.set_result(job.work(*arguments))
    except Exception as error:
        future.set_exception(error)
    return future


def _silently(work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """In a process whose lines would mix with the others'."""
    with told_to(_nobody):
        return work(*arguments)


def _nobody(_line: str) -> None:
    pass
