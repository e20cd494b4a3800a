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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
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
_CORES_A_READER = 64

_CONNECT_SECONDS = 10.0

# A row of a Ray data set: one pickled object.
_Row = dict[str, Any]


def score_on_ray(run: ScoreRun, done: Mapping[ShardId, int], shown: ScoreProgress) -> Iterator[ShardRecord]:
    """The records of the shards that are not done, each once its part is in the journal, in any order.

    Raises:
        InputError: an input cannot be read where the workers are.
        WorkFailedError: the cluster cannot be reached, or sees another directory at the output than this machine.
    """
    began = _connect(run.settings.address)
    on_gpu = run.device == "cuda"
    try:
        cores = _actor_cores(run.settings.threads, on_gpu=on_gpu)
        bundle = ray.put({file.name: file.read_bytes() for file in run.bundle.path.iterdir() if file.is_file()})
        with _context():
            inputs = ray.data.from_items([{"input": place} for place in range(len(run.inputs.locations))])
            records = inputs.map_batches(
                _ShardReader(run, done),
                batch_size=1,
                # Readers wait for actors nearly all of their time, and must never wait for a core that one holds; one
                # of them feeds more cores than most clusters have.
                num_cpus=0,
                concurrency=1 + int(ray.cluster_resources().get("CPU", 0)) // _CORES_A_READER,
            ).map_batches(
                _ShardActor,
                fn_constructor_args=(run, [bundle], cores),
                batch_size=1,
                num_cpus=1 if on_gpu else cores,
                num_gpus=1 if on_gpu else 0,
                compute=ray.data.ActorPoolStrategy(min_size=1),
            )
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

    def __init__(self, run: ScoreRun, done: Mapping[ShardId, int]):
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
            settings = replace(self._run.settings, device=self._run.device)
            return open_engine(Path(directory), settings, self._cores)


def _row(value: Any) -> _Row:
    return {"pickled": np.array([pickle.dumps(value)], object)}


@contextmanager
def _context() -> Iterator[None]:
    """Ray Data's settings as a run needs them; others of the process have theirs again afterwards."""
    context = ray.data.DataContext.get_current()
    # Each row is a shard, and the next actor that is free takes the next row.
    own = {"enable_progress_bars": False, "target_max_block_size": 1}
    before = {name: getattr(context, name) for name in own}
    try:
        for name, value in own.items():
            setattr(context, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)


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


def _actor_cores(threads: int, *, on_gpu: bool) -> int:
    """How many cores an actor has: as asked for, else what the smallest node has, up to `ACTOR_CORES`.

    Raises:
        InputError: no node of the cluster has so many, or a GPU where one is asked for.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if on_gpu and not any(node.get("GPU") for node in nodes):
        raise InputError("device cuda: no node of the Ray cluster has a GPU")
    cores = [int(node["CPU"]) for node in nodes if node.get("CPU")]
    if threads and threads > max(cores, default=threads):
        raise InputError(f"threads must be at most the {max(cores)} cores of the cluster's largest node, not {threads}")
    # None has any where all are started when there is work.
    return threads or min([ACTOR_CORES, *cores])
