"""Tables written in parts: each part is made by itself, and a file is its parts one behind the other."""

from __future__ import annotations

import gzip
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import InputError, first_line, shown
from common.labels import SEPARATOR, split_labels
from common.tables import Chunk

# In formats of record batches, where a file's rows lie in groups: of so many rows or bytes, whichever comes first.
GROUP_ROWS = 131_072
GROUP_BYTES = 64 * 1024 * 1024

_BATCHED = ("parquet", "arrow")

# What may need quotation marks in CSV, and what TSV cannot hold.
_SPECIAL = re.compile(r'["\r\n]')


@dataclass(frozen=True)
class AddedColumn:
    """A column behind the input's; `kind` is its type where the format has types."""

    name: str
    kind: pa.DataType


@dataclass(frozen=True)
class TableWriter:
    """The input's columns in their order, and the added ones behind them, in one format.

    What a part's bytes are depends on its rows alone.

    Args:
        columns: the input's.
        added: the columns behind them.
        format: one of `common.tables.FORMATS`' values.
        compression: 'gzip' or 'zstd', of text formats; the others compress their columns themselves.
        schema: the types of the input's columns, where it has types.
        labels: of the input's columns the one with labels: where the format has no lists, several are written as
            `a|b`, which every command reads, and not as JSON.
        metadata: kept with the added columns, where the format has a place for it.

    Raises:
        InputError: the input has a column of an added name, or of a type that the format cannot hold.
    """

    columns: tuple[str, ...]
    added: tuple[AddedColumn, ...]
    format: str
    compression: str | None = None
    schema: pa.Schema | None = None
    labels: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._refuse_clash(self.columns, "the input")
        if self.takes_batches:
            try:
                self.join([], io.BytesIO())
            except pa.ArrowException as error:
                raise InputError(f"{self.format} cannot hold the input's columns: {first_line(error)}") from None

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(self.columns)

    @property
    def takes_batches(self) -> bool:
        """Whether columns of record batches pass through as they are."""
        return self.format in _BATCHED

    def part(self, chunk: Chunk, added: Mapping[str, Sequence[Any]]) -> bytes:
        """The chunk's rows with the added columns' values.

        Raises:
            InputError: a value that the format cannot hold (a tab or line break in TSV; outside JSON Lines, a column
                that the first row did not have).
        """
        if chunk.batch is None:
            for number, row in zip(chunk.numbers, chunk.rows, strict=True):
                self._check_columns(row, f"line {number}")
        if self.takes_batches:
            return self._batch_part(chunk, added)
        lines = []
        for index, (number, row) in enumerate(zip(chunk.numbers, chunk.rows, strict=True)):
            new = {column.name: added[column.name][index] for column in self.added}
            if self.format == "jsonl":
                lines.append(json_text({**row, **new}, f"row {number}") + "\n")
            else:
                kept = (self._in_text(name, row.get(name)) for name in self.columns)
                lines.append(self._line([*kept, *new.values()], number))
        return self._packed("".join(lines))

    def join(self, parts: Iterable[bytes], file: BinaryIO) -> None:
        """Writes a whole file of parts that `part` made."""
        if self.format == "parquet":
            with pq.ParquetWriter(file, self.batch_schema) as writer:
                for group in self._groups(parts):
                    writer.write_table(group, row_group_size=GROUP_ROWS)
        elif self.format == "arrow":
            with pa.ipc.new_file(file, self.batch_schema, options=_IPC_OPTIONS) as writer:
                for group in self._groups(parts):
                    writer.write_table(group.combine_chunks())
        else:
            if self.format != "jsonl":
                names = [*self.columns, *(column.name for column in self.added)]
                file.write(self._packed(self._line(names, 1)))
            for part in parts:
                file.write(part)

    @cached_property
    def batch_schema(self) -> pa.Schema:
        """Of a file of record batches."""
        own = {key.encode(): value.encode() for key, value in self.metadata.items()}
        kept = self.schema or pa.schema([pa.field(name, pa.string()) for name in self.columns])
        if self.format == "arrow":
            kept = pa.schema([_without_dictionary(column) for column in kept], kept.metadata)
        # Of several inputs, some may have gaps where others say that they have none.
        kept = pa.schema([column.with_nullable(True) for column in kept], kept.metadata)
        new = [pa.field(column.name, column.kind, metadata=own or None) for column in self.added]
        return pa.schema([*kept, *new], {**(kept.metadata or {}), **own})

    def _groups(self, parts: Iterable[bytes]) -> Iterable[pa.Table]:
        waiting: list[pa.Table] = []
        rows = size = 0
        for part in parts:
            with pa.ipc.open_stream(part) as reader:
                table = reader.read_all()
            if waiting and (rows + table.num_rows > GROUP_ROWS or size + table.nbytes > GROUP_BYTES):
                yield pa.concat_tables(waiting)
                waiting, rows, size = [], 0, 0
            waiting.append(table)
            rows, size = rows + table.num_rows, size + table.nbytes
        if waiting:
            yield pa.concat_tables(waiting)

    def _batch_part(self, chunk: Chunk, added: Mapping[str, Sequence[Any]]) -> bytes:
        if chunk.batch is not None:
            kept = [
                column.cast(kind) if column.type != kind else column
                for column, kind in zip(chunk.batch.columns, self.batch_schema.types, strict=False)
            ]
        else:
            kept = [pa.array(self._strings(chunk, name), pa.string()) for name in self.columns]
        new = [pa.array(added[column.name], column.kind) for column in self.added]
        part = io.BytesIO()
        with pa.ipc.new_stream(part, self.batch_schema, options=_IPC_OPTIONS) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays([*kept, *new], schema=self.batch_schema))
        return part.getvalue()

    def _strings(self, chunk: Chunk, name: str) -> list[str | None]:
        return [
            None if row.get(name) is None else _as_text(self._in_text(name, row[name]), f"row {number}")
            for number, row in zip(chunk.numbers, chunk.rows, strict=True)
        ]

    def _in_text(self, name: str, value: Any) -> Any:
        if name != self.labels or not isinstance(value, list):
            return value
        plain = all(isinstance(label, str) and split_labels(label) == [label] for label in value)
        return SEPARATOR.join(value) if plain else value

    def _check_columns(self, row: dict[str, Any], place: str) -> None:
        if row.keys() == self._names:
            return
        self._refuse_clash(list(row), place)
        unknown = [name for name in row if name not in self.columns]
        if unknown and self.format != "jsonl":
            raise InputError(
                f"{place} has a column '{shown(unknown[0])}' that the first row has not: write JSON Lines instead"
            )

    def _refuse_clash(self, columns: Sequence[str], where: str) -> None:
        clash = next((column.name for column in self.added if column.name in columns), None)
        if clash is not None:
            raise InputError(f"{where} has a column '{clash}' already: choose other names with --prefix")

    def _line(self, values: Sequence[Any], number: int) -> str:
        fields = [value if isinstance(value, str) else _as_text(value, f"row {number}") for value in values]
        separator = "," if self.format == "csv" else "\t"
        line = separator.join(fields)
        # Most rows need no second look.
        plain = line.count(separator) == len(fields) - 1 and not _SPECIAL.search(line)
        if self.format == "csv":
            # A blank line would be no row at all.
            return ((line if plain else ",".join(map(_quoted, fields))) or '""') + "\n"
        if not plain and (any("\t" in field or "\n" in field for field in fields) or line.endswith("\r")):
            raise InputError(f"row {number} holds a tab or a line break, which TSV cannot hold: write CSV instead")
        return line + "\n"

    def _packed(self, text: str) -> bytes:
        data = text.encode()
        match self.compression:
            case "gzip":
                # Members and frames one behind the other are one file to every reader; a time would differ each run.
                return gzip.compress(data, compresslevel=6, mtime=0)
            case "zstd":
                return bytes(pa.compress(data, codec="zstd", asbytes=True))
        return data


def _without_dictionary(column: pa.Field) -> pa.Field:
    """An Arrow file holds one dictionary a column, and each part comes with its own.

    Raises:
        InputError: a dictionary stands within a list or struct.
    """
    if not pa.types.is_dictionary(column.type) and "dictionary<" in str(column.type):
        name = shown(column.name)
        raise InputError(f"the column '{name}' is {column.type}, which an Arrow file cannot hold: write Parquet")
    return column.with_type(column.type.value_type) if pa.types.is_dictionary(column.type) else column


_IPC_OPTIONS = pa.ipc.IpcWriteOptions(compression="zstd")


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
