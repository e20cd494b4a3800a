"""`score`: every row of the inputs through the engine, with the answers beside the input's columns."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from common.errors import ChangedInputError, InputError, WorkFailedError
from common.files import check_names, parents_of
from common.location import Location
from common.locks import held_directory
from common.metrics import choose_metric
from common.progress import say, working
from common.storage import expand
from export.bundle import Bundle
from serve.scoring.journal import ShardRecord
from serve.scoring.local import score_locally
from serve.scoring.output import Output
from serve.scoring.run import ScoreRun, open_engine, prepare_run
from serve.scoring.score_progress import ScoreProgress
from serve.scoring.settings import ScoreSettings
from serve.scoring.shards import Inputs, ShardId
from serve.scoring.summary import ScoreSummary, ScoreTally


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
    on_ray = settings.engine == "ray"
    locations = expand([inputs] if isinstance(inputs, (str, Path)) else inputs)
    if not locations:
        raise InputError("no input is named")
    if on_ray:
        if locations[0].is_stdin:
            raise InputError("a cluster cannot read this machine's standard input: write it to a file, or to a store")
        locations = [location.absolute() for location in locations]
    target = Output.of(
        Location.parse(output), format=settings.format, rows_per_file=settings.rows_per_file, like=locations[0]
    )
    kept = [*locations, Location.parse(bundle)]
    target.check(kept, overwrite=settings.overwrite or _is_written(target, locations))
    with working("reading the inputs' hashes"):
        source = Inputs(locations)
    # An actor's device must be known before there is one, and is what was asked for.
    engine = None if on_ray else open_engine(Path(bundle), settings)
    loaded = Bundle.load(Path(bundle)) if engine is None else engine.bundle
    device = engine.model.device if engine is not None else "cuda" if settings.device == "cuda" else "cpu"
    run = prepare_run(loaded, source, target, settings, device)
    metric = choose_metric(loaded.task, settings.metric)
    with _sole_run(run) as tally, ScoreProgress(settings.progress) as shown:
        _take_up(run, tally, shown)
        resumed = {shard: each.rows for shard, each in tally.done.items()}
        before = tally.rows
        for record in (
            score_locally(run, engine, resumed, shown) if engine is not None else _score_on_ray(run, resumed, shown)
        ):
            tally.add(record)
            _check_errors(settings, tally)
        summary = tally.summary(resumed_rows=before, seconds=time.monotonic() - started)
        if not target.is_whole:
            target.write(run.scorer.writer, tally.done, summary.as_json(), overwrite=settings.overwrite)
        summary.seconds = time.monotonic() - started
        shown.closed({**summary.as_json(), "output": target.location.name})
    summary.say(metric)
    say(f"Written to {target.location.name}")
    return summary


def _is_written(output: Output, inputs: Sequence[Location]) -> bool:
    """Whether all but clearing up was done before a kill; what came from standard input cannot be told from another."""
    return output.is_whole and not inputs[0].is_stdin


def _score_on_ray(run: ScoreRun, done: Mapping[ShardId, int], shown: ScoreProgress) -> Iterator[ShardRecord]:
    from serve.scoring.on_ray import score_on_ray  # Ray is not there where one machine is enough

    return score_on_ray(run, done, shown)


def _take_up(run: ScoreRun, tally: ScoreTally, shown: ScoreProgress) -> None:
    """Counts what an earlier process has done."""
    journal = run.journal
    if run.inputs.from_stdin:
        # What came before cannot be skipped unseen.
        journal.discard_parts()
    for record in journal.records():
        tally.add(record)
        shown.resumed(record)
    if tally.done:
        say(f"Going on after {tally.rows:,} rows, from {journal.directory.name}")
    _check_errors(run.settings, tally)


def _check_errors(settings: ScoreSettings, tally: ScoreTally) -> None:
    limit = settings.max_errors
    if limit is not None and tally.errors > limit:
        raise WorkFailedError(
            f"{tally.errors:,} rows have an error, more than --max-errors {limit:,} ({tally.first_error}); with a "
            f"larger limit the same command goes on"
        )


@contextmanager
def _sole_run(run: ScoreRun) -> Iterator[ScoreTally]:
    """The one run that makes the output: yields what counts its shards, and clears up when the output is whole.

    Raises:
        InputError: another process is at it.
    """
    journal, output = run.journal, run.output
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
        tally = ScoreTally(run.scorer.task)
        done = opened = False
        try:
            # Another run may have ended between the first look and the lock.
            output.check([], overwrite=run.settings.overwrite or _is_written(output, run.inputs.locations))
            journal.open(run.identity, run.circumstances, overwrite=run.settings.overwrite)
            opened = True
            yield tally
            done = True
        except ChangedInputError:
            # Some of it is of what the input was, some of what it is.
            journal.discard_parts()
            raise
        except KeyboardInterrupt:
            if tally.done and not run.inputs.from_stdin:
                say(f"{tally.rows:,} rows are kept in {journal.directory.name}: the same command goes on from there")
            raise
        finally:
            # In a store, what this process has not opened may be another's.
            ours = opened or local is not None
            if done or (ours and (run.inputs.from_stdin or not journal.shards())):
                journal.discard()
