"""Scoring from an object store into one: a real S3 server on this machine."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError, WorkFailedError
from demo.messages import DEV
from serve.scoring import run as run_module
from serve.scoring.journal import Journal
from serve.scoring.score import score
from serve.scoring.settings import ScoreSettings
from tests.conftest import messages, write_tsv
from tests.s3 import Bucket


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "SHARD_ROWS", 7)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_tsv(tmp_path / "in.tsv", messages(DEV)[:30])


def test_from_a_store_into_a_store_is_what_it_is_here(
    student_bundle: Path, table: Path, s3: Bucket, tmp_path: Path
) -> None:
    source = s3.put("in/rows.tsv", table.read_bytes())
    score(student_bundle, table, tmp_path / "here.csv")
    score(student_bundle, source, s3.uri("out/there.csv"))
    assert s3.get("out/there.csv") == (tmp_path / "here.csv").read_bytes()
    assert s3.keys() == ["in/rows.tsv", "out/there.csv"]
    with pytest.raises(InputError, match="exists: choose another output"):
        score(student_bundle, source, s3.uri("out/there.csv"))
    with pytest.raises(InputError, match="is the input itself"):
        score(student_bundle, source, source, ScoreSettings(overwrite=True))


def test_a_stopped_run_goes_on_in_a_store(
    student_bundle: Path, table: Path, s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score(student_bundle, table, tmp_path / "here.csv")
    keep = Journal.keep

    def failing(journal: Journal, record: Any, part: bytes) -> None:
        if record.shard[1] == 2:
            raise WorkFailedError("the machine is gone")
        keep(journal, record, part)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "keep", failing)
        with pytest.raises(WorkFailedError):
            score(student_bundle, table, s3.uri("out.csv"))
    stored = s3.keys()
    assert [key for key in stored if key.endswith(".part")] == [
        f".out.csv.partial/000000-{number:08d}.part" for number in range(2)
    ]
    assert score(student_bundle, table, s3.uri("out.csv")).resumed_rows == 14
    assert s3.get("out.csv") == (tmp_path / "here.csv").read_bytes()
    assert s3.keys() == ["out.csv"]


def test_a_directory_in_a_store(student_bundle: Path, table: Path, s3: Bucket) -> None:
    settings = ScoreSettings(rows_per_file=14, format="csv")
    for number in range(2):
        s3.put(f"in/{number}.tsv", table.read_bytes())
    score(student_bundle, s3.uri("in/*.tsv"), s3.uri("out"), settings)
    names = [f"out/part-{number:05d}.csv" for number in range(5)]
    stored = s3.keys()
    assert [key for key in stored if key.startswith("out/")] == ["out/_score.json", *names]
    assert json.loads(s3.get("out/_score.json"))["rows"] == 60
    rows = [row for name in names for row in csv.DictReader(io.StringIO(s3.get(name).decode()))]
    assert [row["text"] for row in rows] == [row["text"] for row in messages(DEV)[:30]] * 2
    score(student_bundle, s3.uri("out"), s3.uri("again.jsonl"), ScoreSettings(prefix="again_"))
    again = ScoreSettings(rows_per_file=100, format="csv", overwrite=True)
    score(student_bundle, s3.uri("in/0.tsv"), s3.uri("out"), again)
    stored = s3.keys()
    assert [key for key in stored if key.startswith("out/")] == ["out/_score.json", "out/part-00000.csv"]
    with pytest.raises(InputError, match=r"holds the input .*in/0\.tsv"):
        score(student_bundle, s3.uri("in/0.tsv"), s3.uri("in"), again)
    with pytest.raises(InputError, match="was not made by Understudy"):
        score(student_bundle, table, s3.uri("in"), again)


def test_a_directory_in_a_store_that_is_half_written_is_ended(
    student_bundle: Path, table: Path, s3: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ScoreSettings(rows_per_file=14, format="csv", overwrite=True)
    score(student_bundle, table, s3.uri("whole"), settings)
    part = Journal.part

    def failing(journal: Journal, shard: Any, sha256: str) -> bytes:
        if shard[1] == 3:
            raise WorkFailedError("the machine is gone")
        return part(journal, shard, sha256)

    for overwrite in (False, True):
        settings = replace(settings, overwrite=overwrite)
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "part", failing)
            with pytest.raises(WorkFailedError):
                score(student_bundle, table, s3.uri("out"), settings)
        # Another run has no business there; the same one goes on, told to overwrite or not.
        assert score(student_bundle, table, s3.uri("out"), replace(settings, overwrite=False)).resumed_rows == 30
        for number in range(3):
            name = f"part-{number:05d}.csv"
            assert s3.get(f"out/{name}") == s3.get(f"whole/{name}")
        assert not [key for key in s3.keys() if ".partial" in key]  # noqa: SIM118  (no dict)


def test_a_whole_bucket_is_not_replaced(student_bundle: Path, table: Path, s3: Bucket) -> None:
    bucket = s3.uri("").replace("/?", "?")
    with pytest.raises(InputError, match="is a whole bucket, which is not replaced"):
        score(student_bundle, table, bucket, ScoreSettings(rows_per_file=10, format="csv", overwrite=True))
    assert s3.keys() == []


def test_no_bucket_is_one_line(student_bundle: Path, table: Path, s3: Bucket) -> None:
    with pytest.raises(InputError, match="no such bucket"):
        score(student_bundle, table, s3.uri("out.csv", bucket="nowhere"))
    with pytest.raises(InputError, match="no such bucket"):
        score(student_bundle, s3.uri("in.csv", bucket="nowhere"), s3.uri("out.csv"))


def test_a_refused_run_leaves_anothers_journal_in_a_store(
    student_bundle: Path, teacher_bundle: Path, table: Path, s3: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = Journal.keep

    def meet(journal: Journal, record: Any, part: bytes) -> None:
        if record.shard[1] == 0:
            # Nothing is done yet, and only the run itself is written down.
            with pytest.raises(InputError, match="holds another run"):
                score(teacher_bundle, table, s3.uri("out.csv"))
            assert s3.keys() == [".out.csv.partial/run.json"]
        keep(journal, record, part)

    monkeypatch.setattr(Journal, "keep", meet)
    assert score(student_bundle, table, s3.uri("out.csv")).rows == 30
    assert s3.keys() == ["out.csv"]
