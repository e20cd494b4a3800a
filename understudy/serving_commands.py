"""`serve`, `score`, `inspect`: the arguments; the work is in the rooms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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

Bundle = Annotated[Path, typer.Argument(help="Directory that `export` made.")]
TopK = Annotated[int | None, typer.Option(min=1, help="How many labels.")]


def serve(
    bundles: Annotated[
        list[str],
        typer.Argument(help="Bundles, as DIRECTORY or NAME=DIRECTORY; the first answers where no model is named."),
    ],
    teacher: Annotated[
        str | None, typer.Option(help="The first model's teacher: its bundle, served beside it.")
    ] = None,
    escalate_below: Annotated[
        float | None, typer.Option(help="Confidence of the student below which the teacher answers.")
    ] = None,
    target_agreement: Annotated[
        float | None, typer.Option(help="In its place: share of --dev on which to answer as the teacher does.")
    ] = None,
    dev: Annotated[str | None, typer.Option(help="Table of texts that --target-agreement is fitted on.")] = None,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    escalation_budget: Annotated[
        float | None, typer.Option(help="Largest share of texts that the teacher answers; 0.5 if not given.")
    ] = None,
    shadow: Annotated[float, typer.Option(help="Share of texts that the teacher is shown as well, unseen.")] = 0.0,
    shadow_load: Annotated[
        float | None, typer.Option(help="Largest share of time spent on that; 0.1 if not given.")
    ] = None,
    disagreements: Annotated[
        Path | None, typer.Option(help="File that keeps texts on which the two disagree, for `distill --unlabelled`.")
    ] = None,
    abstain_below: Annotated[float | None, typer.Option(help="Confidence below which an answer has no label.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    engine: EngineName = "onnx",
    device: Device = "auto",
    threads: Threads = 0,
    lanes: Annotated[
        int,
        typer.Option(min=0, help="Batches that run at once, sharing the threads; 0 takes 2 on a CPU of several cores."),
    ] = 0,
    max_queue_tokens: Annotated[int, typer.Option(min=1, help="Tokens admitted and not yet answered.")] = 65_536,
    max_wait: Annotated[
        float, typer.Option(min=0.001, help="Seconds of work that may be queued before a request.")
    ] = 2.0,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds until a waiting request is given up.")] = 30.0,
    max_items: Annotated[int, typer.Option(min=1, help="Texts a request.")] = 1024,
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of a request's body.")] = 4 * 1024 * 1024,
    keys: Annotated[Path | None, typer.Option(help="File of keys, one a line; callers must show one.")] = None,
    admin_keys: Annotated[Path | None, typer.Option(help="File of keys that may load other bundles.")] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Web page of another origin that may ask; may be repeated.")
    ] = None,
    access_log: Annotated[
        Path | None, typer.Option(help="File for a line of JSON a request, without its texts; - is standard output.")
    ] = None,
    watch: Annotated[float, typer.Option(help="Seconds between looks for a new bundle in the same place.")] = 0.0,
    drain: Annotated[
        float, typer.Option(min=0, help="Seconds from SIGTERM, when the server stops being ready, to its end.")
    ] = 0.0,
    seed: Seed = 0,
) -> None:
    """Serve bundles over HTTP until Ctrl-C; SIGHUP loads them anew.

    Keys may also stand in the environment, as UNDERSTUDY_KEYS and UNDERSTUDY_ADMIN_KEYS, separated by spaces.
    """
    from serve.access import ADMIN_KEYS_VARIABLE, KEYS_VARIABLE, AccessSettings, read_keys
    from serve.cascade import CascadeSettings
    from serve.model_process import EngineOptions
    from serve.repository import ModelSource
    from serve.requests import ServiceLimits
    from serve.scheduler import SchedulerSettings
    from serve.server import run_server
    from serve.settings import ServiceSettings
    from serve.shadow import ShadowSettings

    del seed  # nothing that is drawn at random changes an answer
    settings = ServiceSettings(
        models=tuple(ModelSource.parse(bundle) for bundle in bundles),
        teacher=None if teacher is None else ModelSource.parse(teacher),
        engine=EngineOptions(engine, device, threads, lanes),
        scheduler=SchedulerSettings(max_queue_tokens, max_wait, timeout),
        limits=ServiceLimits(max_body, max_items),
        cascade=CascadeSettings(
            escalate_below, target_agreement, dev, escalation_budget, columns(text_column, pair_column, None)
        ),
        shadow=ShadowSettings(shadow, shadow_load, disagreements),
        access=AccessSettings(
            read_keys(keys, KEYS_VARIABLE), read_keys(admin_keys, ADMIN_KEYS_VARIABLE), tuple(allow_origin or ())
        ),
        abstain_below=abstain_below,
        watch=watch,
        access_log=access_log,
    )
    run_server(settings, host=host, port=port, drain=drain)


def score(
    bundle: Bundle,
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Tables of texts: files, globs, directories; CSV, TSV, JSON Lines (each also .gz or .zst), Parquet, "
            "Arrow; local, s3://… or gs://…; - is standard input, in JSON Lines."
        ),
    ],
    output: Annotated[
        str,
        typer.Option("--output", "-o", help="The table written, local, s3://… or gs://…; its name says its format."),
    ],
    rows_per_file: Annotated[
        int | None, typer.Option(min=1, help="Write a directory of files of at most so many rows each.")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="Of the files in that directory: csv, jsonl.gz, parquet, …; the input's otherwise."),
    ] = None,
    scores: Annotated[bool, typer.Option("--scores", help="Add every label's score, as JSON.")] = False,
    prefix: Annotated[str, typer.Option(help="Put before the names of the added columns.")] = "",
    metric: Annotated[str | None, typer.Option(help="Metric printed first where a label column is there.")] = None,
    truncate: Annotated[
        bool, typer.Option(help="Cut a text over the token limit, and report it; otherwise it is an error.")
    ] = True,
    max_errors: Annotated[
        int | None, typer.Option(min=0, help="Rows without an answer after which the run stops, with exit code 1.")
    ] = None,
    progress: Annotated[str, typer.Option(help="bar, json (a line a second on standard error) or none.")] = "bar",
    engine: Annotated[
        str,
        typer.Option(help="onnx; torch, for bundles exported --with-weights; or ray: the ONNX model on a Ray cluster."),
    ] = "onnx",
    address: Annotated[
        str | None, typer.Option(help="The Ray cluster's address; otherwise the one that is there, or a local one.")
    ] = None,
    device: Device = "auto",
    threads: Threads = 0,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
) -> None:
    """Classify every row of tables of any size; a killed run goes on where it stopped."""
    from serve.scoring.score import score as run
    from serve.scoring.settings import ScoreSettings

    del seed  # nothing here is drawn at random
    settings = ScoreSettings(
        columns=columns(text_column, pair_column, label_column),
        all_scores=scores,
        prefix=prefix,
        metric=metric,
        truncate=truncate,
        format=format,
        rows_per_file=rows_per_file,
        max_errors=max_errors,
        engine=engine,
        device=device,
        threads=threads,
        address=address,
        progress=progress,
        overwrite=overwrite,
    )
    run(bundle, inputs, output, settings)


def inspect(
    bundle: Bundle,
    json: Annotated[bool, typer.Option("--json", help="Print the manifest as it is.")] = False,
    seed: Seed = 0,
) -> None:
    """Verify a bundle and show what it was made from."""
    from export.inspection import inspect as run

    del seed  # nothing here is drawn at random
    run(bundle, as_json=json)
