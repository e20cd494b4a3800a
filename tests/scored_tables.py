"""Tables as `score` writes them, made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from serve.comparison.comparison import Comparison, compare
from tests.conftest import write_tsv

Row = dict[str, Any]


def scored(answer: str | float, score: float = 0.9, scores: dict[str, float] | None = None, /, **columns: Any) -> Row:
    """A row as `score` writes it."""
    added = {} if scores is None else {"scores": json.dumps(scores)}
    return {**columns, "prediction": answer, "score": score, "truncated": False, **added, "error": None}


def failed(**columns: Any) -> Row:
    return {**columns, "prediction": None, "score": None, "truncated": None, "error": "the text is empty"}


def write(path: Path, rows: list[Row]) -> Path:
    """A table of rows in the format that the path's ending names."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        fields = [{name: "" if value is None else value for name, value in row.items()} for row in rows]
        for row in fields:
            row["truncated"] = str(row["truncated"]).lower()
        write_tsv(path, fields)
    return path


def compared(directory: Path, a: list[Row], b: list[Row], **options: Any) -> Comparison:
    return compare(write(directory / "a.jsonl", a), write(directory / "b.jsonl", b), **options)
