"""A scoring run on a Ray cluster, as a streaming Ray Data pipeline.

One task an input reads it shard by shard; actors, as many as the cluster has room for, score shards and write them into
the journal. A shard's file is the same whoever writes it, so a task that is run again after a worker's death does no
harm, and the journal goes on where it stopped, here or on one machine.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

# Ray reports use to its makers unless told otherwise.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# What later releases do of themselves; without it this one prints a warning.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


import ray
import ray.data

from common.errors import InputError, UnderstudyError, WorkFailedError
from serve.engine import Engine
from serve.scoring.journal import ShardRecord
from serve.scoring.run import ScoreRun, open_engine
from serve.scoring.score_progress import ScoreProgress
from serve.scoring.shards import Shard, ShardId

# Cores of an actor unless the run says otherwise: they share one copy of the model.
ACTOR_CORES = 4

_CONNECT_SECONDS = 10.0

# A row of a Ray data set: one pickled object.
_Row = dict[str, Any]


def score_on_ray(run: ScoreRun, done: Collection[ShardId], shown: ScoreProgress) -> Iterator[ShardRecord]:
    """The records of the shards that are not done, each once its part is in the journal, in any order.

    Raises:
        InputError: an input cannot be read where the workers are.
        WorkFailedError: the cluster cannot be reached, or sees another directory at the output than this machine.
    """
    began = _connect(run.settings.address)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # Each row is a shard, and the next actor that is free takes the next row.
    context.target_max_block_size = 1
    bundle = ray.put({file.name: file.read_bytes() for file in run.bundle.path.iterdir() if file.is_file()})
    cores = run.settings.threads or min(ACTOR_CORES, _smallest_node())
    on_gpu = run.device == "cuda"
    inputs = [{"input": place} for place in range(len(run.inputs.locations))]
    records = (
        ray.data.from_items(inputs, override_num_blocks=len(inputs))
        # Readers wait for actors nearly all of their time, and must never wait for a core that one holds.
        .map_batches(_ShardReader(run, frozenset(done)), batch_size=1, num_cpus=0)
        .map_batches(
            _ShardActor,
            fn_constructor_args=(run, [bundle], cores),
            batch_size=1,
            num_cpus=1 if on_gpu else cores,
            num_gpus=1 if on_gpu else 0,
            compute=ray.data.ActorPoolStrategy(min_size=1),
        )
    )
    try:
        for row in records.iter_rows():
            outcome = pickle.loads(row["pickled"])
            if isinstance(outcome, UnderstudyError):
                raise outcome
            assert isinstance(outcome, ShardRecord)
            run.journal.require(outcome)
            shown.finished_elsewhere(outcome)
            yield outcome
    except ray.exceptions.RayError as error:
        raise WorkFailedError(f"Ray: {str(error).strip().splitlines()[-1]}") from None
    finally:
        if began:
            ray.shutdown()


class _ShardReader:
    """An input's shards, or why there are no more."""

    def __init__(self, run: ScoreRun, done: frozenset[ShardId]):
        self._run, self._done = run, done

    def __call__(self, batch: _Row) -> Iterator[_Row]:
        run = self._run
        try:
            for shard in run.inputs.shards(run.shard_rows, run.needed, self._done, input=int(batch["input"][0])):
                yield _row(shard)
        except UnderstudyError as error:
            yield _row(error)


class _ShardActor:
    """The engine on a worker, opened with the first shard."""

    def __init__(self, run: ScoreRun, bundle: list[Any], cores: int):
        self._run, self._cores = run, cores
        # In a list, since Ray would else fetch it before each start, and not be able to after a restart.
        (self._bundle,) = bundle
        self._engine: Engine | None = None

    def __call__(self, batch: _Row) -> _Row:
        shard = pickle.loads(batch["pickled"][0])
        if isinstance(shard, UnderstudyError):
            return _row(shard)
        assert isinstance(shard, Shard)
        try:
            self._engine = self._engine or self._opened()
            ((record, part),) = self._run.scorer.score(self._engine, [shard])
            self._run.journal.keep(record, part)
        except UnderstudyError as error:
            return _row(error)
        except OSError as error:
            return _row(WorkFailedError(f"{self._run.journal.directory}: {error.strerror or error}"))
        return _row(record)

    def _opened(self) -> Engine:
        # The bundle came with the actor: its directory is there only where the run was begun.
        with tempfile.TemporaryDirectory() as directory:
            for name, content in ray.get(self._bundle).items():
                (Path(directory) / name).write_bytes(content)
            return open_engine(Path(directory), self._run.settings, self._cores)


def _row(value: Any) -> _Row:
    return {"pickled": np.array([pickle.dumps(value)], object)}


def _connect(address: str | None) -> bool:
    """Whether there was no connection to a cluster before.

    Raises:
        WorkFailedError: there is no cluster at the address.
    """
    if ray.is_initialized():
        return False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    place = address or "this machine"
    host, _, port = (address or "").rpartition("://")[2].rpartition(":")
    try:
        if host and port.isdecimal():
            # Ray itself would try for minutes, and then end the process.
            socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError, SystemExit) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise WorkFailedError(f"no Ray cluster at {place}: {reason[0]}") from None
    return True


def _smallest_node() -> int:
    """Cores of the node that has the fewest, of those that have any.

    Raises:
        InputError: no node has a core to work with.
    """
    cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    if not any(cores):
        raise InputError("the Ray cluster has no cores")
    return min(number for number in cores if number)
