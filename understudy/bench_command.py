"""`bench`: the arguments; the work is in benchmarks/bench/."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.errors import InputError
from understudy.options import (
    Device,
    EngineName,
    LabelColumn,
    Output,
    Overwrite,
    PairColumn,
    Seed,
    TextColumn,
    Threads,
    columns,
)

if TYPE_CHECKING:
    from benchmarks.bench.remote import RemoteSource


def bench(
    output: Output,
    students: Annotated[
        list[str] | None, typer.Argument(help="Bundles of students; DIRECTORY@torch names the engine of one.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="The teacher's bundle, named like a student.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Table of texts, with labels or without; shipped messages otherwise.")
    ] = None,
    scenarios: Annotated[
        str, typer.Option(help="Some of single-stream, multi-stream, server and offline, separated by commas.")
    ] = "single-stream,multi-stream,server,offline",
    rounds: Annotated[int, typer.Option(min=3, help="Turns of each model; intervals need six.")] = 9,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="About how long a scenario measures each model, all rounds together.")
    ] = 10.0,
    latency_bound_ms: Annotated[
        float, typer.Option(min=0.001, help="What 99 of 100 answers must keep in the server scenario.")
    ] = 50.0,
    threads: Threads = 0,
    engine: EngineName = "onnx",
    device: Device = "auto",
    price_per_core_hour: Annotated[
        float | None, typer.Option(min=0, help="What a core costs, in any currency, for the price of a million texts.")
    ] = None,
    url: Annotated[
        list[str] | None, typer.Option(help="A server whose model takes part as a student; may be repeated.")
    ] = None,
    dialect: Annotated[
        list[str] | None,
        typer.Option(help="What that server speaks: understudy, tei or oip; one for all, or one for each --url."),
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="The model's name there; one for each --url.")] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="results.json of an earlier run; what is worse beyond noise makes the exit code 1."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, and nothing else.")] = False,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
) -> None:
    """Measure students against their teacher, and write a report."""
    from benchmarks.bench.bench import run_bench
    from benchmarks.bench.report.against import check_no_regression
    from benchmarks.bench.settings import BenchSettings
    from common.files import as_json
    from common.progress import told_to
    from demo.messages import DEV

    if teacher is None:
        *others, last = students or ["STUDENT", "TEACHER"]
        named = " ".join(others or ["STUDENT"])
        raise InputError(f"name the teacher with --teacher: understudy bench {named} --teacher {last} -o {output}")
    settings = BenchSettings(
        scenarios=tuple(name.strip() for name in scenarios.split(",")),
        rounds=rounds,
        seconds=seconds,
        latency_bound_ms=latency_bound_ms,
        threads=threads,
        engine=engine,
        device=device,
        price_per_core_hour=price_per_core_hour,
        seed=seed,
    )
    quiet = told_to(lambda _: None) if json else nullcontext()
    with quiet:
        results, changes = run_bench(
            students or (),
            output,
            settings,
            teacher=teacher,
            data=data or str(DEV),
            columns=columns(text_column, pair_column, label_column) if data else columns(None, None, None),
            servers=_servers(url or (), dialect or (), model or ()),
            against=against,
            overwrite=overwrite,
            quiet=json,
            foreign_labels=data is None,
        )
    if json:
        sys.stdout.write(as_json(results))
    if changes is not None:
        check_no_regression(changes)


def _servers(urls: Sequence[str], dialects: Sequence[str], models: Sequence[str]) -> list[RemoteSource]:
    """
    Raises:
        InputError: not as many dialects or models as servers, or one that does not fit.
    """
    from benchmarks.bench.remote import NATIVE, RemoteSource

    for name, values in (("--dialect", dialects), ("--model", models)):
        if values and not urls:
            raise InputError(f"{name} needs a --url")
        if len(values) not in (0, 1, len(urls)):
            raise InputError(f"{len(urls)} --url and {len(values)} {name}: give one for all, or one for each")
    return [RemoteSource(url, _nth(dialects, place) or NATIVE, _nth(models, place)) for place, url in enumerate(urls)]


def _nth(values: Sequence[str], place: int) -> str | None:
    """The value of a place; the only one stands for all."""
    return values[place if len(values) > 1 else 0] if values else None
