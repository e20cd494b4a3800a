"""Tables as streams of rows: CSV, TSV, JSON Lines and Parquet, never whole in memory.

CSV follows RFC 4180's quoting. TSV has no quoting at all, as GLUE's files need it: a quotation mark is a character.
Lines end at a line feed (with or without a carriage return) and nowhere else.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import InputError, shown
from common.files import require_file

FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}

# Rows are handed on in chunks of about so many bytes at most, so that long rows need no more memory than short ones.
CHUNK_BYTES = 4 * 1024 * 1024

# A quotation mark left open would otherwise swallow the rest of the file into one field.
MAX_FIELD_CHARACTERS = 16 * 1024 * 1024
csv.field_size_limit(MAX_FIELD_CHARACTERS)

Row = dict[str, Any]

# What a value that Python cannot hold raises: bad UTF-8, a date beyond the year 9999, nanoseconds.
_UNREADABLE = (pa.ArrowException, OSError, OverflowError, ValueError)


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows.

    Attributes:
        numbers: where each row stands: its line in a text file (from 1, the header counted), its row in Parquet.
        rows: column name to value.
        batch: the same rows as Parquet gave them, so that types survive; None for the other formats.
    """

    numbers: list[int]
    rows: list[Row]
    batch: pa.RecordBatch | None = None


def table_format(path: Path) -> str:
    """`csv`, `tsv`, `jsonl` or `parquet`, by the file's ending.

    Raises:
        InputError: any other ending.
    """
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise InputError(f"{path}: unknown table format; the name must end in {', '.join(FORMATS)}") from None


class TableReader:
    """One pass over a table.

    Attributes:
        columns: the column names (in JSON Lines, those of the first row).
        place: what a row's number counts, `line` or `row`.
        position, total: how far the reading is, in bytes of a text file or rows of a Parquet file.

    Raises:
        InputError: the file is missing, empty, of no known format, or not what its ending says; from `chunks`, a row
            that cannot be read, with its number.
    """

    def __init__(self, path: Path):
        self.path = require_file(path)
        self.format = table_format(path)
        self.place = "row" if self.format == "parquet" else "line"
        self.position = 0
        self.schema: pa.Schema | None = None
        if self.format == "parquet":
            try:
                with pq.ParquetFile(path) as file:
                    self.schema = file.schema_arrow
                    self.total = file.metadata.num_rows
            except (pa.ArrowInvalid, OSError) as error:
                raise InputError(f"{path} is not a Parquet file: {error}") from None
            self.columns: list[str] = self.schema.names
        else:
            self.total = path.stat().st_size
            self.columns = self._first_columns()
        repeated = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if repeated:
            raise InputError(f"{path}: the header names the column '{shown(repeated[0])}' more than once")

    def chunks(self, size: int = 4096, needed: Sequence[str] | None = None) -> Iterator[Chunk]:
        """The rows in order, at most `size` rows and about `CHUNK_BYTES` at a time.

        Args:
            needed: the columns of a Parquet file that `rows` must hold; `batch` holds them all. None for all.
        """
        if self.format == "parquet":
            yield from self._parquet_chunks(size, self.columns if needed is None else needed)
            return
        numbers: list[int] = []
        rows: list[Row] = []
        start = 0
        for number, row in self._text_rows():
            numbers.append(number)
            rows.append(row)
            if len(rows) == size or self.position - start > CHUNK_BYTES:
                yield Chunk(numbers, rows)
                numbers, rows, start = [], [], self.position
        if rows:
            yield Chunk(numbers, rows)

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each row with its number."""
        for chunk in self.chunks():
            yield from zip(chunk.numbers, chunk.rows, strict=True)

    def _first_columns(self) -> list[str]:
        with self.path.open("rb") as file:
            if self.format == "jsonl":
                for _, row in self._json_rows(file):
                    return list(row)
                raise InputError(f"{self.path} holds no rows")
            number, fields = next(self._fields(file), (1, []))
        if not any(fields):
            raise InputError(f"{self.path} has no header row")
        if any("\0" in name for name in fields):
            raise self._error(number, "the header holds NUL characters: is this UTF-16, or no text at all?")
        return fields

    def _text_rows(self) -> Iterator[tuple[int, Row]]:
        with self.path.open("rb") as file:
            if self.format == "jsonl":
                yield from self._json_rows(file)
                return
            lines = self._fields(file)
            next(lines)
            width = len(self.columns)
            for number, fields in lines:
                if len(fields) != width:
                    raise self._error(number, f"{len(fields)} fields where the header names {width}")
                yield number, dict(zip(self.columns, fields, strict=True))

    def _fields(self, file: IO[bytes]) -> Iterator[tuple[int, list[str]]]:
        """The header's fields, then each row's; a blank line is a row only where one column makes it an empty value."""
        width = 0
        for number, fields in self._raw_fields(file):
            blank = not any(fields) and len(fields) <= 1
            if not blank or width == 1:
                width = width or len(fields)
                yield number, fields or [""]

    def _raw_fields(self, file: IO[bytes]) -> Iterator[tuple[int, list[str]]]:
        if self.format == "csv":
            reader = csv.reader((line for _, line in self._lines(file, keep_end=True)), strict=True)
            start = 1
            while True:
                try:
                    fields = next(reader, None)
                except csv.Error as error:
                    reason = str(error)
                    if "field larger" in reason or "unexpected end" in reason:
                        reason = "a quotation mark is left open"
                    elif "new-line character" in reason:
                        reason = "a carriage return stands outside quotation marks"
                    raise self._error(start, f"not valid CSV: {reason}") from None
                if fields is None:
                    return
                yield start, fields
                start = reader.line_num + 1
        else:
            for number, line in self._lines(file):
                yield number, line.split("\t")

    def _json_rows(self, file: IO[bytes]) -> Iterator[tuple[int, Row]]:
        for number, line in self._lines(file):
            if not line.strip():
                continue
            yield number, self._json_row(number, line)

    def _json_row(self, number: int, line: str) -> Row:
        try:
            # The standard library's parser, since integers of any size must come out as they went in.
            row = json.loads(line, parse_constant=_refuse_constant, parse_float=_finite_float)
            if "\\ud" in line.lower():
                json.dumps(row, ensure_ascii=False).encode()
        except json.JSONDecodeError as error:
            raise self._error(number, f"not valid JSON: {error.msg} at column {error.colno}") from None
        except UnicodeEncodeError:
            raise self._error(number, "not valid JSON: half of a surrogate pair") from None
        except (ValueError, RecursionError) as error:
            raise self._error(number, f"not valid JSON: {error}") from None
        if not isinstance(row, dict):
            raise self._error(number, "a row must be a JSON object")
        return row

    def _lines(self, file: IO[bytes], keep_end: bool = False) -> Iterator[tuple[int, str]]:
        self.position = 0
        for number, raw in enumerate(file, start=1):
            self.position += len(raw)
            if number == 1:
                if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise self._error(number, "UTF-16, not UTF-8: save the file as UTF-8")
                if b"\0" in raw and len(raw) > 1 and raw[1] == 0:
                    raise self._error(number, "NUL bytes between the characters: this is UTF-16, save it as UTF-8")
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise self._error(
                    number, f"not UTF-8 (byte {raw[error.start]:#04x} at column {error.start + 1})"
                ) from None
            yield number, line if keep_end else line.removesuffix("\n").removesuffix("\r")

    def _parquet_chunks(self, size: int, needed: Sequence[str]) -> Iterator[Chunk]:
        self.position = 0
        with pq.ParquetFile(self.path) as file:
            groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
            row_bytes = sum(group.total_byte_size for group in groups) // max(self.total, 1) + 1
            size = max(1, min(size, CHUNK_BYTES // row_bytes))
            batches = file.iter_batches(batch_size=size)
            while True:
                try:
                    batch = next(batches, None)
                except (pa.ArrowException, OSError) as error:
                    raise self._error(self.position + 1, f"this row or a later one cannot be read: {error}") from None
                if batch is None:
                    return
                rows = self._python_rows(batch, needed)
                numbers = list(range(self.position + 1, self.position + 1 + len(rows)))
                self.position += len(rows)
                yield Chunk(numbers, rows, batch)

    def _python_rows(self, batch: pa.RecordBatch, needed: Sequence[str]) -> list[Row]:
        values = [self._python_values(batch.column(name)) for name in needed]
        if not needed:
            return [{} for _ in range(batch.num_rows)]
        return [dict(zip(needed, row, strict=True)) for row in zip(*values, strict=True)]

    def _python_values(self, column: pa.Array) -> list[Any]:
        with contextlib.suppress(*_UNREADABLE):
            return list(column.to_pylist())
        # What Python has no value for (nanoseconds, the year 10000) has a text.
        with contextlib.suppress(*_UNREADABLE):
            return list(column.cast(pa.string()).to_pylist())
        # Slowly, row by row, to name the one that is at fault.
        values: list[Any] = []
        for index in range(len(column)):
            try:
                values += column.slice(index, 1).to_pylist()
            except _UNREADABLE as error:
                raise self._error(self.position + index + 1, f"cannot be read: {error}") from None
        return values

    def _error(self, number: int, reason: str) -> InputError:
        return InputError(f"{self.path}, {self.place} {number}: {reason}")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text} is out of range")
    return value
