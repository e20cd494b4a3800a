"""Where rows come from and go to: several inputs, compressed ones, directories of files, an object store."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from common.errors import InputError
from demo.messages import DEV
from export.bundle import Bundle
from serve.engine import Engine
from serve.scoring import run as run_module
from serve.scoring.score import score
from serve.scoring.settings import ScoreSettings
from tests.conftest import messages, write_tsv

ROWS = [{"id": f"r{number}", "text": row["text"].replace('"', "'")} for number, row in enumerate(messages(DEV)[:40])]


@pytest.fixture(scope="module")
def labels(student_bundle: Path) -> list[str]:
    """What the engine answers."""
    return [answer.label for answer in Engine.load(student_bundle).classify([row["text"] for row in ROWS])]  # type: ignore[union-attr]


def _read(path: Path) -> list[dict[str, Any]]:
    """A file by other readers than ours."""
    match path.name.split(".")[1:]:
        case ["parquet"]:
            return list(pq.read_table(path).to_pylist())
        case ["arrow" | "feather"]:
            with pa.ipc.open_file(path) as reader:
                return list(reader.read_all().to_pylist())
        case [kind, *packed]:
            data = path.read_bytes()
            if packed == ["gz"]:
                data = gzip.decompress(data)
            elif packed == ["zst"]:
                data = pa.CompressedInputStream(pa.BufferReader(data), "zstd").read()
            if kind == "jsonl":
                return [json.loads(line) for line in data.decode().splitlines()]
            return list(csv.DictReader(io.StringIO(data.decode()), delimiter="\t" if kind == "tsv" else ","))
    raise AssertionError(path)


def _check(rows: list[dict[str, Any]], labels: list[str]) -> None:
    assert [row["id"] for row in rows] == [row["id"] for row in ROWS]
    assert [row["text"] for row in rows] == [row["text"] for row in ROWS]
    assert [row["prediction"] for row in rows] == labels


@pytest.mark.parametrize(
    "name", ["o.csv.gz", "o.tsv.zst", "o.jsonl.gz", "o.jsonl.zst", "o.arrow", "o.feather", "o.parquet"]
)
def test_every_format_is_what_its_name_says(
    name: str, student_bundle: Path, labels: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "SHARD_ROWS", 7)
    output = tmp_path / name
    score(student_bundle, write_tsv(tmp_path / "in.tsv", ROWS), output)
    _check(_read(output), labels)
    # And into ours again.
    score(student_bundle, output, tmp_path / "again.jsonl", ScoreSettings(prefix="again_"))
    assert [row["again_prediction"] for row in _read(tmp_path / "again.jsonl")] == labels


@pytest.mark.parametrize("name", ["o.parquet", "o.arrow"])
def test_types_stay_and_the_added_columns_name_the_bundle(name: str, student_bundle: Path, tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": pa.array([row["text"] for row in ROWS[:6]]).cast(pa.large_string()),
            "kind": pa.array(["a", "b"] * 3).dictionary_encode(),
            "when": pa.array(range(6), pa.timestamp("ns")),
            "tags": pa.array([["a"], [], None] * 2, pa.list_(pa.string())),
        }
    ).replace_schema_metadata({"from": "elsewhere"})
    with pa.ipc.new_stream(tmp_path / "in.arrow", table.schema) as writer:
        # Two batches, each with a dictionary of its own.
        writer.write_table(table.slice(0, 3))
        writer.write_table(table.slice(3))
    output = tmp_path / name
    score(student_bundle, tmp_path / "in.arrow", output)
    if name == "o.arrow":
        with pa.ipc.open_file(output) as reader:
            scored = reader.read_all()
    else:
        scored = pq.read_table(output)
    assert scored.select(table.column_names).to_pylist() == table.to_pylist()
    for column in ("text", "when", "tags"):
        assert scored.schema.field(column).type == table.schema.field(column).type
    manifest = Bundle.load(student_bundle).manifest
    named = {b"understudy.bundle": manifest.name.encode(), b"understudy.bundle_version": manifest.version.encode()}
    assert named.items() <= scored.schema.metadata.items()
    assert scored.schema.metadata[b"from"] == b"elsewhere"
    assert named.items() <= scored.schema.field("score").metadata.items()


@pytest.mark.parametrize("format", [None, "parquet", "csv.gz"])
def test_a_directory_of_files(
    format: str | None, student_bundle: Path, labels: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "SHARD_ROWS", 7)
    output = tmp_path / "out"
    settings = ScoreSettings(rows_per_file=16, format=format)
    summary = score(student_bundle, write_tsv(tmp_path / "in.tsv", ROWS), output, settings)
    names = sorted(path.name for path in output.iterdir())
    assert names == ["_score.json", *(f"part-{number:05d}.{format or 'tsv'}" for number in range(3))]
    parts = [_read(output / name) for name in names[1:]]
    # Whole shards, at most so many rows.
    assert [len(part) for part in parts] == [14, 14, 12]
    _check([row for part in parts for row in part], labels)
    told = json.loads((output / "_score.json").read_text())
    assert (told["rows"], told["labels"]) == (40, dict(summary.labels))
    if format == "parquet":
        assert pads.dataset(output).count_rows() == 40
    with pytest.raises(InputError, match="exists"):
        score(student_bundle, tmp_path / "in.tsv", output, settings)
    score(student_bundle, output, tmp_path / "again.jsonl", ScoreSettings(prefix="again_"))
    score(student_bundle, tmp_path / "in.tsv", output, ScoreSettings(rows_per_file=100, format="jsonl", overwrite=True))
    assert sorted(path.name for path in output.iterdir()) == ["_score.json", "part-00000.jsonl"]


def test_several_inputs_are_one_table(student_bundle: Path, labels: list[str], tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number, (start, end) in enumerate(((0, 11), (11, 12), (12, 40))):
        write_tsv(source / f"{number}.tsv", ROWS[start:end])
    (source / "_SUCCESS").touch()
    for name, inputs in (("a", source), ("b", f"{source}/*.tsv"), ("c", [source / f"{n}.tsv" for n in range(3)])):
        output = tmp_path / f"{name}.jsonl"
        score(student_bundle, inputs, output)
        _check(_read(output), labels)
    summary = score(student_bundle, source / "1.tsv", tmp_path / "d.jsonl")
    assert (summary.rows, dict(summary.labels)) == (1, {labels[11]: 1})


def test_inputs_must_be_alike(student_bundle: Path, tmp_path: Path) -> None:
    write_tsv(tmp_path / "a.tsv", ROWS)
    write_tsv(tmp_path / "b.tsv", [{"text": "hello", "id": "1"}])
    pq.write_table(pa.table({"id": ["1"], "text": ["hello"]}), tmp_path / "c.parquet")
    pq.write_table(pa.table({"id": [1], "text": ["hello"]}), tmp_path / "d.parquet")
    for first, second, reason in (
        ("a.tsv", "b.tsv", r"b\.tsv has other columns \(text, id\) than .*a\.tsv \(id, text\)"),
        ("a.tsv", "c.parquet", "of different kinds"),
        ("c.parquet", "d.parquet", "the column 'id' is int64, in .*c.parquet string"),
    ):
        with pytest.raises(InputError, match=reason):
            score(student_bundle, [tmp_path / first, tmp_path / second], tmp_path / "o.jsonl")
    assert not list(tmp_path.glob("*o.jsonl*"))


def test_standard_input_is_json_lines(student_bundle: Path, labels: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "understudy", "score", student_bundle, "-", "-o", tmp_path / "out.csv"],
        input="".join(json.dumps(row) + "\n" for row in ROWS),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    _check(_read(tmp_path / "out.csv"), labels)


@pytest.mark.parametrize(
    ("output", "options", "reason"),
    [
        ("out", {}, "unknown table format"),
        ("out.csv", {"rows_per_file": 3}, "makes a directory, and this is a table's name"),
        ("out", {"rows_per_file": 3, "format": "xlsx"}, "the format must be one of csv, "),
        ("in.tsv", {"overwrite": True}, "is the input itself"),
        ("missing-parent/in.tsv/out.csv", {}, "no writable directory|cannot be written"),
    ],
)
def test_an_output_that_will_not_do_is_refused_first(
    output: str, options: dict[str, Any], reason: str, student_bundle: Path, tmp_path: Path
) -> None:
    source = write_tsv(tmp_path / "in.tsv", ROWS)
    (tmp_path / "missing-parent").mkdir()
    (tmp_path / "missing-parent/in.tsv").touch()
    with pytest.raises(InputError, match=reason):
        score(student_bundle, source, tmp_path / output, ScoreSettings(**options))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tsv", "missing-parent"]


def test_inputs_and_bundle_are_never_replaced(student_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(student_bundle, tmp_path / "bundle"))
    settings = ScoreSettings(rows_per_file=14, format="csv", overwrite=True)
    source = tmp_path / "source"
    score(bundle, write_tsv(tmp_path / "in.tsv", ROWS), source, settings)
    again = replace(settings, prefix="again_")
    below = source / "below"
    below.mkdir()
    write_tsv(below / "in.tsv", ROWS)
    for inputs, output in ((source, source), (below / "in.tsv", source), (tmp_path / "in.tsv", bundle)):
        with pytest.raises(InputError, match="holds the input"):
            score(bundle, inputs, output, again)
    assert len(list(source.glob("*.csv"))) == 3
    assert (bundle / "model.onnx").is_file()


def test_somebody_elses_files_where_the_journal_would_be_are_left_alone(student_bundle: Path, tmp_path: Path) -> None:
    source = write_tsv(tmp_path / "in.tsv", ROWS)
    other = tmp_path / ".out.csv.partial"
    other.mkdir()
    (other / "video.part").write_text("mine")
    with pytest.raises(InputError, match=r"holds video\.part: move it away"):
        score(student_bundle, source, tmp_path / "out.csv")
    assert (other / "video.part").read_text() == "mine"
    shutil.rmtree(other)
    other.write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        score(student_bundle, source, tmp_path / "out.csv")
    assert other.read_text() == "mine"


def test_a_table_without_rows_is_an_output_without_rows(student_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text,label\n")
    assert score(student_bundle, tmp_path / "in.csv", tmp_path / "out.parquet").rows == 0
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0
    score(student_bundle, tmp_path / "in.csv", tmp_path / "out", ScoreSettings(rows_per_file=5))
    assert (tmp_path / "out" / "part-00000.csv").read_text() == "text,label,prediction,score,truncated,error\n"


def test_columns_that_no_output_can_hold_are_refused_first(student_bundle: Path, tmp_path: Path) -> None:
    kinds = {
        "arrow": pa.array([["a"], ["b"]], pa.list_(pa.dictionary(pa.int32(), pa.string()))),
        "parquet": pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array(["a"])),
    }
    for format, column in kinds.items():
        table = pa.table({"text": ["hello", "there"], "odd": column})
        with pa.ipc.new_file(tmp_path / "in.arrow", table.schema) as writer:
            writer.write_table(table)
        with pytest.raises(InputError, match="cannot hold"):
            score(student_bundle, tmp_path / "in.arrow", tmp_path / f"out.{format}")


def test_a_column_without_gaps_may_have_some_in_the_next_file(student_bundle: Path, tmp_path: Path) -> None:
    for name, nullable, values in (("a", False, [1, 2]), ("b", True, [None, 3])):
        schema = pa.schema([pa.field("text", pa.string()), pa.field("n", pa.int64(), nullable=nullable)])
        pq.write_table(pa.table({"text": ["x", "y"], "n": values}, schema), tmp_path / f"{name}.parquet")
    score(student_bundle, f"{tmp_path}/?.parquet", tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["n"].to_pylist() == [1, 2, None, 3]


def test_a_name_that_is_no_text_is_no_traceback(student_bundle: Path, tmp_path: Path) -> None:
    source = tmp_path / "caf\udce9.tsv"
    write_tsv(source, [{"text": ""}, {"text": "hello"}])
    assert score(student_bundle, source, tmp_path / "out.csv").errors == 1


@pytest.mark.parametrize("inputs", [[], ["-", "in.tsv"]])
def test_inputs_that_are_none(inputs: list[str], student_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        score(student_bundle, inputs, tmp_path / "out.csv")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"engine": "rocket"}, "engine must be one of"),
        ({"progress": "loud"}, "progress must be one of"),
        ({"rows_per_file": 0}, "rows per file must be 1 or more"),
        ({"max_errors": -1}, "max errors must be 0 or more"),
        ({"format": "csv"}, "--format is of"),
        ({"address": "auto"}, "--address is a Ray cluster's"),
        ({"device": "tpu"}, "device must be one of"),
    ],
)
def test_settings_are_checked_when_made(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        ScoreSettings(**options)


def test_json_progress_is_a_line_each_and_ends_with_the_summary(
    student_bundle: Path, tmp_path: Path, understudy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.scoring.score_progress._SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(run_module, "SHARD_ROWS", 7)
    source = write_tsv(tmp_path / "in.tsv", [*ROWS, {"id": "bad", "text": ""}])
    result = understudy("score", student_bundle, source, "-o", tmp_path / "out.csv", "--progress", "json")
    *lines, last = [json.loads(line) for line in result.err.splitlines()]
    assert [line["rows"] for line in lines] == sorted(line["rows"] for line in lines)
    assert [line["percent"] for line in lines] == sorted(line["percent"] for line in lines)
    assert lines[-1]["percent"] == pytest.approx(100, abs=0.01)
    assert (lines[-1]["rows"], lines[-1]["errors"]) == (41, 1)
    assert all(line["done"] is False for line in lines)
    assert (last["done"], last["rows"], last["errors"]) == (True, 41, 1)
    assert last["first_error"].endswith("in.tsv, line 42: empty text")
    assert sum(last["labels"].values()) == 40
    assert last["tokens"] == lines[-1]["tokens"]
