"""Tables as streams of rows, never whole in memory: CSV, TSV, JSON Lines, Parquet and Arrow IPC."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from common.arrow_tables import ArrowTable, ParquetTable
from common.errors import InputError, shown
from common.location import Location
from common.rows import CHUNK_BYTES, Chunk, Row
from common.table_formats import FORMATS, TEXT_FORMATS, compression, table_format
from common.text_tables import TextTable

__all__ = ["CHUNK_BYTES", "FORMATS", "Chunk", "Row", "TableReader", "compression", "table_format"]


class TableReader:
    """One pass over a table.

    Args:
        source: a path, a URI or `-`, as `Location.parse` takes it.
        format: outweighs the name's ending, for standard input above all.

    Attributes:
        columns: the column names (in JSON Lines, those of the first row).
        place: what a row's number counts, `line` or `row`.
        schema: the columns' types in Parquet and Arrow; None in text.

    Raises:
        InputError: the file is missing, empty, of no known format, or not what its ending says; from `chunks`, a row
            that cannot be read, with its number, or compressed data that is damaged or cut short.
        WorkFailedError: a store failed.
    """

    def __init__(self, source: Path | str | Location, format: str | None = None):
        self.location = source if isinstance(source, Location) else Location.parse(source)
        self.format = format or table_format(self.location)
        if self.location.is_stdin and self.format not in TEXT_FORMATS:
            raise InputError(f"{self.location} can be {', '.join(TEXT_FORMATS)}, not {self.format}")
        self._table: TextTable | ParquetTable | ArrowTable
        if self.format == "parquet":
            self._table = ParquetTable(self.location)
        elif self.format == "arrow":
            self._table = ArrowTable(self.location)
        else:
            self._table = TextTable(self.location, self.format)
        self.place: str = self._table.place
        self.schema: pa.Schema | None = self._table.schema
        self.columns: list[str] = self._table.columns
        repeated = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if repeated:
            raise InputError(f"{self.location}: the header names the column '{shown(repeated[0])}' more than once")

    @property
    def position(self) -> int:
        """How far the reading is: in bytes of the file as it lies there (compressed ones too), or rows of Parquet."""
        return self._table.position

    @property
    def total(self) -> int | None:
        """What `position` comes to at the end; None for standard input."""
        return self._table.total

    def chunks(self, size: int = 4096, needed: Sequence[str] | None = None) -> Iterator[Chunk]:
        """The rows in order, at most `size` rows and about `CHUNK_BYTES` at a time.

        Args:
            needed: the columns of Parquet or Arrow that `rows` must hold; `batch` holds them all. None for all.
        """
        if isinstance(self._table, TextTable):
            return self._table.chunks(size)
        return self._table.chunks(size, self.columns if needed is None else needed)

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each row with its number."""
        for chunk in self.chunks():
            yield from zip(chunk.numbers, chunk.rows, strict=True)
