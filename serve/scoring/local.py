"""A scoring run on this machine: shards are read and tokenized while the one before is in the model's lanes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from serve.engine import Engine
from serve.scoring.journal import ShardRecord
from serve.scoring.run import ScoreRun
from serve.scoring.score_progress import ScoreProgress
from serve.scoring.shards import ShardId


def score_locally(
    run: ScoreRun, engine: Engine, done: Mapping[ShardId, int], shown: ScoreProgress
) -> Iterator[ShardRecord]:
    """The records of the shards that are not done, each once its part is in the journal."""
    shards = shown.reading(run.inputs.shards(run.shard_rows, run.needed, done))
    journal = run.journal
    for record, part in run.scorer.score(engine, shards, shown.ran):
        journal.keep(record, part)
        shown.finished(record)
        yield record
