"""What a table is handed on in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

# Rows are handed on in chunks of about so many bytes at most, so that long rows need no more memory than short ones.
CHUNK_BYTES = 4 * 1024 * 1024

Row = dict[str, Any]


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows.

    Attributes:
        numbers: where each row stands: its line in a text file (from 1, the header counted), else its row.
        rows: column name to value.
        batch: the same rows as Parquet or Arrow gave them, so that types survive; None for the other formats.
    """

    numbers: list[int]
    rows: list[Row]
    batch: pa.RecordBatch | None = None
