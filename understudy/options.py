"""Arguments that several commands share, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.errors import InputError
from common.examples import Columns

TextColumn = Annotated[str | None, typer.Option(help="Column of the (first) text; found by its usual names otherwise.")]
PairColumn = Annotated[str | None, typer.Option(help="Column of the second text, for tasks on pairs.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column of the label.")]
Train = Annotated[str, typer.Option(help="Training table: CSV, TSV, JSON Lines, Parquet, or hub:NAME[/CONFIG].")]
Dev = Annotated[str, typer.Option(help="Dev table; its metric picks the best epoch.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Where the result is written, whole or not at all.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run left at the output.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads of the model; 0 takes one a core.")]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine",
        help="onnx, or torch: PyTorch with the fused attention kernels, on a GPU where there is one; "
        "for bundles exported with --with-weights.",
    ),
]
Device = Annotated[
    str, typer.Option(help="cpu, cuda, or auto: CUDA where it works, else the CPU. cuda never falls back.")
]
Metric = Annotated[
    str | None,
    typer.Option(help="Dev metric: accuracy, macro-f1, f1, f1-accuracy, matthews, micro-f1, pearson-spearman, mse, …"),
]
Unlabelled = Annotated[
    str | None,
    typer.Option(help="One more table, of texts that the teacher labels, such as those that a server has seen."),
]
Cache = Annotated[
    Path | None,
    typer.Option(help="Where the teacher's answers are kept for further runs; your cache directory otherwise."),
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Keep the teacher's answers in memory alone.")]


def cache_directory(cache: Path | None, no_cache: bool) -> Path | None:
    """The two flags as one value: where the teacher's answers are kept, None for nowhere.

    Raises:
        InputError: both are given.
    """
    from distill.teacher_cache import default_cache

    if cache is not None and no_cache:
        raise InputError("--cache and --no-cache exclude each other")
    return None if no_cache else cache or default_cache()


def columns(text: str | None, pair: str | None, label: str | None) -> Columns:
    """The three column flags as one value."""
    return Columns(text, pair, label)
