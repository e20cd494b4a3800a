"""Table files for the tests, and what is read from them."""

import datetime
import decimal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from common.errors import InputError
from common.table_formats import compression, table_format
from common.table_writer import AddedColumn, TableWriter
from common.tables import Chunk, TableReader

# What splits lines somewhere (str.splitlines, spreadsheets) but must not split a value here.
SEPARATORS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"
ANY_TEXT = st.text(
    st.one_of(st.sampled_from('",;\n\r\t \'"\ufeffé😀ab|' + SEPARATORS), st.characters(exclude_categories=["Cs"])),
    max_size=12,
)
ROWS = st.lists(st.tuples(ANY_TEXT, ANY_TEXT, ANY_TEXT), max_size=6)
PROPERTY = settings(deadline=None, max_examples=60)
NAMES = ("text", "note", "label")


def put(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def numbered(path: Path) -> list[tuple[int, dict[str, Any]]]:
    return list(TableReader(path).rows())


def values(path: Path) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for _, row in numbered(path)]


def writer_for(path: Path, columns: Sequence[str], *added: AddedColumn, schema: pa.Schema | None = None) -> TableWriter:
    """A writer of the format that the file's name says."""
    return TableWriter(tuple(columns), added, table_format(path), compression(path), schema)


def join(writer: TableWriter, path: Path, *parts: bytes) -> Path:
    with path.open("wb") as file:
        writer.join(parts, file)
    return path


def copy(source: Path, target: Path, size: int = 4096) -> Path:
    """Reads a table and writes it as it is, in parts of so many rows."""
    reader = TableReader(source)
    writer = writer_for(target, reader.columns, schema=reader.schema)
    return join(writer, target, *(writer.part(chunk, {}) for chunk in reader.chunks(size)))


def write(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    named = [dict(zip(columns, row, strict=True)) for row in rows]
    writer = writer_for(path, columns)
    return join(writer, path, writer.part(Chunk(list(range(1, len(rows) + 1)), named), {}))


def refusal(path: Path) -> str:
    """The one line with which reading `path` ends."""
    with pytest.raises(InputError) as raised:
        numbered(path)
    message = str(raised.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def typed_table() -> pa.Table:
    day = datetime.datetime(2024, 2, 29, 23, 59, 59, 123456)
    return pa.table(
        {
            "text": pa.array(["a", None, "c\n\u2028"], pa.string()),
            "large": pa.array(["x", "y", None], pa.large_string()),
            "small": pa.array([1, None, -128], pa.int8()),
            "unsigned": pa.array([2**64 - 1, 0, None], pa.uint64()),
            "half": pa.array([1.5, None, -2.0], pa.float32()),
            "flag": pa.array([True, None, False], pa.bool_()),
            "raw": pa.array([b"\xff\x00", None, b""], pa.binary()),
            "day": pa.array([day.date(), None, day.date()], pa.date32()),
            "time": pa.array([day, None, day], pa.timestamp("us", tz="Europe/Vienna")),
            "price": pa.array([decimal.Decimal("1.50"), None, decimal.Decimal("-3.25")], pa.decimal128(9, 2)),
            "tags": pa.array([["a", None], None, []], pa.list_(pa.string())),
            "point": pa.array([{"x": 1, "y": None}, None, {"x": 2, "y": 0.5}]),
            "kind": pa.array(["b", None, "b"]).dictionary_encode(),
            "nothing": pa.nulls(3),
        }
    )
