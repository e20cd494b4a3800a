"""`score`: every row of the inputs through the engine, with the answers beside the input's columns."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from common.errors import InputError, WorkFailedError
from common.files import check_names, parents_of
from common.location import Location
from common.locks import held_directory
from common.metrics import choose_metric
from common.progress import say
from common.storage import expand
from export.bundle import Bundle
from serve.scoring.journal import Records, ShardRecord
from serve.scoring.local import score_locally
from serve.scoring.output import Output
from serve.scoring.run import ScoreRun, open_engine, prepare_run
from serve.scoring.score_progress import ScoreProgress
from serve.scoring.settings import ScoreSettings
from serve.scoring.shards import Inputs
from serve.scoring.summary import ScoreSummary, summarize


def score(
    bundle: Path | str,
    inputs: Path | str | Sequence[Path | str],
    output: Path | str,
    settings: ScoreSettings | None = None,
) -> ScoreSummary:
    """Writes the inputs' rows in their order with `prediction`, `score`, `truncated` and `error` behind them.

    A row that cannot be classified is kept with its reason in `error`. Until the output is whole, what is done lies in
    `.NAME.partial` beside it: the same call goes on from there after a kill, and ends with the same bytes.

    Args:
        bundle: a directory that `export` made.
        inputs: files, globs and directories, local or `s3://…` and `gs://…`; `-` is standard input, in JSON Lines.
        output: a file, local or not; with `settings.rows_per_file` a directory.

    Raises:
        InputError: the bundle, an input or the output will not do, or an input cannot be decoded (with the line).
        WorkFailedError: more rows have an error than `settings.max_errors`.
    """
    started = time.monotonic()
    settings = settings or ScoreSettings()
    locations = expand([inputs] if isinstance(inputs, (str, Path)) else inputs)
    target = Output.of(
        Location.parse(output), format=settings.format, rows_per_file=settings.rows_per_file, like=locations[0]
    )
    target.check(locations, overwrite=settings.overwrite)
    source = Inputs(locations)
    loaded = Bundle.load(Path(bundle))
    on_ray = settings.engine == "ray"
    # An actor's device must be known before there is one, and is what was asked for.
    engine = None if on_ray else open_engine(Path(bundle), settings)
    device = engine.model.device if engine is not None else "cuda" if settings.device == "cuda" else "cpu"
    run = prepare_run(loaded, source, target, settings, device)
    metric = choose_metric(loaded.task, settings.metric)
    with _sole_run(run) as records:
        resumed = dict(records)
        with ScoreProgress(settings.progress, resumed.values()) as shown:
            _check_errors(run, records)
            for record in (
                score_locally(run, engine, resumed, shown) if engine is not None else _score_on_ray(run, resumed, shown)
            ):
                records[record.shard] = record
                _check_errors(run, records)
            before = sum(record.rows for record in resumed.values())
            summary = summarize(records, loaded.task, resumed=before, seconds=time.monotonic() - started)
            target.write(run.scorer.writer, run.journal, records, summary.as_json(), overwrite=settings.overwrite)
            summary.seconds = time.monotonic() - started
            shown.closed({**summary.as_json(), "output": target.location.name})
    summary.say(metric)
    say(f"Written to {target.location.name}")
    return summary


def _score_on_ray(run: ScoreRun, done: Records, shown: ScoreProgress) -> Iterator[ShardRecord]:
    from serve.scoring.on_ray import score_on_ray  # Ray is not there where one machine is enough

    return score_on_ray(run, done, shown)


def _check_errors(run: ScoreRun, records: Records) -> None:
    limit = run.settings.max_errors
    errors = sum(record.errors for record in records.values())
    if limit is not None and errors > limit:
        first = next(record.first_error for _, record in sorted(records.items()) if record.errors)
        raise WorkFailedError(
            f"{errors:,} rows have an error, more than --max-errors {limit:,} ({first}); with a larger limit the same "
            f"command goes on"
        )


@contextmanager
def _sole_run(run: ScoreRun) -> Iterator[Records]:
    """The one run that makes the output: yields the records of an earlier process, and clears up after the last one.

    Raises:
        InputError: another process is at it, or the journal is another run's.
    """
    journal, output, overwrite = run.journal, run.output, run.settings.overwrite
    local = journal.directory.local
    with ExitStack() as hold:
        if local is not None:
            check_names(local)
            hold.enter_context(parents_of(local))
            try:
                hold.enter_context(held_directory(local))
            except BlockingIOError:
                name = output.location.name
                raise InputError(f"another run is writing {name}: wait for it, or choose another output") from None
        records: Records = {}
        done = False
        try:
            # Another run may have ended between the first look and the lock.
            output.check([], overwrite=overwrite)
            records = journal.open(run.identity, run.circumstances, overwrite=overwrite)
            if run.inputs.from_stdin:
                journal.discard_parts()
                records = {}
            if records:
                rows = sum(record.rows for record in records.values())
                say(f"Going on after {rows:,} rows, from {journal.directory.name}")
            yield records
            done = True
        except KeyboardInterrupt:
            if records and not run.inputs.from_stdin:
                rows = sum(record.rows for record in records.values())
                say(f"{rows:,} rows are kept in {journal.directory.name}: the same command goes on from there")
            raise
        finally:
            if done or not journal.shards():
                journal.discard()
