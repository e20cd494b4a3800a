"""`compare`: the arguments; the work is in serve/comparison/."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.errors import InputError
from understudy.options import (
    Device,
    EngineName,
    LabelColumn,
    Overwrite,
    PairColumn,
    Seed,
    TextColumn,
    Threads,
    columns,
)


def compare(
    a: Annotated[str, typer.Argument(help="File or directory that `score` wrote, or a bundle: the model in use, say.")],
    b: Annotated[str, typer.Argument(help="Another of the same kind: the one that is to take its place.")],
    data: Annotated[str | None, typer.Option(help="Table of texts that two bundles are compared on.")] = None,
    prefix_a: Annotated[str, typer.Option(help="The --prefix that A was written with.")] = "",
    prefix_b: Annotated[str, typer.Option(help="The --prefix that B was written with.")] = "",
    rows: Annotated[int, typer.Option(min=0, help="How many of the rows that differ most are shown.")] = 10,
    json: Annotated[
        Path | None, typer.Option("--json", help="File for the whole report as JSON, written whole or not at all.")
    ] = None,
    fail_under: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of rows with the same labels below which the exit code is 1."),
    ] = None,
    engine: EngineName = "onnx",
    device: Device = "auto",
    threads: Threads = 0,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
) -> None:
    """Tell how far two models agree, before one takes the other's place."""
    from common.files import check_output
    from serve.comparison.comparison import compare as run
    from serve.comparison.report import check_agreement, print_comparison, write_comparison

    if json is not None:
        check_output(json, directory=False, overwrite=overwrite)
        if json.exists() and any(
            path is not None and Path(path).exists() and json.samefile(path) for path in (a, b, data)
        ):
            raise InputError(f"{json} is one of the inputs: choose another file for --json")
    comparison = run(
        a,
        b,
        data=data,
        columns=columns(text_column, pair_column, label_column),
        prefix_a=prefix_a,
        prefix_b=prefix_b,
        rows=rows,
        engine=engine,
        device=device,
        threads=threads,
        seed=seed,
    )
    print_comparison(comparison)
    if json is not None:
        write_comparison(comparison, json, overwrite=overwrite)
    if fail_under is not None:
        check_agreement(comparison, fail_under)
