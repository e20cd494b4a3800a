"""`serve`, `score`, `bench`, `inspect`: the arguments; the work is in the rooms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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

Bundle = Annotated[Path, typer.Argument(help="Directory that `export` made.")]
TopK = Annotated[int | None, typer.Option(min=1, help="How many labels.")]


def serve(
    bundle: Bundle,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    engine: EngineName = "onnx",
    device: Device = "auto",
    threads: Threads = 0,
    lanes: Annotated[int, typer.Option(min=1, help="Batches that run at once, sharing the threads.")] = 1,
    max_queue_tokens: Annotated[int, typer.Option(min=1, help="Tokens admitted and not yet answered.")] = 65_536,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds until a waiting request is given up.")] = 30.0,
    seed: Seed = 0,
) -> None:
    """Serve a bundle over HTTP until Ctrl-C."""
    from serve.scheduler import SchedulerSettings
    from serve.server import run_server

    del seed  # nothing here is drawn at random
    settings = SchedulerSettings(max_queue_tokens=max_queue_tokens, timeout=timeout)
    run_server(
        bundle, host=host, port=port, engine=engine, device=device, threads=threads, lanes=lanes, settings=settings
    )


def score(
    bundle: Bundle,
    input: Annotated[Path, typer.Argument(help="Table of texts: CSV, TSV, JSON Lines or Parquet.")],
    output: Output,
    scores: Annotated[bool, typer.Option("--scores", help="Add every label's score, as JSON.")] = False,
    prefix: Annotated[str, typer.Option(help="Put before the names of the added columns.")] = "",
    metric: Annotated[str | None, typer.Option(help="Metric printed where a label column is there.")] = None,
    engine: EngineName = "onnx",
    device: Device = "auto",
    threads: Threads = 0,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
) -> None:
    """Classify every row of a file."""
    from serve.score import score as run

    del seed  # nothing here is drawn at random
    run(
        bundle,
        input,
        output,
        columns=columns(text_column, pair_column, label_column),
        all_scores=scores,
        prefix=prefix,
        metric=metric,
        engine=engine,
        device=device,
        threads=threads,
        overwrite=overwrite,
    )


def bench(
    student: Annotated[Path, typer.Argument(help="The student's bundle.")],
    teacher: Annotated[Path, typer.Option(help="The teacher's bundle.")],
    output: Output,
    data: Annotated[
        str | None, typer.Option(help="Table of texts, with labels or without; shipped messages otherwise.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=3, help="Measured turns of each model.")] = 7,
    engine: EngineName = "onnx",
    device: Device = "auto",
    threads: Threads = 0,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
) -> None:
    """Measure a student against its teacher, and write a report."""
    from benchmarks.bench import bench as run
    from demo.messages import DEV

    run(
        student,
        teacher,
        output,
        data=data or str(DEV),
        columns=columns(text_column, pair_column, label_column) if data else columns(None, None, None),
        rounds=rounds,
        engine=engine,
        device=device,
        threads=threads,
        overwrite=overwrite,
        seed=seed,
    )


def inspect(
    bundle: Bundle,
    json: Annotated[bool, typer.Option("--json", help="Print the manifest as it is.")] = False,
    seed: Seed = 0,
) -> None:
    """Verify a bundle and show what it was made from."""
    from export.inspection import inspect as run

    del seed  # nothing here is drawn at random
    run(bundle, as_json=json)
