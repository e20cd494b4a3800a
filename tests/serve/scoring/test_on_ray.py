"""Scoring on a real Ray cluster: the same bytes as on one machine, whoever dies meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from common.errors import InputError, WorkFailedError
from demo.messages import DEV, TRAIN
from serve.scoring import run as run_module
from serve.scoring.journal import Journal, ShardRecord
from serve.scoring.score import score
from serve.scoring.settings import ScoreSettings
from tests.conftest import messages, write_tsv

ROWS = [*messages(DEV), *messages(TRAIN)][:400]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of two worker nodes with a core each, and a head that does no work."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "SHARD_ROWS", 16)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of three tables, with a bad row."""
    directory = tmp_path_factory.mktemp("tables")
    for number, (start, end) in enumerate(((0, 250), (250, 260), (260, 400))):
        rows = [{**row, "text": "" if place == 300 else row["text"]} for place, row in enumerate(ROWS)][start:end]
        write_tsv(directory / f"{number}.tsv", rows)
    return directory


def _workers() -> list[int]:
    """The processes of the actors that score."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::") and b"_ShardActor" in name:
            found.append(int(process.name))
    return found


def test_a_worker_that_is_killed_loses_nothing(
    cluster: str, student_bundle: Path, tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score(student_bundle, tables, tmp_path / "here.csv")
    require = Journal.require
    killed: list[int] = []

    def kill_one(journal: Journal, record: ShardRecord) -> None:
        if not killed:
            killed.append(_workers()[0])
            os.kill(killed[0], signal.SIGKILL)
        require(journal, record)

    monkeypatch.setattr(Journal, "require", kill_one)
    settings = ScoreSettings(engine="ray", address=cluster)
    summary = score(student_bundle, tables, tmp_path / "ray.csv", settings)
    assert killed
    assert (summary.rows, summary.errors) == (400, 1)
    assert (tmp_path / "ray.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here.csv", "ray.csv"]


def test_what_one_machine_began_a_cluster_ends(
    cluster: str, student_bundle: Path, tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score(student_bundle, tables, tmp_path / "here.parquet")
    keep = Journal.keep

    def failing(journal: Journal, record: ShardRecord, part: bytes) -> None:
        if record.shard == (0, 9):
            raise WorkFailedError("the machine is gone")
        keep(journal, record, part)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "keep", failing)
        with pytest.raises(WorkFailedError, match="the machine is gone"):
            score(student_bundle, tables, tmp_path / "out.parquet")
    settings = ScoreSettings(engine="ray", address=cluster)
    assert score(student_bundle, tables, tmp_path / "out.parquet", settings).resumed_rows == 9 * 16
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "here.parquet").read_bytes()


def test_a_row_that_cannot_be_read_is_told_as_on_one_machine(
    cluster: str, student_bundle: Path, tmp_path: Path
) -> None:
    lines = ["text,n", *(f"hello {number},1" for number in range(100)), "one,two,three"]
    (tmp_path / "in.csv").write_text("\n".join(lines) + "\n")
    settings = ScoreSettings(engine="ray", address=cluster)
    with pytest.raises(InputError, match=r"in\.csv, line 102: 3 fields where the header names 2"):
        score(student_bundle, tmp_path / "in.csv", tmp_path / "out.csv", settings)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"threads": 2}, "at most the 1 cores of the cluster's largest node"),
        ({"device": "cuda"}, "no node .* has a GPU"),
    ],
)
def test_what_the_cluster_has_not_is_refused(
    options: dict[str, Any], reason: str, cluster: str, student_bundle: Path, tables: Path, tmp_path: Path
) -> None:
    settings = ScoreSettings(engine="ray", address=cluster, **options)
    with pytest.raises(InputError, match=reason):
        score(student_bundle, tables, tmp_path / "out.csv", settings)
    assert list(tmp_path.iterdir()) == []


def test_standard_input_is_no_clusters(student_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="standard input"):
        score(student_bundle, "-", tmp_path / "out.csv", ScoreSettings(engine="ray"))


def test_no_cluster_is_one_line(
    student_bundle: Path, tables: Path, tmp_path: Path, understudy: Callable[..., Any]
) -> None:
    command = ["score", student_bundle, tables, "-o", tmp_path / "out.csv", "--engine", "ray"]
    result = understudy(*command, "--address", "127.0.0.1:1")
    assert result.code == 1
    assert result.err.startswith("understudy: no Ray cluster at 127.0.0.1:1")
    assert len(result.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
