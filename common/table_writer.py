"""Rows with added columns into a table of any of the formats, chunk by chunk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import InputError, shown
from common.tables import Chunk, table_format


class TableWriter:
    """Writes the input's columns in their order, and the added ones behind them.

    Args:
        path: the file; its ending says the format unless `format` does.
        added: name and Parquet type of each added column.

    Raises:
        InputError: the input has a column of an added name, or a value that the format cannot hold (a tab or line
            break in TSV; outside JSON Lines, a column that the first row did not have).
    """

    def __init__(self, path: Path, added: Sequence[tuple[str, pa.DataType]], format: str | None = None):
        self.path = path
        self.format = format or table_format(path)
        self.added = added
        self._columns: list[str] = []
        self._file: Any = None

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def open(self, columns: Sequence[str], schema: pa.Schema | None) -> None:
        """Fixes the input's columns and, where they come from Parquet, their types."""
        names = [name for name, _ in self.added]
        self._refuse_clash(columns, "the input")
        self._columns = list(columns)
        if self.format == "parquet":
            kept = schema or pa.schema([pa.field(name, pa.string()) for name in self._columns])
            metadata = None if schema is None else schema.metadata
            self._schema = pa.schema([*kept, *(pa.field(name, kind) for name, kind in self.added)], metadata)
            self._file = pq.ParquetWriter(self.path, self._schema)
        else:
            self._file = self.path.open("w", encoding="utf-8", newline="")
            if self.format != "jsonl":
                self._put_fields([*self._columns, *names], 1)

    def write(self, chunk: Chunk, added: dict[str, list[Any]]) -> None:
        """Appends the chunk's rows with the added columns' values."""
        if chunk.batch is None:
            for number, row in zip(chunk.numbers, chunk.rows, strict=True):
                self._check_columns(row, f"line {number}")
        if self.format == "parquet":
            self._write_parquet(chunk, added)
            return
        for index, (number, row) in enumerate(zip(chunk.numbers, chunk.rows, strict=True)):
            new = {name: added[name][index] for name, _ in self.added}
            if self.format == "jsonl":
                self._file.write(json_text({**row, **new}, f"row {number}") + "\n")
            else:
                self._put_fields([*(row.get(name) for name in self._columns), *new.values()], number)

    def _check_columns(self, row: dict[str, Any], place: str) -> None:
        if row.keys() == set(self._columns):
            return
        self._refuse_clash(list(row), place)
        unknown = [name for name in row if name not in self._columns]
        if unknown and self.format != "jsonl":
            raise InputError(
                f"{place} has a column '{shown(unknown[0])}' that the first row has not: write JSON Lines instead"
            )

    def _refuse_clash(self, columns: Sequence[str], where: str) -> None:
        clash = next((name for name, _ in self.added if name in columns), None)
        if clash is not None:
            raise InputError(f"{where} has a column '{clash}' already: choose other names with --prefix")

    def _put_fields(self, values: Sequence[Any], number: int) -> None:
        fields = [_as_text(value, f"row {number}") for value in values]
        if self.format == "csv":
            line = ",".join(map(_quoted, fields))
            # A blank line would be no row at all.
            self._file.write((line or '""') + "\n")
            return
        if any("\t" in field or "\n" in field for field in fields) or fields[-1].endswith("\r"):
            raise InputError(f"row {number} holds a tab or a line break, which TSV cannot hold: write CSV instead")
        self._file.write("\t".join(fields) + "\n")

    def _write_parquet(self, chunk: Chunk, added: dict[str, list[Any]]) -> None:
        if chunk.batch is not None:
            kept = list(chunk.batch.columns)
        else:
            kept = [pa.array(self._strings(chunk, name), pa.string()) for name in self._columns]
        new = [pa.array(added[name], kind) for name, kind in self.added]
        self._file.write_batch(pa.RecordBatch.from_arrays([*kept, *new], schema=self._schema))

    def _strings(self, chunk: Chunk, name: str) -> list[str | None]:
        return [
            None if row.get(name) is None else _as_text(row[name], f"row {number}")
            for number, row in zip(chunk.numbers, chunk.rows, strict=True)
        ]


def json_text(value: Any, place: str) -> str:
    """`value` as JSON; what JSON has no form for (dates, decimals) as its text, NaN as null.

    Raises:
        InputError: it is nested too deeply.
    """
    try:
        return orjson.dumps(value, default=str).decode()
    except TypeError:
        pass
    try:
        # Slower, but it knows integers of any size and more levels.
        return json.dumps(value, default=str, ensure_ascii=False)
    except (ValueError, RecursionError):
        raise InputError(f"{place} is nested too deeply to be written as JSON") from None


def _as_text(value: Any, place: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        return json_text(value, place)
    return str(value)


def _quoted(field: str) -> str:
    """A CSV field by RFC 4180; Python's own writer leaves a lone carriage return bare, which readers refuse."""
    if any(character in field for character in ',"\r\n'):
        return '"' + field.replace('"', '""') + '"'
    return field
