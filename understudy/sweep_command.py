"""`sweep`: the arguments; the work is in distill/sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from understudy.options import (
    Cache,
    Dev,
    LabelColumn,
    NoCache,
    PairColumn,
    TextColumn,
    Train,
    Unlabelled,
    cache_directory,
    columns,
)


def sweep(
    space: Annotated[
        Path, typer.Argument(help="TOML file of the settings to try: lists, ranges, seeds (docs/sweeps.md).")
    ],
    teacher: Annotated[str, typer.Option(help="Fine-tuned classifier: a directory, or a name on the Hub.")],
    train: Train,
    dev: Dev,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Directory of the results; the same again goes on where a sweep ended."),
    ],
    unlabelled: Unlabelled = None,
    holdout: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Share of the training rows that picks epochs and configurations, so that the dev table only reports.",
        ),
    ] = None,
    compare: Annotated[
        str, typer.Option(metavar="SETTING", help="The setting whose values are tested against each other.")
    ] = "method",
    keep_students: Annotated[bool, typer.Option("--keep-students", help="Keep every run's student.")] = False,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    cache: Cache = None,
    no_cache: NoCache = False,
) -> None:
    """Train students with many settings, and tell which of them are worth it."""
    from distill.sweep.sweep import sweep as run

    run(
        space,
        teacher,
        train,
        dev,
        output,
        columns(text_column, pair_column, label_column),
        unlabelled=unlabelled,
        holdout=holdout,
        compare=compare,
        cache=cache_directory(cache, no_cache),
        keep_students=keep_students,
    )
