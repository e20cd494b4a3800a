"""Object stores: read, written and listed as pyarrow and the server see them, and one clear line where they fail."""

import datetime
import gzip
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from common.errors import InputError, UnderstudyError, WorkFailedError
from common.examples import BY_USUAL_NAMES, read_examples
from common.location import Location
from common.tables import TableReader
from tests.s3 import Bucket

ROWS = [{"text": f"text {number}", "label": "ab"[number % 2]} for number in range(1000)]


def test_what_lies_in_a_store_is_told_and_read(s3: Bucket) -> None:
    location = Location.parse(s3.put("data/a b#%20é*.csv", b"abc"))
    info = location.info()
    assert info is not None
    assert (info.size, info.is_directory) == (3, False)
    assert abs(info.modified_ns - time.time_ns()) < 60e9
    assert location.name == s3.shown("data/a b#%20é*.csv")
    assert location.read_bytes() == b"abc"
    assert location.sha256() == hashlib.sha256(b"abc").hexdigest()
    with location.open() as file:
        assert (file.seek(1), file.read(), file.tell()) == (1, b"bc", 3)
    directory = Location.parse(s3.uri("data")).info()
    assert directory is not None
    assert directory.is_directory
    assert Location.parse(s3.uri("none")).info() is None


def test_what_is_written_to_a_store_is_there(s3: Bucket) -> None:
    """To the byte: pyarrow would compress by the name's ending."""
    root = Location.parse(s3.uri(""))
    root.child("a/b.csv.gz").write_bytes(b"abc")
    assert s3.get("a/b.csv.gz") == b"abc"
    data = b"0123456789" * 2_000_000  # several parts of an upload
    with root.child("a/c.csv.gz").open_output() as stream:
        for start in range(0, len(data), 999_983):
            stream.write(data[start : start + 999_983])
        assert stream.tell() == len(data)
    assert s3.get("a/c.csv.gz") == data
    assert root.child("a").children() == ["b.csv.gz", "c.csv.gz"]
    assert root.child("none").children() == []


def test_pyarrow_writes_parquet_into_an_output(s3: Bucket) -> None:
    location = Location.parse(s3.uri("a.parquet"))
    with location.open_output() as stream:
        pq.write_table(pa.Table.from_pylist(ROWS), stream)
    assert [row for _, row in TableReader(location).rows()] == ROWS


@pytest.mark.parametrize("size", [0, 10, 12_000_000])
def test_an_output_that_fails_is_not_there(s3: Bucket, size: int) -> None:
    location = Location.parse(s3.uri("out/a.csv"))
    with pytest.raises(KeyboardInterrupt), location.open_output() as stream:  # noqa: PT012
        stream.write(b"a" * size)
        raise KeyboardInterrupt
    assert location.info() is None
    assert s3.keys() == []


def test_removing_takes_all_of_a_directory_and_never_a_bucket(s3: Bucket) -> None:
    for key in ("out/a.csv", "out/deep/b.csv", "output.csv", "kept/c.csv"):
        s3.put(key, b"x")
    root = Location.parse(s3.uri(""))
    for name in ("out", "out", "kept/c.csv", "none"):
        root.child(name).remove()
    assert s3.keys() == ["output.csv"]
    with pytest.raises(InputError, match="a whole bucket is not deleted"):
        root.remove()


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv.gz", "a.parquet", "a.arrow"])
def test_tables_in_a_store_are_read_as_those_beside_us(s3: Bucket, tmp_path: Path, name: str) -> None:
    table = pa.Table.from_pylist(ROWS)
    path = tmp_path / name
    if name == "a.jsonl":
        path.write_text("".join(f'{{"text": "{row["text"]}", "label": "{row["label"]}"}}\n' for row in ROWS))
    elif name == "a.csv.gz":
        lines = ["text,label", *(f"{row['text']},{row['label']}" for row in ROWS)]
        path.write_bytes(gzip.compress("\n".join(lines).encode()))
    elif name == "a.parquet":
        pq.write_table(table, path, row_group_size=300)
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=300)
    uri = s3.put(f"data/{name}", path.read_bytes())
    here, there = TableReader(path), TableReader(uri)
    assert list(there.rows()) == list(here.rows())
    assert [row for _, row in there.rows()] == ROWS
    assert (there.position, there.total, there.schema) == (here.position, here.total, here.schema)
    examples = read_examples(uri, BY_USUAL_NAMES)
    assert examples.texts == [row["text"] for row in ROWS]
    assert examples.source == s3.shown(f"data/{name}")
    assert examples.places[0].startswith(f"s3://{s3.name}/data/{name}, ")
    assert examples.describe() == {
        "name": name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "rows": len(ROWS),
        "pairs": False,
    }


def test_bad_files_in_a_store_are_refused_by_name(s3: Bucket) -> None:
    def refusal(uri: str) -> str:
        with pytest.raises(InputError) as raised:
            list(TableReader(uri).rows())
        assert "endpoint" not in str(raised.value)
        return str(raised.value)

    assert refusal(s3.uri("none.csv")) == f"{s3.shown('none.csv')}: no such file"
    assert "there is no such bucket" in refusal(s3.uri("a.csv", bucket="nowhere"))
    assert refusal(s3.put("empty.csv", b"")) == f"{s3.shown('empty.csv')} is empty"
    s3.put("data.csv/a.csv", b"text\na\n")
    assert "is a directory" in refusal(s3.uri("data.csv"))
    assert refusal(s3.put("a.csv", b"a,b\n1\n")).startswith(f"{s3.shown('a.csv')}, line 2: 1 field")
    assert "is not a Parquet file" in refusal(s3.put("a.parquet", b"text\na\n"))
    assert "gzip data is damaged or cut short" in refusal(s3.put("a.csv.gz", gzip.compress(b"text\na\n")[:-1]))
    assert "unknown table format" in refusal(s3.put("a.txt", b"text\na\n"))


@pytest.mark.parametrize(
    "work",
    [
        lambda location: location.info(),
        lambda location: location.open(),
        lambda location: location.ancestor(1).children(),
        lambda location: location.ancestor(1).files_below((".",)),
        lambda location: location.write_bytes(b"a"),
        lambda location: location.remove(),
        lambda location: location.open_output().__enter__(),
        lambda location: TableReader(location),
    ],
)
def test_refused_credentials_are_one_clear_line(s3: Bucket, work: Callable[[Location], object]) -> None:
    location = Location.parse(s3.put("data/a.csv", b"text\na\n"))
    s3.refuse_from_now()
    try:
        with pytest.raises(InputError, match="the store refuses these credentials, or there are none") as raised:
            work(location)
    finally:
        s3.admit_again()
    assert str(raised.value).startswith(f"s3://{s3.name}/data")
    assert "\n" not in str(raised.value)


def test_writing_into_no_bucket_is_one_clear_line(s3: Bucket) -> None:
    location = Location.parse(s3.uri("a.csv", bucket="nowhere"))
    with pytest.raises(InputError, match=r"s3://nowhere/a\.csv: there is no such bucket"):
        location.write_bytes(b"a")
    with pytest.raises(InputError, match="there is no such bucket"), location.open_output():
        pass


def test_a_store_that_goes_away_while_it_is_read_is_no_damaged_file(
    s3: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.location.REMOTE_READ_BYTES", 2**16)
    content = b'{"text": "a"}\n' * 50_000
    readers = [TableReader(s3.put("a.jsonl", content)), TableReader(s3.put("a.jsonl.gz", gzip.compress(content, 0)))]
    all_chunks = [reader.chunks(100) for reader in readers]
    for chunks in all_chunks:
        next(chunks)
    s3.refuse_from_now()
    try:
        for reader, chunks in zip(readers, all_chunks, strict=True):
            with pytest.raises(UnderstudyError, match="the store refuses these credentials") as raised:
                list(chunks)
            assert str(raised.value).startswith(str(reader.location))
    finally:
        s3.admit_again()


@pytest.mark.usefixtures("s3_server")
@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_store_out_of_reach_is_one_clear_line(scheme: str) -> None:
    """Nobody listens at port 9 of this machine."""
    user = "anonymous@" if scheme == "gs" else ""
    retry = "&retry_limit_seconds=1" if scheme == "gs" else ""
    uri = f"{scheme}://{user}bucket/a.csv?scheme=http&endpoint_override=127.0.0.1:9{retry}"
    with pytest.raises(WorkFailedError, match=f"{scheme}://bucket/a.csv: the store is out of reach: ") as raised:
        TableReader(uri)
    assert "\n" not in str(raised.value)


def test_google_is_not_asked_for_a_quarter_of_an_hour() -> None:
    for options, seconds in (("", 5), ("?retry_limit_seconds=77", 77)):
        limit = datetime.timedelta(seconds=seconds)
        wanted = pafs.GcsFileSystem(anonymous=True, retry_time_limit=limit, default_bucket_location="")
        assert Location.parse(f"gs://anonymous@bucket/a.csv{options}").filesystem == wanted
        assert Location.parse(f"gs://bucket/a.csv{options}").filesystem != wanted
