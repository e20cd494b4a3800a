"""Tables written: what TableReader and other readers get back is what was given."""

import csv
import errno
import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from common.table_writer import TableWriter
from common.tables import Chunk, TableReader
from tests.common.table_files import (
    ANY_TEXT,
    NAMES,
    PROPERTY,
    ROWS,
    copy,
    numbered,
    put,
    values,
    write,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory for the files of all of a property's examples."""
    return tmp_path_factory.mktemp("tables")


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
