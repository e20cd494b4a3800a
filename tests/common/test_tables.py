"""Tables of any format: every bad file ends in one precise line, and chunks hold the rows in order."""

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.tables import FORMATS, TableReader, table_format
from tests.common.table_files import (
    numbered,
    put,
    refusal,
    write,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory for the files of all of a property's examples."""
    return tmp_path_factory.mktemp("tables")


# Bad files


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", b"", "is empty"),
        ("a.parquet", b"", "is empty"),
        ("a.csv", b"\n\n", "no header"),
        ("a.csv", b"\xef\xbb\xbf", "no header"),
        ("a.tsv", b"\xef\xbb\xbf\r\n", "no header"),
        ("a.jsonl", b"\n \n", "no rows"),
        ("a.csv", b"a,b,a\n1,2,3\n", "'a' more than once"),
        ("a.tsv", b"a\ta\n1\t2\n", "'a' more than once"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "line 3: 3 fields where the header names 2"),
        ("a.csv", b"a,b\n1\n", "line 2: 1 field"),
        ("a.tsv", b"a\tb\n1\t2\t\n", "line 2: 3 fields where the header names 2"),
        ("a.csv", b'a,b\n"1\n2\n\n3",x\n\n4\n', "line 7: 1 field"),
        ("a.csv", b'a,b\r\n"1\r\n2",x\r\n4,5,6\r\n', "line 4: 3 fields"),
        ("a.csv", b'a,b\n1,2\n"3\n4,5\n6,7\n', "line 3: not valid CSV: a quotation mark is left open"),
        ("a.csv", b'"a,b\n1,2\n', "line 1: not valid CSV: a quotation mark is left open"),
        ("a.csv", b'a,b\n1,2\n"3" x,4\n', "line 3: not valid CSV"),
        ("a.csv", b"a,b\n1,2\n3,caf\xe9\n", "line 3: not UTF-8 (byte 0xe9 at column 6)"),
        ("a.csv", b'a,b\n"1\n2",x\n3,caf\xe9\n', "line 4: not UTF-8"),
        ("a.tsv", b"a\tb\n1\t2\ncaf\xe9\tx\n", "line 3: not UTF-8 (byte 0xe9 at column 4)"),
        ("a.jsonl", b'{"a": "x"}\n{"a": "caf\xe9"}\n', "line 2: not UTF-8"),
        ("a.csv", b"caf\xe9,b\n1,2\n", "line 1: not UTF-8"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16"), "line 1: UTF-16"),
        ("a.tsv", b"\xfe\xff" + "a\tb\n1\t2\n".encode("utf-16-be"), "line 1: UTF-16"),
        ("a.jsonl", '{"a": "x"}\n'.encode("utf-16"), "line 1: UTF-16"),
        ("a.txt", b"a,b\n", "unknown table format"),
        ("a.parquet.gz", b"a,b\n", "unknown table format"),
        ("csv", b"a,b\n", "unknown table format"),
    ],
)  # fmt: skip
def test_bad_file_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    assert reason in refusal(put(tmp_path, name, content))


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_utf16_without_a_mark_is_named_as_what_it_is(tmp_path: Path, ending: str) -> None:
    """Windows tools write it; ASCII in UTF-16 is valid UTF-8 with a NUL in every other place."""
    mark = "," if ending == "csv" else "\t"
    content = f"text{mark}label\nhello{mark}a\nworld{mark}b\n".encode("utf-16-le")
    message = refusal(put(tmp_path, f"a.{ending}", content))
    assert "UTF-16" in message or "NUL" in message


def test_missing_file_and_directory_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "a.csv")
    (tmp_path / "b.csv").mkdir()
    assert "is a directory" in refusal(tmp_path / "b.csv")


def test_an_endless_quoted_field_is_refused_where_it_begins(tmp_path: Path) -> None:
    limit = csv.field_size_limit(1000)
    try:
        message = refusal(put(tmp_path, "a.csv", 'a,b\n1,2\n"3\n' + "4,5\n" * 500))
    finally:
        csv.field_size_limit(limit)
    assert "line 3: not valid CSV: a field of more than" in message
    assert message.endswith("or a quotation mark left open")


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_header_only_has_columns_and_no_rows(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table({"text": pa.array([], pa.string()), "label": pa.array([], pa.string())}), path)
    else:
        path.write_text("text,label" if ending == "csv" else "text\tlabel\n")
    reader = TableReader(path)
    assert reader.columns == ["text", "label"]
    assert list(reader.rows()) == []


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_nul_bytes_stay_in_their_value(tmp_path: Path, ending: str) -> None:
    mark = "," if ending == "csv" else "\t"
    path = put(tmp_path, f"a.{ending}", f"text{mark}label\na\0b{mark}x\n")
    assert numbered(path) == [(2, {"text": "a\0b", "label": "x"})]


@settings(deadline=None, max_examples=200)
@given(
    ending=st.sampled_from(["csv", "tsv", "jsonl", "parquet"]),
    content=st.one_of(
        st.binary(min_size=1, max_size=60),
        st.lists(st.sampled_from([b'"', b",", b"\n", b"\r", b"\t", b"a", b"\0", b"{", b"}", b":", b"\xff"]), min_size=1)
        .map(b"".join),
    ),
)  # fmt: skip
@example(ending="csv", content=b'"')
@example(ending="csv", content=b"a\r")
def test_any_bytes_are_read_or_refused(folder: Path, ending: str, content: bytes) -> None:
    path = put(folder, f"any.{ending}", content)
    try:
        rows = numbered(path)
    except InputError:
        return
    numbers = [number for number, _ in rows]
    assert numbers == sorted(set(numbers))
    assert all(1 <= number <= content.count(b"\n") + 1 for number in numbers)


@pytest.mark.parametrize(("ending", "kind"), FORMATS.items())
def test_format_by_the_names_ending(ending: str, kind: str) -> None:
    assert table_format(Path("a.b" + ending)) == kind
    assert table_format(Path("A" + ending.upper())) == kind


# Chunks


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
@settings(deadline=None, max_examples=15)
@given(count=st.integers(1, 30), size=st.integers(1, 12))
def test_chunks_hold_the_rows_in_order_whatever_their_size(folder: Path, ending: str, count: int, size: int) -> None:
    rows = [(f"t{number}", "x") for number in range(count)]
    path = write(folder / f"chunks.{ending}", ["text", "label"], rows)
    reader = TableReader(path)
    chunks = list(reader.chunks(size))
    assert [len(chunk.rows) for chunk in chunks[:-1]] == [size] * (len(chunks) - 1)
    assert 1 <= len(chunks[-1].rows) <= size
    assert all(len(chunk.numbers) == len(chunk.rows) for chunk in chunks)
    assert [tuple(row.values()) for chunk in chunks for row in chunk.rows] == rows
    first = 2 if ending in ("csv", "tsv") else 1
    assert [number for chunk in chunks for number in chunk.numbers] == list(range(first, first + count))
    assert reader.position == reader.total == (count if ending == "parquet" else path.stat().st_size)
