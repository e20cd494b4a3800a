"""`score`: every row of a file through the engine, in a stream, with the answers beside the input's columns."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from common.errors import InputError, TextError
from common.examples import BY_USUAL_NAMES, Columns, as_label
from common.files import check_output, staged_file
from common.labels import MULTI_LABEL, REGRESSION, Task
from common.metrics import Tally, choose_metric
from common.progress import progress, say
from common.table_writer import TableWriter
from common.tables import Chunk, TableReader, table_format
from serve.engine import Engine, Prediction

# Rows read, sorted by length and written at a time: the memory that scoring needs, whatever the file's size.
CHUNK_ROWS = 4096


@dataclass
class ScoreSummary:
    """What a run did.

    Attributes:
        rows: read and written.
        errors: of them kept with a reason in place of an answer.
        truncated: of them answered from their first tokens.
        tokens: run through the model, padding left out.
        seconds: wall time, reading and writing included.
        metrics: over the labelled rows; empty without a label column.
        unknown_labels: rows whose label the model has not, or that is no number; the metrics leave them out.
    """

    rows: int = 0
    errors: int = 0
    truncated: int = 0
    tokens: int = 0
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    unknown_labels: int = 0


def score(
    bundle: Path,
    input: Path,
    output: Path,
    *,
    columns: Columns = BY_USUAL_NAMES,
    all_scores: bool = False,
    prefix: str = "",
    metric: str | None = None,
    engine: str = "onnx",
    device: str = "auto",
    threads: int = 0,
    overwrite: bool = False,
) -> ScoreSummary:
    """Writes the input's rows in their order with `prediction`, `score`, `truncated` and `error` behind them.

    A row that cannot be classified is kept with its reason in `error`.

    Args:
        columns: which columns hold text, pair and label.
        all_scores: adds `scores`, a JSON object from label to score.
        prefix: of the added columns' names.
        metric: the one printed, where a label column is there.
        engine, device, threads: as in `Engine.load`.

    Raises:
        InputError: the bundle, the input or the output will not do, or the input cannot be decoded (with the line).
    """
    started = time.monotonic()
    check_output(output, directory=False, overwrite=overwrite)
    output_format = table_format(output)
    reader = TableReader(input)
    if output.exists() and output.samefile(input):
        raise InputError(f"{output} is the input itself: choose another output")
    found = columns.found_in(reader.columns, str(input), need_label=False)
    loaded = Engine.load(bundle, engine=engine, device=device, threads=threads)
    task = loaded.task
    name = choose_metric(task, metric)
    # From Parquet to Parquet the other columns pass through as they are.
    used = [name for name in (found.text, found.pair, found.label) if name is not None]
    needed = used if output_format == "parquet" else None
    tally = Tally(task) if found.label is not None else None
    summary = ScoreSummary()
    with (
        staged_file(output, overwrite=overwrite) as staging,
        TableWriter(staging, _added(task, all_scores, prefix), output_format) as writer,
        progress("scoring", reader.total, "rows") as advance,
    ):
        writer.open(reader.columns, reader.schema)
        for chunk in reader.chunks(CHUNK_ROWS, needed):
            answers = loaded.classify([found.text_of(row) for row in chunk.rows])
            writer.write(chunk, _columns(answers, all_scores, prefix))
            _count(summary, answers)
            if tally is not None:
                summary.unknown_labels += _tally(tally, task, chunk, str(found.label), answers)
            rate = summary.rows / max(time.monotonic() - started, 1e-9)
            advance(completed=reader.position, total=reader.total, note=f"{summary.rows:,} rows, {rate:,.0f}/s")
    summary.seconds = time.monotonic() - started
    if tally is not None and tally.rows:
        summary.metrics = tally.metrics()
    _say(summary, name, output)
    return summary


def _added(task: Task, all_scores: bool, prefix: str) -> list[tuple[str, pa.DataType]]:
    added = [
        ("prediction", pa.float32() if task.problem_type == REGRESSION else pa.string()),
        ("score", pa.float32()),
        ("truncated", pa.bool_()),
        *([("scores", pa.string())] if all_scores else []),
        ("error", pa.string()),
    ]
    return [(prefix + name, kind) for name, kind in added]


def _columns(answers: list[Prediction | TextError], all_scores: bool, prefix: str) -> dict[str, list[Any]]:
    good = [answer if isinstance(answer, Prediction) else None for answer in answers]
    added: dict[str, list[Any]] = {
        "prediction": [answer and _prediction(answer) for answer in good],
        "score": [answer and answer.score for answer in good],
        "truncated": [answer and answer.truncated for answer in good],
        "error": [str(answer) if isinstance(answer, TextError) else None for answer in answers],
    }
    if all_scores:
        added["scores"] = [answer and orjson.dumps(dict(answer.ranked())).decode() for answer in good]
    return {prefix + name: values for name, values in added.items()}


def _prediction(answer: Prediction) -> str | float:
    return answer.score if answer.task.problem_type == REGRESSION else answer.answer


def _count(summary: ScoreSummary, answers: list[Prediction | TextError]) -> None:
    summary.rows += len(answers)
    for answer in answers:
        if isinstance(answer, Prediction):
            summary.truncated += answer.truncated
            summary.tokens += answer.tokens
        else:
            summary.errors += 1


def _tally(tally: Tally, task: Task, chunk: Chunk, column: str, answers: list[Prediction | TextError]) -> int:
    """Counts the chunk's labelled answers; returns how many labels the model has not."""
    unknown = 0
    scores, targets = [], []
    for row, answer in zip(chunk.rows, answers, strict=True):
        value = row.get(column)
        # No label is an answer only where a row may have several.
        if not isinstance(answer, Prediction) or value is None or (value == "" and task.problem_type != MULTI_LABEL):
            continue
        try:
            targets.append(task.targets([as_label(value)], [""]))
            scores.append(answer.scores)
        except InputError:
            unknown += 1
    if scores:
        tally.add(np.stack(scores), np.concatenate(targets))
    return unknown


def _say(summary: ScoreSummary, metric: str, output: Path) -> None:
    rate = summary.rows / max(summary.seconds, 1e-9)
    say(
        f"{summary.rows:,} rows, {summary.errors:,} with an error, {summary.truncated:,} truncated, "
        f"{summary.tokens:,} tokens in {summary.seconds:.1f} s ({rate:,.0f} rows/s)"
    )
    if summary.metrics:
        others = ", ".join(f"{name} {value:.4f}" for name, value in summary.metrics.items() if name != metric)
        say(f"{metric} {summary.metrics[metric]:.4f}" + (f" ({others})" if others else ""))
    if summary.unknown_labels:
        say(f"{summary.unknown_labels:,} rows have a label that the model has not; the metrics leave them out")
    say(f"Written to {output}")
