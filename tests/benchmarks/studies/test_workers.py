"""Jobs in processes: their order, what a failure leaves, and the time."""

from __future__ import annotations

import os
import time
from argparse import ArgumentTypeError
from typing import Any

import pytest

from benchmarks.studies.workers import Job, Results, run_jobs, worker_count


def double(number: int) -> tuple[int, int]:
    return 2 * number, os.getpid()


def fail(_: int) -> None:
    raise ValueError("no such number")


def _job(name: str, number: int, after: tuple[str, ...] = (), work: Any = double, *, required: bool = False) -> Job:
    def arguments(done: Results) -> tuple[int]:
        return (number + sum(result[0] for result in done.values()),)

    return Job(name, work, arguments, after, required)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_runs_after_those_that_it_needs(workers: int) -> None:
    jobs = [_job("sum", 0, ("one", "two")), _job("one", 1), _job("two", 2)]
    done = [(job.name, result) for job, result in run_jobs(jobs, workers)]
    assert {name: result[0] for name, result in done} == {"one": 2, "two": 4, "sum": 12}
    assert done[-1][0] == "sum"
    assert all((result[1] == os.getpid()) == (workers == 1) for _, result in done)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_is_told_in_the_end(workers: int) -> None:
    jobs = [_job("bad", 0, work=fail), _job("behind", 0, ("bad",)), _job("good", 1)]
    done: list[str] = []

    def run() -> None:
        done.extend(str(job.name) for job, _ in run_jobs(jobs, workers))

    with pytest.raises(ValueError, match="no such number"):
        run()
    assert done == ([] if workers == 1 else ["good"])


def test_when_the_time_is_over_only_required_jobs_are_begun() -> None:
    jobs = [_job("one", 1), _job("two", 2, required=True)]
    assert [job.name for job, _ in run_jobs(jobs, 1, until=time.monotonic())] == ["two"]


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", ""])
def test_no_number_of_processes(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="no number of processes"):
        worker_count(text)
