"""Tables as streams of rows: CSV, TSV, JSON Lines and Parquet in and out, never whole in memory.

CSV follows RFC 4180's quoting. TSV has no quoting at all, as GLUE's files need it: a quotation mark is a character.
Lines end at a line feed (with or without a carriage return) and nowhere else.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import InputError
from common.files import require_file

FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}

# A quotation mark left open would otherwise swallow the rest of the file into one field.
MAX_FIELD_CHARACTERS = 16 * 1024 * 1024
csv.field_size_limit(MAX_FIELD_CHARACTERS)

Row = dict[str, Any]


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
            raise InputError(f"{path}: the header names the column '{repeated[0]}' more than once")

    def chunks(self, size: int = 4096) -> Iterator[Chunk]:
        """The rows in order, at most `size` at a time."""
        if self.format == "parquet":
            yield from self._parquet_chunks(size)
            return
        numbers: list[int] = []
        rows: list[Row] = []
        for number, row in self._text_rows():
            numbers.append(number)
            rows.append(row)
            if len(rows) == size:
                yield Chunk(numbers, rows)
                numbers, rows = [], []
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
            fields = next(self._fields(file), (1, []))[1]
        if not any(fields):
            raise InputError(f"{self.path} has no header row")
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
        """Each line's fields; a blank line counts only where one column makes it an empty value."""
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
                    raise self._error(start, f"not valid CSV: {reason}") from None
                if fields is None:
                    return
                if fields or len(getattr(self, "columns", ())) == 1:
                    yield start, fields or [""]
                start = reader.line_num + 1
        else:
            for number, line in self._lines(file):
                if line or len(getattr(self, "columns", ())) == 1:
                    yield number, line.split("\t")

    def _json_rows(self, file: IO[bytes]) -> Iterator[tuple[int, Row]]:
        for number, line in self._lines(file):
            if not line.strip():
                continue
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise self._error(number, f"not valid JSON: {error}") from None
            if not isinstance(row, dict):
                raise self._error(number, "a row must be a JSON object")
            yield number, row

    def _lines(self, file: IO[bytes], keep_end: bool = False) -> Iterator[tuple[int, str]]:
        self.position = 0
        for number, raw in enumerate(file, start=1):
            self.position += len(raw)
            if number == 1:
                if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise self._error(number, "UTF-16, not UTF-8: save the file as UTF-8")
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise self._error(
                    number, f"not UTF-8 (byte {raw[error.start]:#04x} at column {error.start + 1})"
                ) from None
            yield number, line if keep_end else line.removesuffix("\n").removesuffix("\r")

    def _parquet_chunks(self, size: int) -> Iterator[Chunk]:
        self.position = 0
        with pq.ParquetFile(self.path) as file:
            batches = file.iter_batches(batch_size=size)
            while True:
                try:
                    batch = next(batches, None)
                    rows = batch.to_pylist() if batch is not None else []
                except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                    raise self._error(self.position + 1, f"cannot be read: {error}") from None
                if batch is None:
                    return
                numbers = list(range(self.position + 1, self.position + 1 + len(rows)))
                self.position += len(rows)
                yield Chunk(numbers, rows, batch)

    def _error(self, number: int, reason: str) -> InputError:
        return InputError(f"{self.path}, {self.place} {number}: {reason}")


class TableWriter:
    """Writes chunks to a file of any of the formats; the first chunk fixes the columns.

    Raises:
        InputError: the input has a column of an added name, or a value that the format cannot hold (a tab or line
            break in TSV, a column that the first row of JSON Lines did not have).
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
        clash = next((name for name in names if name in columns), None)
        if clash is not None:
            raise InputError(f"the input has a column '{clash}' already: choose other names with --prefix")
        self._columns = list(columns)
        if self.format == "parquet":
            kept = (
                [schema.field(name) for name in self._columns]
                if schema is not None
                else [pa.field(name, pa.string()) for name in self._columns]
            )
            self._schema = pa.schema([*kept, *(pa.field(name, kind) for name, kind in self.added)])
            self._file = pq.ParquetWriter(self.path, self._schema)
        elif self.format == "jsonl":
            self._file = self.path.open("wb")
        else:
            self._file = self.path.open("w", encoding="utf-8", newline="")
            # TSV is written by hand: the csv module would ask for an escape character where none exists.
            self._csv = csv.writer(self._file, lineterminator="\n")
            self._put([*self._columns, *names], 1)

    def write(self, chunk: Chunk, added: dict[str, list[Any]]) -> None:
        """Appends the chunk's rows with the added columns' values behind them."""
        if self.format == "parquet":
            self._write_parquet(chunk, added)
            return
        for index, row in enumerate(chunk.rows):
            new = {name: added[name][index] for name, _ in self.added}
            if self.format == "jsonl":
                self._file.write(orjson.dumps({**row, **new}, default=str) + b"\n")
            else:
                unknown = [name for name in row if name not in self._columns]
                if unknown:
                    raise InputError(
                        f"line {chunk.numbers[index]} has a column '{unknown[0]}' that the first row has not: "
                        f"write JSON Lines instead"
                    )
                self._put([row.get(name) for name in self._columns] + list(new.values()), chunk.numbers[index])

    def _put(self, values: Sequence[Any], number: int) -> None:
        fields = [_as_text(value) for value in values]
        if self.format == "csv":
            self._csv.writerow(fields)
            return
        if any(character in field for field in fields for character in "\t\n"):
            raise InputError(f"row {number} holds a tab or a line break, which TSV cannot hold: write CSV instead")
        self._file.write("\t".join(fields) + "\n")

    def _write_parquet(self, chunk: Chunk, added: dict[str, list[Any]]) -> None:
        if chunk.batch is not None:
            kept = [chunk.batch.column(name) for name in self._columns]
        else:
            kept = [
                pa.array([_nullable_text(row.get(name)) for row in chunk.rows], pa.string()) for name in self._columns
            ]
        new = [pa.array(added[name], kind) for name, kind in self.added]
        self._file.write_batch(pa.RecordBatch.from_arrays([*kept, *new], schema=self._schema))


def _nullable_text(value: Any) -> str | None:
    return None if value is None else _as_text(value)


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        return orjson.dumps(value).decode()
    return str(value)
