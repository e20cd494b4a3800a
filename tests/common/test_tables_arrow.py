"""Parquet and Arrow files: rows and record batches as pyarrow has them."""

import contextlib
import decimal
import io
import itertools
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError, TextError
from common.rows import CHUNK_BYTES
from common.table_writer import AddedColumn
from common.tables import TableReader
from common.tokenization import check_text
from tests.common.table_files import copy, join, numbered, put, refusal, typed_table, values, writer_for


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


def test_parquet_types_and_nulls_survive(tmp_path: Path) -> None:
    table = typed_table()
    source = tmp_path / "a.parquet"
    pq.write_table(pa.concat_tables([table] * 3), source, row_group_size=4)
    reader = TableReader(source)
    added = (AddedColumn("score", pa.float32()), AddedColumn("error", pa.string()))
    writer = writer_for(tmp_path / "b.parquet", reader.columns, *added, schema=reader.schema)
    parts = [
        writer.part(chunk, {"score": [0.5] * len(chunk.rows), "error": [None] * len(chunk.rows)})
        for chunk in reader.chunks(2)
    ]
    result = pq.read_table(join(writer, tmp_path / "b.parquet", *parts))
    kept = result.select(table.column_names)
    assert kept.schema.types == table.schema.types
    assert kept.to_pylist() == pa.concat_tables([table] * 3).to_pylist()
    assert result.schema.field("score").type == pa.float32()
    assert result.column("error").null_count == 9
    assert (reader.place, reader.total, reader.position) == ("row", 9, 9)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_a_parquet_table_of_any_types_can_be_written_as_text(tmp_path: Path, ending: str) -> None:
    source = tmp_path / "a.parquet"
    pq.write_table(typed_table().slice(0, 2), source)
    copied = copy(source, tmp_path / f"b.{ending}")
    rows = [row for _, row in numbered(copied)]
    assert list(rows[0]) == typed_table().column_names
    assert rows[0]["text"] == "a"
    assert str(rows[0]["unsigned"]) == str(2**64 - 1)
    assert rows[0]["price"] == "1.50"
    assert [name for name, value in rows[1].items() if value not in ("", None)] == ["large", "unsigned"]


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_list_of_decimals_can_be_written_as_text(tmp_path: Path, ending: str) -> None:
    source = tmp_path / "a.parquet"
    prices = pa.array([[decimal.Decimal("1.50")]], pa.list_(pa.decimal128(9, 2)))
    pq.write_table(pa.table({"text": ["a"], "prices": prices}), source)
    assert "1.50" in values(copy(source, tmp_path / f"b.{ending}"))[0][1]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Vienna"])
def test_a_time_has_one_form_whatever_its_unit_and_neighbours(tmp_path: Path, unit: str, zone: str | None) -> None:
    moment = pa.scalar("2024-03-01 10:00:00").cast(pa.timestamp("s")).cast(pa.timestamp(unit)).as_py()
    far = [None] if unit == "ns" else [pa.scalar(253402300800).cast(pa.timestamp("s")).cast(pa.timestamp(unit))]
    column = pa.array([moment, *far], pa.timestamp(unit)).cast(pa.timestamp(unit, tz=zone))
    pq.write_table(pa.table({"text": ["a", "b"], "when": column}), tmp_path / "a.parquet")
    found = [row["when"] for _, row in numbered(tmp_path / "a.parquet")]
    expected = {
        None: "2024-03-01T10:00:00",
        "UTC": "2024-03-01T10:00:00Z",
        "Europe/Vienna": "2024-03-01T11:00:00+01:00",
    }
    assert found[0] == expected[zone]
    assert found[1] is None if unit == "ns" else found[1].startswith("10000-01-01T0")


@pytest.mark.parametrize(
    "column",
    [pa.array([2**60], pa.timestamp("us")), pa.array([2**30], pa.date32())],
    ids=["timestamp", "date"],
)
def test_a_date_that_python_cannot_hold_is_no_traceback(tmp_path: Path, column: pa.Array) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"], "when": column}), path)
    try:
        rows = numbered(path)
    except InputError:
        assert "row 1" in refusal(path)
    else:
        assert [row["text"] for _, row in rows] == ["a"]


def test_parquet_text_that_is_not_utf8_is_refused_with_its_row(tmp_path: Path) -> None:
    offsets = pa.array([0, 1, 2, 3, 4], pa.int32()).buffers()[1]
    broken = pa.Array.from_buffers(pa.string(), 4, [None, offsets, pa.py_buffer(b"ab\xffd")])
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": broken}), path)
    assert "row 3: " in refusal(path)


def test_a_damaged_parquet_file_is_no_traceback(tmp_path: Path) -> None:
    """Cut short anywhere, it is refused; with a byte changed, it is read or refused."""
    whole = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"text {n}" for n in range(50)], "label": ["a", "b"] * 25}), whole)
    content = whole.read_bytes()
    for length in range(1, len(content), 37):
        assert "is not a Parquet file" in refusal(put(tmp_path, "cut.parquet", content[:length]))
    refused = 0
    for position in range(0, len(content), 23):
        changed = bytearray(content)
        changed[position] ^= 0x55
        try:
            numbered(put(tmp_path, "changed.parquet", bytes(changed)))
        except InputError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize("content", [b"text,label\na,b\n", b'{"text": "a"}\n', b"PAR1", b"PAR1PAR1"])
def test_a_text_file_renamed_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    assert "is not a Parquet file" in refusal(put(tmp_path, "a.parquet", content))


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_a_parquet_file_renamed_text_is_refused(tmp_path: Path, ending: str) -> None:
    source = tmp_path / "a.parquet"
    pq.write_table(typed_table(), source)
    refusal(put(tmp_path, f"a.{ending}", source.read_bytes()))


# Arrow


def arrow_bytes(table: pa.Table, form: str, rows: int | None = None, codec: str | None = None) -> bytes:
    target = io.BytesIO()
    new = pa.ipc.new_file if form == "file" else pa.ipc.new_stream
    with new(target, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_table(table, max_chunksize=rows)
    return target.getvalue()


def messages(count: int) -> pa.Table:
    return pa.table({"text": [f"text {number}" for number in range(count)], "label": ["a"] * count})


@pytest.mark.parametrize("form", ["file", "stream"])
@pytest.mark.parametrize("ending", ["arrow", "feather"])
@pytest.mark.parametrize("codec", [None, "lz4", "zstd"])
def test_arrow_types_values_and_batches_are_pyarrows(tmp_path: Path, form: str, ending: str, codec: str | None) -> None:
    table = typed_table().append_column("view", pa.array(["p", None, "q"], pa.string_view()))
    path = put(tmp_path, f"a.{ending}", arrow_bytes(pa.concat_tables([table] * 3), form, 2, codec))
    reader = TableReader(path)
    assert reader.columns == table.column_names
    assert reader.schema == table.schema
    chunks = list(reader.chunks(4))
    assert pa.Table.from_batches([chunk.batch for chunk in chunks]).to_pylist() == table.to_pylist() * 3
    times_told = [row | {"time": row["time"] and row["time"].isoformat()} for row in table.to_pylist()]
    assert [row for chunk in chunks for row in chunk.rows] == times_told * 3
    assert [number for chunk in chunks for number in chunk.numbers] == list(range(1, 10))
    assert (reader.place, reader.total, reader.position) == ("row", path.stat().st_size, path.stat().st_size)


def test_the_files_of_feather_and_of_hugging_faces_datasets_are_read(tmp_path: Path) -> None:
    pyarrow.feather.write_feather(messages(10), tmp_path / "a.feather")
    assert [row for _, row in numbered(tmp_path / "a.feather")] == messages(10).to_pylist()
    datasets.Dataset.from_list(messages(10).to_pylist()).save_to_disk(tmp_path / "saved")
    (saved,) = (tmp_path / "saved").glob("*.arrow")
    assert [row for _, row in numbered(saved)] == messages(10).to_pylist()


@pytest.mark.parametrize("form", ["file", "stream"])
@settings(deadline=None, max_examples=30)
@given(counts=st.lists(st.integers(0, 9), max_size=5), size=st.integers(1, 6))
def test_arrow_chunks_hold_the_rows_in_order(folder: Path, form: str, counts: list[int], size: int) -> None:
    table = messages(sum(counts))
    target = io.BytesIO()
    with (pa.ipc.new_file if form == "file" else pa.ipc.new_stream)(target, table.schema) as writer:
        for start, count in zip(itertools.accumulate([0, *counts]), counts, strict=False):
            writer.write_table(table.slice(start, count))
    reader = TableReader(put(folder, "a.arrow", target.getvalue()))
    chunks = list(reader.chunks(size, ["text"]))
    assert all(1 <= len(chunk.rows) <= size for chunk in chunks)
    assert [row for chunk in chunks for row in chunk.rows] == table.select(["text"]).to_pylist()
    assert [number for chunk in chunks for number in chunk.numbers] == list(range(1, len(table) + 1))
    assert reader.position == reader.total


def test_a_large_record_batch_is_cut_to_chunks(tmp_path: Path) -> None:
    table = pa.table({"text": ["a" * 100_000] * 200})
    path = put(tmp_path, "a.arrow", arrow_bytes(table, "stream"))
    chunks = list(TableReader(path).chunks(4096))
    assert sum(len(chunk.rows) for chunk in chunks) == 200
    assert max(chunk.batch.nbytes for chunk in chunks if chunk.batch is not None) <= CHUNK_BYTES


@pytest.mark.parametrize("form", ["file", "stream"])
def test_an_arrow_file_cut_short_anywhere_is_refused(tmp_path: Path, form: str) -> None:
    """At the end of a batch too, where pyarrow itself takes the rest for read."""
    content = arrow_bytes(messages(30), form, 10)
    for length in range(1, len(content)):
        message = refusal(put(tmp_path, "a.arrow", content[:length]))
        assert "is not an Arrow file" in message or "cannot be read" in message


def test_what_stands_behind_an_arrow_streams_end_is_refused(tmp_path: Path) -> None:
    content = arrow_bytes(messages(3), "stream")
    message = refusal(put(tmp_path, "a.arrow", content * 2))
    assert (
        f"row 4: this row or a later one cannot be read: {len(content)} bytes stand behind the stream's end" in message
    )


@pytest.mark.parametrize("form", ["file", "stream"])
def test_a_changed_byte_in_an_arrow_file_is_no_traceback(tmp_path: Path, form: str) -> None:
    content = arrow_bytes(messages(30), form, 10)
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 0x55
        with contextlib.suppress(InputError):
            numbered(put(tmp_path, "a.arrow", bytes(changed)))


@pytest.mark.parametrize("content", [b"text,label\na,b\n" * 9, b'{"text": "a"}\n', b"ARROW1", b"PAR1PAR1", b"\0" * 99])
def test_another_file_renamed_arrow_is_refused(tmp_path: Path, content: bytes) -> None:
    assert "is not an Arrow file" in refusal(put(tmp_path, "a.arrow", content))


def test_bytes_are_no_text(tmp_path: Path) -> None:
    """A column of them is read as it is, so that each row is refused for what it is."""
    path = put(tmp_path, "a.arrow", arrow_bytes(pa.table({"text": pa.array([b"a"], pa.binary())}), "stream"))
    with pytest.raises(TextError):
        check_text(numbered(path)[0][1]["text"])


def test_repeated_long_texts_in_parquet_are_read_in_small_chunks(tmp_path: Path) -> None:
    rows = 3000
    # A few hundred bytes in the file, for they stand in its dictionary once.
    pq.write_table(pa.table({"text": ["x" * 20_000] * rows}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 5_000
    chunks = [chunk.batch for chunk in TableReader(tmp_path / "a.parquet").chunks(16_384)]
    assert sum(batch.num_rows for batch in chunks if batch is not None) == rows
    assert max(batch.nbytes for batch in chunks if batch is not None) <= CHUNK_BYTES
