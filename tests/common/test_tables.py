"""Tables: what other readers see in a file is what TableReader yields, and every bad file ends in one precise line."""

import csv
import datetime
import decimal
import errno
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.table_writer import TableWriter
from common.tables import FORMATS, Chunk, TableReader, table_format

# What splits lines somewhere (str.splitlines, spreadsheets) but must not split a value here.
SEPARATORS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"
ANY_TEXT = st.text(
    st.one_of(st.sampled_from('",;\n\r\t \'"\ufeffé😀ab|' + SEPARATORS), st.characters(exclude_categories=["Cs"])),
    max_size=12,
)
ROWS = st.lists(st.tuples(ANY_TEXT, ANY_TEXT, ANY_TEXT), max_size=6)
PROPERTY = settings(deadline=None, max_examples=60)
NAMES = ("text", "note", "label")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory for the files of all of a property's examples."""
    return tmp_path_factory.mktemp("tables")


def put(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def numbered(path: Path) -> list[tuple[int, dict[str, Any]]]:
    return list(TableReader(path).rows())


def values(path: Path) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for _, row in numbered(path)]


def copy(source: Path, target: Path) -> Path:
    """Reads a table and writes it as it is."""
    reader = TableReader(source)
    with TableWriter(target, []) as writer:
        writer.open(reader.columns, reader.schema)
        for chunk in reader.chunks():
            writer.write(chunk, {})
    return target


def write(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    with TableWriter(path, []) as writer:
        writer.open(columns, None)
        named = [dict(zip(columns, row, strict=True)) for row in rows]
        writer.write(Chunk(list(range(1, len(rows) + 1)), named), {})
    return path


def refusal(path: Path) -> str:
    """The one line with which reading `path` ends."""
    with pytest.raises(InputError) as raised:
        numbered(path)
    message = str(raised.value)
    assert "\n" not in message
    assert str(path) in message
    return message


# Reading CSV


@PROPERTY
@given(rows=ROWS, end=st.sampled_from(["\n", "\r\n"]), bom=st.booleans(), last_end=st.booleans())
def test_csv_reads_what_pythons_csv_wrote(
    folder: Path, rows: list[tuple[str, str, str]], end: str, bom: bool, last_end: bool
) -> None:
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator=end)
    lines = []
    for row in [NAMES, *rows]:
        lines.append(file.getvalue().count("\n") + 1)
        writer.writerow(row)
    content = file.getvalue() if last_end else file.getvalue().removesuffix(end)
    path = put(folder, "a.csv", ("\ufeff" if bom else "") + content)
    expected = [(line, dict(zip(NAMES, row, strict=True))) for line, row in zip(lines[1:], rows, strict=True)]
    assert TableReader(path).columns == list(NAMES)
    assert numbered(path) == expected


@PROPERTY
@given(rows=ROWS)
def test_csv_reads_what_pandas_reads(folder: Path, rows: list[tuple[str, str, str]]) -> None:
    # pandas takes a bare carriage return for the end of a line and a NUL for the end of a string.
    rows = [tuple(value.replace("\r", "").replace("\0", "") for value in row) for row in rows]  # type: ignore[misc]

    def quoted(value: str) -> str:
        return '"' + value.replace('"', '""') + '"' if any(mark in value for mark in '",\n') else value

    content = "".join(",".join(map(quoted, row)) + "\r\n" for row in [NAMES, *rows])
    path = put(folder, "b.csv", content)
    table = pandas.read_csv(path, dtype=str, keep_default_na=False, na_filter=False, skipinitialspace=False)
    assert values(path) == [tuple(row) for row in table.itertuples(index=False)]


def test_csv_follows_rfc_4180(tmp_path: Path) -> None:
    content = 'text,label\r\n"one ""quoted"" word","a,b"\r\n"two\r\nlines",x\r\n5" disk,y\r\n,\r\n" z ", w \r\n'
    assert numbered(put(tmp_path, "a.csv", content)) == [
        (2, {"text": 'one "quoted" word', "label": "a,b"}),
        (3, {"text": "two\r\nlines", "label": "x"}),
        (5, {"text": '5" disk', "label": "y"}),
        (6, {"text": "", "label": ""}),
        (7, {"text": " z ", "label": " w "}),
    ]


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_unicode_line_separators_end_no_line(tmp_path: Path, ending: str) -> None:
    value = f"a{SEPARATORS}b"
    mark = "," if ending == "csv" else "\t"
    path = put(tmp_path, f"a.{ending}", f"text{mark}label\n{value}{mark}x\n{value}{mark}y\n")
    assert numbered(path) == [(2, {"text": value, "label": "x"}), (3, {"text": value, "label": "y"})]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_blank_lines_are_skipped_and_counted(tmp_path: Path, ending: str, end: str) -> None:
    lines = {
        "csv": ["", "t,l", "", "a,b", "", "", "c,d", ""],
        "tsv": ["", "t\tl", "", "a\tb", "", "", "c\td", ""],
        "jsonl": ["", "", "", '{"t":"a","l":"b"}', "", "", '{"t":"c","l":"d"}', ""],
    }[ending]
    path = put(tmp_path, f"a.{ending}", end.join(lines) + end)
    assert numbered(path) == [(4, {"t": "a", "l": "b"}), (7, {"t": "c", "l": "d"})]


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_blank_line_is_an_empty_value_of_a_single_column(tmp_path: Path, ending: str) -> None:
    path = put(tmp_path, f"a.{ending}", "text\na\n\nb\n")
    assert numbered(path) == [(2, {"text": "a"}), (3, {"text": ""}), (4, {"text": "b"})]


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_blank_line_above_a_single_columns_header_is_no_header(tmp_path: Path, ending: str) -> None:
    path = put(tmp_path, f"a.{ending}", "\ntext\na\n")
    assert TableReader(path).columns == ["text"]
    assert numbered(path) == [(3, {"text": "a"})]


# Reading TSV


@PROPERTY
@given(rows=ROWS, end=st.sampled_from(["\n", "\r\n"]), bom=st.booleans())
def test_tsv_has_no_quoting(folder: Path, rows: list[tuple[str, str, str]], end: str, bom: bool) -> None:
    rows = [tuple(value.translate({9: " ", 10: " ", 13: " "}) for value in row) for row in rows]  # type: ignore[misc]
    content = "".join("\t".join(row) + end for row in [NAMES, *rows])
    path = put(folder, "a.tsv", ("\ufeff" if bom else "") + content)
    assert numbered(path) == [(number, dict(zip(NAMES, row, strict=True))) for number, row in enumerate(rows, start=2)]


def test_tsv_reads_what_pandas_reads_without_quoting(tmp_path: Path) -> None:
    path = put(tmp_path, "a.tsv", 'sentence\tlabel\n"the \' film\t1\nhe said ""no""\t0\n"\t1\n')
    table = pandas.read_csv(path, sep="\t", dtype=str, quoting=csv.QUOTE_NONE, keep_default_na=False)
    assert values(path) == [tuple(row) for row in table.itertuples(index=False)]
    assert len(table) == 3


# Reading JSON Lines

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@PROPERTY
@given(rows=st.lists(st.dictionaries(ANY_TEXT, JSON, max_size=3), min_size=1, max_size=4), ascii_only=st.booleans())
def test_json_lines_read_and_written_as_pythons_json_has_them(
    folder: Path, rows: list[dict[str, Any]], ascii_only: bool
) -> None:
    content = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)
    path = put(folder, "a.jsonl", content)
    reader = TableReader(path)
    assert reader.columns == list(rows[0])
    assert list(reader.rows()) == list(enumerate(rows, start=1))
    copied = copy(path, folder / "b.jsonl").read_bytes().split(b"\n")
    assert [json.loads(line) for line in copied[:-1]] == rows


def test_json_lines_keep_an_integer_of_more_than_64_bits(tmp_path: Path) -> None:
    source = put(tmp_path, "a.jsonl", '{"id": 123456789012345678901, "text": "a"}\n')
    (line,) = copy(source, tmp_path / "b.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == 123456789012345678901


@pytest.mark.parametrize(
    "line", ['"text"', "[1]", "3", "null", "{", '{"text": NaN}', '{"text": "\\ud800"}', "{'text': 1}", "text,label"]
)
def test_json_line_that_is_no_object_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    message = refusal(put(tmp_path, "a.jsonl", '{"text": "a"}\n\n' + line + "\n"))
    assert "line 3: " in message


def test_json_error_names_one_line_only(tmp_path: Path) -> None:
    message = refusal(put(tmp_path, "a.jsonl", '{"text": "a"}\n{"text": b}\n'))
    assert "line 2" in message
    assert "line 1" not in message


def test_json_too_deep_to_be_written_is_an_input_error(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", '{"text": "a", "tree": ' + "[" * 500 + "]" * 500 + "}\n")
    try:
        copied = copy(path, tmp_path / "b.jsonl")
    except InputError:
        return
    assert json.loads(copied.read_text()) == json.loads(path.read_text())


# Parquet


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


def test_parquet_types_and_nulls_survive(tmp_path: Path) -> None:
    table = typed_table()
    source = tmp_path / "a.parquet"
    pq.write_table(pa.concat_tables([table] * 3), source, row_group_size=4)
    reader = TableReader(source)
    with TableWriter(tmp_path / "b.parquet", [("score", pa.float32()), ("error", pa.string())]) as writer:
        writer.open(reader.columns, reader.schema)
        for chunk in reader.chunks(2):
            count = len(chunk.rows)
            writer.write(chunk, {"score": [0.5] * count, "error": [None] * count})
    result = pq.read_table(tmp_path / "b.parquet")
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
    assert "line 3: not valid CSV: a quotation mark is left open" in message


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


# Writing


@PROPERTY
@given(rows=ROWS)
def test_csv_written_is_csv_read(folder: Path, rows: list[tuple[str, str, str]]) -> None:
    path = write(folder / "written.csv", NAMES, rows)
    with path.open(encoding="utf-8", newline="") as file:
        assert [tuple(row) for row in csv.reader(file)] == [NAMES, *rows]
    assert values(path) == rows


@PROPERTY
@given(column=st.lists(ANY_TEXT, max_size=5))
def test_single_column_of_any_values_is_read_back(folder: Path, column: list[str]) -> None:
    assert values(write(folder / "single.csv", ["text"], [(value,) for value in column])) == [(v,) for v in column]


@PROPERTY
@given(rows=ROWS)
def test_tsv_written_is_read_back_or_refused(folder: Path, rows: list[tuple[str, str, str]]) -> None:
    try:
        path = write(folder / "written.tsv", NAMES, rows)
    except InputError as error:
        assert "TSV cannot hold" in str(error)  # noqa: PT017
        assert any(mark in value for row in rows for value in row for mark in "\t\n\r")
        return
    assert values(path) == rows


def test_tsv_refuses_a_tab_or_line_break_with_its_row(tmp_path: Path) -> None:
    for value in ("a\tb", "a\nb"):
        with pytest.raises(InputError, match="row 2 holds a tab or a line break"):
            write(tmp_path / "a.tsv", ["text", "label"], [("fine", "x"), (value, "x")])


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_values_that_are_no_text_are_written_as_text(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"a.{ending}", list("abcdef"), [(None, True, False, 3, 0.25, ["x", {"y": None}])])
    assert values(path) == [("", "true", "false", "3", "0.25", '["x",{"y":null}]')]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_added_columns_stand_last(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    with TableWriter(path, [("score", pa.float32()), ("error", pa.string())]) as writer:
        writer.open(["text"], None)
        writer.write(Chunk([2, 3], [{"text": "a"}, {"text": "b"}]), {"score": [0.5, None], "error": [None, "empty"]})
    rows = [row for _, row in numbered(path)]
    assert [list(row) for row in rows] == [["text", "score", "error"]] * 2
    empty = "" if ending in ("csv", "tsv") else None
    half = "0.5" if ending in ("csv", "tsv") else 0.5
    assert [tuple(row.values()) for row in rows] == [("a", half, empty), ("b", empty, "empty")]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_an_input_column_of_an_added_name_is_refused(tmp_path: Path, ending: str) -> None:
    writer = TableWriter(tmp_path / f"a.{ending}", [("score", pa.float32())])
    with pytest.raises(InputError, match=r"'score'.*--prefix"):
        writer.open(["text", "score"], None)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_an_added_name_in_a_later_json_row_is_not_overwritten(tmp_path: Path, ending: str) -> None:
    source = put(tmp_path, "a.jsonl", '{"text": "a"}\n{"text": "b", "score": "mine"}\n')
    reader = TableReader(source)
    with TableWriter(tmp_path / f"b.{ending}", [("score", pa.float32())]) as writer:
        writer.open(reader.columns, reader.schema)
        with pytest.raises(InputError, match="'score'"):
            writer.write(next(reader.chunks()), {"score": [0.5, 0.5]})


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_a_key_that_the_first_json_row_had_not_is_refused_not_dropped(tmp_path: Path, ending: str) -> None:
    source = put(tmp_path, "a.jsonl", '{"text": "a"}\n\n{"text": "b", "extra": 1}\n')
    with pytest.raises(InputError, match=r"line 3 .*'extra'"):
        copy(source, tmp_path / f"b.{ending}")


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_a_key_that_a_later_json_row_lacks_is_empty(tmp_path: Path, ending: str) -> None:
    source = put(tmp_path, "a.jsonl", '{"text": "a", "n": 1}\n{"text": "b"}\n')
    assert values(copy(source, tmp_path / f"b.{ending}")) == [("a", "1"), ("b", None if ending == "parquet" else "")]


def test_format_given_outweighs_the_names_ending(tmp_path: Path) -> None:
    with TableWriter(tmp_path / ".abc.tmp", [], format="jsonl") as writer:
        writer.open(["text"], None)
        writer.write(Chunk([1], [{"text": "a"}]), {})
    assert json.loads((tmp_path / ".abc.tmp").read_text()) == {"text": "a"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_a_full_disk_is_an_os_error_that_says_so(kind: str) -> None:
    with pytest.raises(OSError, match="No space left") as raised:  # noqa: SIM117, PT012
        with TableWriter(Path("/dev/full"), [], format=kind) as writer:
            writer.open(["text"], None)
            writer.write(Chunk([1], [{"text": "a" * 1000}]), {})
    assert raised.value.errno == errno.ENOSPC
