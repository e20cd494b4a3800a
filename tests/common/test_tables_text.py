"""CSV, TSV and JSON Lines: what other readers see in a file is what TableReader yields."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from common.tables import TableReader
from tests.common.table_files import (
    ANY_TEXT,
    NAMES,
    PROPERTY,
    ROWS,
    SEPARATORS,
    copy,
    numbered,
    put,
    refusal,
    values,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory for the files of all of a property's examples."""
    return tmp_path_factory.mktemp("tables")


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


@pytest.mark.parametrize("text", ["text\tlabel\ra\tx\rb\ty\r", "text\r\tlabel\na\tx\n"])
def test_a_carriage_return_in_a_tsv_header_is_refused(tmp_path: Path, text: str) -> None:
    assert "line 1: the header holds a carriage return" in refusal(put(tmp_path, "t.tsv", text))


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


# Standard input


class Pipe(io.RawIOBase):
    """Bytes that come once, a few at a time, as from another process."""

    def __init__(self, data: bytes):
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._data.readinto(memoryview(buffer)[:7])


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | bytes], None]:
    def pipe(content: str | bytes) -> None:
        data = content.encode() if isinstance(content, str) else content
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(Pipe(data))))

    return pipe


def test_standard_input_is_json_lines_read_once(piped: Callable[[str], None]) -> None:
    content = '\n{"text": "a", "label": "x"}\n{"text": "é"}\n'
    piped(content)
    reader = TableReader("-")
    assert (reader.columns, reader.total, reader.place) == (["text", "label"], None, "line")
    assert list(reader.rows()) == [(2, {"text": "a", "label": "x"}), (3, {"text": "é"})]
    assert reader.position == len(content.encode())
    with pytest.raises(InputError, match="standard input can be read only once"):
        list(reader.rows())


@pytest.mark.parametrize(("format", "mark"), [("csv", ","), ("tsv", "\t")])
def test_standard_input_may_be_another_text_if_told(piped: Callable[[str], None], format: str, mark: str) -> None:
    piped(f"text{mark}label\n" + f"a{mark}x\n" * 5)
    chunks = list(TableReader("-", format).chunks(2))
    assert [chunk.numbers for chunk in chunks] == [[2, 3], [4, 5], [6]]
    assert [row for chunk in chunks for row in chunk.rows] == [{"text": "a", "label": "x"}] * 5


@pytest.mark.parametrize(
    ("content", "format", "message"),
    [
        ("", None, "standard input holds no rows"),
        ("", "csv", "standard input has no header row"),
        ('{"text": "a"}\n[]\n', None, "standard input, line 2: a row must be a JSON object"),
        ("PAR1", "parquet", "standard input can be csv, tsv, jsonl, not parquet"),
    ],
)
def test_bad_standard_input_is_refused_in_one_line(
    piped: Callable[[str], None], content: str, format: str | None, message: str
) -> None:
    piped(content)
    with pytest.raises(InputError, match=message):
        list(TableReader("-", format).rows())


def test_a_line_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.text_tables.MAX_LINE_BYTES", 20)
    exact, longer = '{"text": "12345678"}', '{"text": "123456789"}'
    assert len(exact) == 20
    assert values(put(tmp_path, "a.jsonl", exact)) == [("12345678",)]
    assert "line 2: the line is longer than" in refusal(put(tmp_path, "a.jsonl", f'{{"text": "a"}}\n{longer}'))
