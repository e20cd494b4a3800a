"""Tables written: what TableReader and other readers get back is what was given."""

import csv
import errno
import json
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from common.table_writer import AddedColumn
from common.tables import Chunk, TableReader
from tests.common.table_files import (
    ANY_TEXT,
    NAMES,
    PROPERTY,
    ROWS,
    copy,
    join,
    numbered,
    put,
    typed_table,
    values,
    write,
    writer_for,
)

SCORE = AddedColumn("score", pa.float32())
ENDINGS = pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet", "arrow", "csv.gz", "jsonl.zst"])


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


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_a_list_of_labels_is_written_as_commands_read_it(tmp_path: Path, ending: str) -> None:
    rows = [{"label": ["a", "é c"], "tags": ["a"]}, {"label": [], "tags": []}, {"label": ["a|b"], "tags": None}]
    source = put(tmp_path, "in.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    writer = replace(writer_for(tmp_path / f"out.{ending}", ("label", "tags")), labels="label")
    path = join(writer, tmp_path / f"out.{ending}", *(writer.part(c, {}) for c in TableReader(source).chunks(9)))
    assert [row[0] for row in values(path)] == ["a|é c", "", '["a|b"]']
    assert [row[1] or "" for row in values(path)] == ['["a"]', "[]", ""]


def test_tsv_refuses_a_tab_or_line_break_with_its_row(tmp_path: Path) -> None:
    for value in ("a\tb", "a\nb"):
        with pytest.raises(InputError, match="row 2 holds a tab or a line break"):
            write(tmp_path / "a.tsv", ["text", "label"], [("fine", "x"), (value, "x")])


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_values_that_are_no_text_are_written_as_text(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"a.{ending}", list("abcdef"), [(None, True, False, 3, 0.25, ["x", {"y": None}])])
    assert values(path) == [("", "true", "false", "3", "0.25", '["x",{"y":null}]')]


@ENDINGS
def test_added_columns_stand_last(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    writer = writer_for(path, ["text"], SCORE, AddedColumn("error", pa.string()))
    chunk = Chunk([2, 3], [{"text": "a"}, {"text": "b"}])
    join(writer, path, writer.part(chunk, {"score": [0.5, None], "error": [None, "empty"]}))
    rows = [row for _, row in numbered(path)]
    assert [list(row) for row in rows] == [["text", "score", "error"]] * 2
    is_text = ending.startswith(("csv", "tsv"))
    empty, half = ("", "0.5") if is_text else (None, 0.5)
    assert [tuple(row.values()) for row in rows] == [("a", half, empty), ("b", empty, "empty")]


@ENDINGS
def test_an_input_column_of_an_added_name_is_refused(tmp_path: Path, ending: str) -> None:
    with pytest.raises(InputError, match=r"'score'.*--prefix"):
        writer_for(tmp_path / f"a.{ending}", ["text", "score"], SCORE)


@ENDINGS
def test_an_added_name_in_a_later_json_row_is_not_overwritten(tmp_path: Path, ending: str) -> None:
    reader = TableReader(put(tmp_path, "a.jsonl", '{"text": "a"}\n{"text": "b", "score": "mine"}\n'))
    writer = writer_for(tmp_path / f"b.{ending}", reader.columns, SCORE)
    with pytest.raises(InputError, match="'score'"):
        writer.part(next(reader.chunks()), {"score": [0.5, 0.5]})


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_a_key_that_the_first_json_row_had_not_is_refused_not_dropped(tmp_path: Path, ending: str) -> None:
    source = put(tmp_path, "a.jsonl", '{"text": "a"}\n\n{"text": "b", "extra": 1}\n')
    with pytest.raises(InputError, match=r"line 3 .*'extra'"):
        copy(source, tmp_path / f"b.{ending}")


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_a_key_that_a_later_json_row_lacks_is_empty(tmp_path: Path, ending: str) -> None:
    source = put(tmp_path, "a.jsonl", '{"text": "a", "n": 1}\n{"text": "b"}\n')
    assert values(copy(source, tmp_path / f"b.{ending}")) == [("a", "1"), ("b", None if ending == "parquet" else "")]


@PROPERTY
@given(rows=ROWS, size=st.integers(1, 4), ending=st.sampled_from(["csv", "csv.gz", "jsonl.zst", "parquet", "arrow"]))
def test_parts_one_behind_the_other_are_the_whole(
    folder: Path, rows: list[tuple[str, str, str]], size: int, ending: str
) -> None:
    rows = rows or [("a", "b", "c")]
    whole = write(folder / "whole.csv", NAMES, rows)
    assert values(copy(whole, folder / f"parts.{ending}", size)) == rows


@pytest.mark.parametrize("ending", ["csv.gz", "jsonl.zst", "parquet", "arrow"])
def test_a_part_depends_on_its_rows_alone(tmp_path: Path, ending: str) -> None:
    chunk = Chunk([1, 2], [{"text": "a"}, {"text": "b" * 500}])
    parts = []
    for _ in range(2):
        writer = writer_for(tmp_path / f"a.{ending}", ["text"])
        writer.part(Chunk([1], [{"text": "another"}]), {})
        parts.append(writer.part(chunk, {}))
        time.sleep(1.1 if ending.endswith("gz") else 0)  # a second is what gzip's header counts in
    assert parts[0] == parts[1]


def test_groups_of_rows_are_of_many_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.table_writer.GROUP_ROWS", 10)
    source = write(tmp_path / "a.csv", ["text"], [(str(number),) for number in range(25)])
    target = copy(source, tmp_path / "a.parquet", 4)
    with pq.ParquetFile(target) as file:
        assert [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)] == [8, 8, 9]
    assert values(target) == values(source)


def test_types_stay_from_record_batches_to_record_batches(tmp_path: Path) -> None:
    table = typed_table()
    pq.write_table(table, tmp_path / "a.parquet")
    assert pq.read_table(copy(tmp_path / "a.parquet", tmp_path / "b.parquet", 2)).equals(table)
    with pa.ipc.open_file(copy(tmp_path / "a.parquet", tmp_path / "b.arrow", 2)) as reader:
        found = reader.read_all()
    # An Arrow file has one dictionary a column, and parts bring several.
    plain = table.set_column(table.column_names.index("kind"), "kind", table["kind"].cast(pa.string()))
    assert found.equals(plain)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@ENDINGS
def test_a_full_disk_is_an_os_error_that_says_so(ending: str) -> None:
    writer = writer_for(Path(f"a.{ending}"), ["text"])
    part = writer.part(Chunk([1], [{"text": "".join(map(chr, range(32, 40_000)))}]), {})
    with pytest.raises(OSError, match="No space left") as raised:
        join(writer, Path("/dev/full"), part)
    assert raised.value.errno == errno.ENOSPC
