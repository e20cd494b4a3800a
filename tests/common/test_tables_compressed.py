"""Compressed text: read as if it were not, in a stream, and damage is told wherever it lies."""

import bisect
import csv
import gzip
import io
import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from common.rows import CHUNK_BYTES
from common.tables import TableReader, compression, table_format
from tests.common.table_files import NAMES, PROPERTY, ROWS, numbered, put, refusal, values

KINDS = {"gz": "gzip", "zst": "zstd"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


def packed(data: bytes, ending: str) -> bytes:
    """One gzip member or one zstd frame."""
    if ending == "gz":
        return gzip.compress(data, mtime=0)
    target = pa.BufferOutputStream()
    with pa.CompressedOutputStream(target, "zstd") as stream:
        stream.write(data)
    return bytes(target.getvalue())


def text(ending: str, rows: list[tuple[str, str, str]]) -> str:
    if ending == "jsonl":
        return "".join(json.dumps(dict(zip(NAMES, row, strict=True))) + "\n" for row in rows)
    if ending == "tsv":
        return "".join("\t".join(row) + "\n" for row in [NAMES, *rows])
    file = io.StringIO()
    csv.writer(file, quoting=csv.QUOTE_ALL).writerows([NAMES, *rows])
    return file.getvalue()


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("packing", KINDS)
@PROPERTY
@given(rows=ROWS.filter(len), cut=st.floats(0, 1))
def test_rows_are_those_of_the_plain_file_however_many_members_it_has(
    folder: Path, ending: str, packing: str, rows: list[tuple[str, str, str]], cut: float
) -> None:
    if ending == "tsv":
        rows = [tuple(value.translate({9: " ", 10: " ", 13: " "}) for value in row) for row in rows]  # type: ignore[misc]
    data = text(ending, rows).encode()
    middle = int(len(data) * cut)
    content = packed(data[:middle], packing) + packed(b"", packing) + packed(data[middle:], packing)
    path = put(folder, f"a.{ending}.{packing}", content)
    assert values(path) == rows
    assert numbered(path) == numbered(put(folder, f"a.{ending}", data))


@pytest.mark.parametrize("packing", KINDS)
def test_a_member_that_ends_where_a_block_of_reading_does(tmp_path: Path, packing: str) -> None:
    """pyarrow takes 64 KiB at a time from the file."""
    block = 2**16
    noise = random.Random(0).randbytes(block).hex()

    def line(length: int) -> bytes:
        return json.dumps({"text": noise[:length]}).encode() + b"\n"

    near = bisect.bisect_left(range(2 * block), block - 8, key=lambda length: len(packed(line(length), packing)))
    data = next(line(n) for n in range(near, near + 100) if len(packed(line(n), packing)) == block)
    path = put(tmp_path, f"a.jsonl.{packing}", packed(data, packing) * 2)
    assert [row for _, row in numbered(path)] == [json.loads(data)] * 2


@pytest.mark.parametrize("packing", KINDS)
def test_position_and_total_count_the_bytes_that_lie_there(tmp_path: Path, packing: str) -> None:
    rows = [(f"text {number}", "a" * (number % 50), "x") for number in range(20000)]
    path = put(tmp_path, f"a.csv.{packing}", packed(text("csv", rows).encode(), packing))
    reader = TableReader(path)
    assert reader.total == path.stat().st_size
    positions = [reader.position for _ in reader.chunks(1000)]
    assert positions == sorted(positions)
    assert positions[0] > 0
    assert reader.position == reader.total
    assert [tuple(row.values()) for _, row in reader.rows()] == rows


@pytest.mark.parametrize("packing", KINDS)
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, packing: str) -> None:
    data = text("jsonl", [(f"text {number}", str(number * 7919 % 1000), "x") for number in range(60)]).encode()
    whole = packed(data, packing)
    second = whole + packed(data, packing)
    for content in [whole[:length] for length in range(1, len(whole))] + [
        second[:length] for length in range(len(whole) + 1, len(second), 5)
    ]:
        message = refusal(put(tmp_path, f"a.jsonl.{packing}", content))
        assert f"the {KINDS[packing]} data is damaged or cut short" in message
        assert ", line " in message


@pytest.mark.parametrize("packing", KINDS)
@pytest.mark.parametrize("junk", [b"junk", b"\0" * 100, b'{"text": "more"}\n'])
def test_what_stands_behind_the_end_is_refused(tmp_path: Path, packing: str, junk: bytes) -> None:
    content = packed(b'{"text": "a"}\n{"text": "b"}\n', packing) + junk
    assert "damaged or cut short" in refusal(put(tmp_path, f"a.jsonl.{packing}", content))


@pytest.mark.parametrize("packing", KINDS)
def test_damage_far_into_the_file_is_told_with_a_line_near_it(tmp_path: Path, packing: str) -> None:
    rows = [(f"text {number}", str(number * 7919 % 100003), "x") for number in range(100_000)]
    whole = packed(text("jsonl", rows).encode(), packing)
    path = put(tmp_path, f"a.jsonl.{packing}", whole[: len(whole) * 3 // 4])
    read = 0
    with pytest.raises(InputError, match="damaged or cut short") as raised:  # noqa: PT012
        for chunk in TableReader(path).chunks(500):
            assert [row["text"] for row in chunk.rows[:1]] == [f"text {read}"]
            read += len(chunk.rows)
    line = int(str(raised.value).partition(", line ")[2].partition(":")[0])
    assert 50_000 < read < line < 85_000


@pytest.mark.parametrize("packing", KINDS)
@pytest.mark.parametrize("content", [b'{"text": "a"}\n', b"text,label\na,b\n", b"\0" * 64])
def test_a_plain_file_under_a_compressed_name_is_refused(tmp_path: Path, packing: str, content: bytes) -> None:
    assert "line 1: " in refusal(put(tmp_path, f"a.csv.{packing}", content))


@pytest.mark.parametrize("packing", KINDS)
def test_nothing_compressed_is_an_empty_table(tmp_path: Path, packing: str) -> None:
    assert "is empty" in refusal(put(tmp_path, f"a.csv.{packing}", b""))
    assert "no header" in refusal(put(tmp_path, f"b.csv.{packing}", packed(b"", packing)))
    assert "no rows" in refusal(put(tmp_path, f"b.jsonl.{packing}", packed(b"", packing)))


def test_a_changed_byte_fails_gzips_checksum(tmp_path: Path) -> None:
    content = bytearray(packed(text("csv", [("a", "b", "c")] * 50).encode(), "gz"))
    content[-6] ^= 0x55
    assert "gzip data is damaged" in refusal(put(tmp_path, "a.csv.gz", bytes(content)))


@pytest.mark.parametrize("packing", KINDS)
def test_a_line_that_would_fill_the_memory_is_refused(
    tmp_path: Path, packing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.text_tables.MAX_LINE_BYTES", 2**20)
    content = packed(b'{"text": "a"}\n{"text": "' + b"a" * 2**22 + b'"}\n', packing)
    assert "line 2: the line is longer than 1 MiB" in refusal(put(tmp_path, f"a.jsonl.{packing}", content))


def test_compression_by_the_names_ending() -> None:
    assert compression("a.csv.gz") == "gzip"
    assert compression(Path("A.JSONL.ZST")) == "zstd"
    assert compression("s3://bucket/a.csv.gz?region=eu-west-1") == "gzip"
    assert table_format("s3://bucket/a.tsv.zst?region=eu-west-1") == "tsv"
    assert [compression(name) for name in ("a.csv", "-", "gz", "a.parquet")] == [None] * 4
    for name in ("a.parquet.gz", "a.gz", ".csv.gz", "a.csv.bz2", "a.csv.gz.gz"):
        with pytest.raises(InputError, match="unknown table format"):
            table_format(name)


# VmHWM, since the resident maximum that getrusage tells of is at first that of the process before.
MEMORY = """
import re, sys
from pathlib import Path
from common.tables import TableReader
def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
rows = 0
reader = TableReader(sys.argv[1])
before = peak()
for chunk in reader.chunks():
    rows += len(chunk.rows)
print(rows, peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
@pytest.mark.parametrize("packing", KINDS)
def test_memory_does_not_grow_with_the_file(tmp_path: Path, packing: str) -> None:
    line = json.dumps({"text": "a" * 1000, "label": "x"}) + "\n"
    count = 30 * CHUNK_BYTES // len(line)
    path = put(tmp_path, f"a.jsonl.{packing}", packed(line.encode() * count, packing))
    printed = subprocess.run([sys.executable, "-c", MEMORY, path], capture_output=True, text=True, check=True).stdout
    rows, grown = map(int, printed.split())
    assert rows == count
    assert grown < 8 * CHUNK_BYTES
