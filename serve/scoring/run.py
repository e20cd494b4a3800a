"""A scoring run with all about it decided: what its shards are made of, and what tells it from another run."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common.batching import BatchLimits
from common.labels import MULTI_LABEL
from common.machine import cpu_model, usable_cores
from common.rows import CHUNK_BYTES
from common.table_writer import TableWriter
from export.bundle import Bundle
from serve.engine import Engine
from serve.scoring.journal import Journal
from serve.scoring.output import Output
from serve.scoring.settings import ScoreSettings
from serve.scoring.shard_scorer import ShardScorer, added_columns
from serve.scoring.shards import SHARD_ROWS, Inputs


@dataclass(frozen=True)
class ScoreRun:
    """
    Attributes:
        bundle: that scores; verified.
        limits: of a batch.
        device: that the model runs on, 'cpu' or 'cuda'.
        threads: of a batch on the CPU. ONNX Runtime gives each batch one thread, and runs as many as there are cores:
            so bits do not depend on how many there are.
        shard_rows: at most so many rows a shard.
        needed: columns that a shard's rows must have as Python values; None for all.
    """

    bundle: Bundle
    inputs: Inputs
    output: Output
    settings: ScoreSettings
    scorer: ShardScorer
    limits: BatchLimits
    device: str
    threads: int
    shard_rows: int
    needed: tuple[str, ...] | None

    @property
    def journal(self) -> Journal:
        return self.output.journal

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides about the output's bytes."""
        return {
            "inputs": self.inputs.identity,
            "bundle": self.bundle.manifest.version,
            "columns": {name: getattr(self.scorer.columns, name) for name in ("text", "pair", "label")},
            "added columns": [column.name for column in self.scorer.writer.added],
            "truncate": self.scorer.truncate,
            "output": self.output.ending,
            "rows per file": self.output.rows_per_file,
            "shard": [self.shard_rows, CHUNK_BYTES],
            "batch": [self.limits.items, self.limits.tokens],
            "engine": "torch" if self.settings.engine == "torch" else "onnx",
            "device": self.device,
            "threads": self.threads,
        }

    @property
    def circumstances(self) -> dict[str, Any]:
        """What may move scores in their last bits; a run that goes on under others says so."""
        versions = {name: version(name) for name in ("onnxruntime", "tokenizers", "pyarrow", "understudy")}
        return {"processor": cpu_model(), **versions}


def open_engine(path: Path, settings: ScoreSettings, threads: int = 0) -> Engine:
    """The bundle's engine as a run needs it: the same batches give the same bits.

    Args:
        threads: in place of the settings'.

    Raises:
        InputError, WorkFailedError: as `Engine.load`.
    """
    threads = threads or settings.threads or usable_cores()
    if settings.engine == "torch":
        return Engine.load(path, engine="torch", device=settings.device, threads=threads)
    return Engine.load(path, device=settings.device, threads=threads, lanes=threads, steady=True)


def prepare_run(bundle: Bundle, inputs: Inputs, output: Output, settings: ScoreSettings, device: str) -> ScoreRun:
    """
    Raises:
        InputError: the input lacks a column, or has one that scoring adds.
    """
    columns = settings.columns.found_in(inputs.columns, inputs.locations[0].name, need_label=False)
    manifest = bundle.manifest
    if manifest.of_single_texts:
        columns = columns.of_single_texts()
    writer = TableWriter(
        columns=tuple(inputs.columns),
        added=added_columns(bundle.task, all_scores=settings.all_scores, prefix=settings.prefix),
        format=output.format,
        compression=output.compression,
        schema=inputs.schema,
        labels=columns.label if bundle.task.problem_type == MULTI_LABEL else None,
        metadata={"understudy.bundle": manifest.name, "understudy.bundle_version": manifest.version},
    )
    many_threads = settings.engine == "torch" and device == "cpu"
    return ScoreRun(
        bundle=bundle,
        inputs=inputs,
        output=output,
        settings=settings,
        scorer=ShardScorer(bundle.task, columns, writer, settings.prefix, settings.truncate),
        limits=BatchLimits(),
        device=device,
        threads=(settings.threads or usable_cores()) if many_threads else 1,
        shard_rows=min(SHARD_ROWS, settings.rows_per_file or SHARD_ROWS),
        # Where both files are of record batches, the other columns pass through as they are.
        needed=columns.read_from(inputs.columns) if writer.takes_batches else None,
    )
