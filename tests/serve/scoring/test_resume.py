"""A run that is killed goes on, and ends with the bytes of one that was not."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError, WorkFailedError
from common.location import Location
from common.tables import TableReader
from demo.messages import DEV, TRAIN
from serve.scoring import run as run_module
from serve.scoring.journal import Journal
from serve.scoring.score import score
from serve.scoring.settings import ScoreSettings
from tests.conftest import messages, write_tsv
from tests.fresh_process import exit_code

_chunks = TableReader.chunks

# In the long form every moment of a run is met several times.
KILLS = 24 if os.environ.get("UNDERSTUDY_SOAK") else 6
SHARD_ROWS = 24
OUTPUTS: dict[str, dict[str, Any]] = {
    "out.csv": {},
    "out.jsonl.gz": {"all_scores": True},
    "out.parquet": {},
    "files": {"rows_per_file": 100, "format": "tsv.zst"},
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 400 rows, a few of them bad."""
    rows = [*messages(DEV), *messages(TRAIN)][:400]
    for number in range(0, 400, 37):
        rows[number] = {**rows[number], "text": ""}
    return write_tsv(tmp_path_factory.mktemp("table") / "in.tsv", rows)


@pytest.fixture(scope="module")
def bundle(student_bundle: Path) -> Path:
    """One whose answers differ."""
    return student_bundle


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "SHARD_ROWS", SHARD_ROWS)


def _content(path: Path) -> dict[str, bytes]:
    """Every file of an output, but for the time that a run took."""
    if path.is_file():
        return {"": path.read_bytes()}
    files = {file.name: file.read_bytes() for file in path.iterdir()}
    told = json.loads(files.pop("_score.json"))
    del told["seconds"], told["rows_per_second"], told["resumed_rows"]
    return {**files, "told": json.dumps(told).encode()}


def _journal(output: Path) -> Journal:
    return Journal(Location.parse(output.with_name(f".{output.name}.partial")))


def _score_until(seconds: float, *given: Any) -> None:
    run_module.SHARD_ROWS = SHARD_ROWS
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()
    score(*given)
    # A process that is killed when all is done and cleared up has nothing to go on with.
    timer.cancel()


def _die_in(step: str, *given: Any) -> None:
    """Scores, and is killed at a step: when a part is half written, or when a file of the output is."""
    run_module.SHARD_ROWS = SHARD_ROWS
    written = Path.write_bytes

    def half(path: Path, data: bytes) -> int:
        if ".part." in path.name and int(path.name[7:15]) == 5:
            written(path, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return written(path, data)

    def never(*_: Any) -> bytes:
        os.kill(os.getpid(), signal.SIGKILL)
        return b""

    if step == "part":
        Path.write_bytes = half  # type: ignore[method-assign]
    else:
        read = Journal.part
        Journal.part = lambda journal, shard, *given: (never if shard[1] == 3 else read)(journal, shard, *given)  # type: ignore[method-assign]
    score(*given)


def test_killed_at_any_moment_it_ends_with_the_same_bytes(bundle: Path, table: Path, tmp_path: Path) -> None:
    draw = random.Random(5)
    took = {}
    for name, options in OUTPUTS.items():
        started = time.monotonic()
        whole = tmp_path / "whole" / name
        assert exit_code(_score_until, 60.0, bundle, table, whole, ScoreSettings(**options)) == 0
        took[name] = time.monotonic() - started
    kills = 0
    for chain, (name, options) in enumerate(itertools.cycle(OUTPUTS.items())):
        if kills >= KILLS:
            break
        settings = ScoreSettings(**options)
        output = tmp_path / f"{chain}" / name
        # Late enough that a run gets somewhere, and the next one further; some come after all is done.
        moments = [draw.uniform(0.5, 1.0) * took[name] for _ in range(20)]
        for seconds in [*moments, 60.0]:
            code = exit_code(_score_until, seconds, bundle, table, output, settings)
            # So it is between the last of the clearing up and the end: what is there is whole, and is not replaced.
            finished = code == 1 and output.exists() and not _journal(output).has_output
            if code == 0 or finished:
                break
            assert code == -signal.SIGKILL
            kills += 1
            # Whole or not there, also where it was clearing up.
            assert not output.exists() or _content(output) == _content(tmp_path / "whole" / name)
        assert code == 0 or finished
        assert _content(output) == _content(tmp_path / "whole" / name)
        assert finished or [path.name for path in output.parent.iterdir()] == [name]


@pytest.mark.parametrize("step", ["part", "output"])
@pytest.mark.parametrize("name", ["out.parquet", "files"])
def test_killed_while_it_writes_it_goes_on(step: str, name: str, bundle: Path, table: Path, tmp_path: Path) -> None:
    settings = ScoreSettings(**OUTPUTS[name])
    assert exit_code(_die_in, step, bundle, table, tmp_path / name, settings) == -signal.SIGKILL
    assert not (tmp_path / name).exists()
    resumed = score(bundle, table, tmp_path / name, settings)
    undisturbed = score(bundle, table, tmp_path / "whole" / name, settings)
    assert (resumed.resumed_rows, undisturbed.resumed_rows) == (120 if step == "part" else 400, 0)
    assert _content(tmp_path / name) == _content(tmp_path / "whole" / name)


class _StopError(Exception):
    pass


def _stopped_after(shards: int, monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> None:
    """Does the work, and ends it after some shards as a fault would."""
    keep = Journal.keep
    kept = []

    def keep_some(journal: Journal, *given: Any) -> None:
        if len(kept) == shards:
            raise _StopError
        kept.append(given)
        keep(journal, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "keep", keep_some)
        with pytest.raises(_StopError):
            work()


def test_it_does_not_depend_on_the_number_of_cores(bundle: Path, table: Path, tmp_path: Path) -> None:
    score(bundle, table, tmp_path / "one.csv", ScoreSettings(threads=1))
    score(bundle, table, tmp_path / "all.csv")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "all.csv").read_bytes()


def test_killed_when_the_output_is_whole_it_ends_well(
    bundle: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.csv"
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "discard", lambda _: None)
        score(bundle, table, output)
    before = output.read_bytes()
    assert score(bundle, table, output).resumed_rows == 400
    assert output.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    with pytest.raises(InputError, match="exists"):
        score(bundle, table, output)


def test_an_output_of_somebody_else_is_not_taken_for_ours(
    bundle: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.csv"
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "discard", lambda _: None)
        score(bundle, table, output)
    output.write_text("mine")
    with pytest.raises(InputError, match="exists"):
        score(bundle, table, output)
    assert output.read_text() == "mine"
    score(bundle, table, output, ScoreSettings(overwrite=True, all_scores=True))
    assert output.read_text().startswith("text,label,prediction,score,truncated,scores,error")


def test_only_what_is_missing_is_scored(
    bundle: Path,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out.csv"
    _stopped_after(3, monkeypatch, lambda: score(bundle, table, output))
    summary = score(bundle, table, output)
    assert (summary.rows, summary.resumed_rows, summary.errors) == (400, 72, 11)
    assert "Going on after 72 rows" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_a_changed_input_bundle_or_setting_is_refused(
    bundle: Path, teacher_bundle: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(shutil.copy(table, tmp_path / "in.tsv"))
    output = tmp_path / "out.csv"
    _stopped_after(2, monkeypatch, lambda: score(bundle, source, output))
    with pytest.raises(InputError, match=r"\.out\.csv\.partial holds another run \(bundle was"):
        score(teacher_bundle, source, output)
    with pytest.raises(InputError, match="truncate was true, is false"):
        score(bundle, source, output, ScoreSettings(truncate=False))
    with pytest.raises(InputError, match="inputs was"):
        score(bundle, table, output)
    before = source.stat()
    content = source.read_bytes()
    source.write_bytes(content.replace(b"the", b"teh", 1))
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(InputError, match=r"the input .*in\.tsv has changed"):
        score(bundle, source, output)
    assert score(bundle, source, output, ScoreSettings(overwrite=True)).resumed_rows == 0


def test_an_input_that_changes_meanwhile_ends_the_run(
    bundle: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(shutil.copy(table, tmp_path / "in.tsv"))
    keep = Journal.keep

    def touch(journal: Journal, *given: Any) -> None:
        os.utime(source, ns=(0, 0))
        keep(journal, *given)

    monkeypatch.setattr(Journal, "keep", touch)
    with pytest.raises(InputError, match="changed while it was read"):
        score(bundle, source, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_a_damaged_part_is_made_anew(
    bundle: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.csv"
    score(bundle, table, tmp_path / "whole.csv")
    _stopped_after(3, monkeypatch, lambda: score(bundle, table, output))
    _, second, third = sorted((tmp_path / ".out.csv.partial").glob("*.part"))
    second.write_bytes(second.read_bytes()[:-3] + b"no\n")
    third.write_bytes(b"nothing that was written\n")
    with pytest.raises(WorkFailedError, match="was damaged and is removed"):
        score(bundle, table, output)
    assert not output.exists()
    score(bundle, table, output)
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_shards_that_are_cut_otherwise_are_not_taken(
    bundle: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.csv"
    score(bundle, table, tmp_path / "whole.csv")
    _stopped_after(3, monkeypatch, lambda: score(bundle, table, output))
    monkeypatch.setattr(TableReader, "chunks", lambda reader, size, needed: _chunks(reader, size - 1, needed))
    with pytest.raises(InputError, match="is cut into other shards than before"):
        score(bundle, table, output)
    monkeypatch.setattr(TableReader, "chunks", _chunks)
    assert score(bundle, table, output).resumed_rows == 0
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_run_in_the_place_of_another_keeps_others_out(
    bundle: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.csv"
    _stopped_after(2, monkeypatch, lambda: score(bundle, table, output))
    keep = Journal.keep

    def meet(journal: Journal, *given: Any) -> None:
        with pytest.raises(InputError, match="another run is writing"):
            score(bundle, table, output)
        keep(journal, *given)

    monkeypatch.setattr(Journal, "keep", meet)
    score(bundle, table, output, ScoreSettings(overwrite=True, all_scores=True))
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_two_runs_at_one_output_do_not_meet(bundle: Path, table: Path, tmp_path: Path) -> None:
    from common.locks import held_directory

    with (
        held_directory(tmp_path / ".out.csv.partial"),
        pytest.raises(InputError, match="another run is writing"),
    ):
        score(bundle, table, tmp_path / "out.csv")


def test_an_interrupt_keeps_what_is_done_and_says_so(
    bundle: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, understudy: Callable[..., Any]
) -> None:
    keep = Journal.keep

    def interrupted(journal: Journal, record: Any, part: bytes) -> None:
        if record.shard[1] == 2:
            raise KeyboardInterrupt
        keep(journal, record, part)

    monkeypatch.setattr(Journal, "keep", interrupted)
    result = understudy("score", bundle, table, "-o", tmp_path / "out.csv")
    assert result.code == 1
    assert "48 rows are kept in" in result.out
    assert "the same command goes on from there" in result.out
    assert "Traceback" not in result.err
    monkeypatch.undo()
    monkeypatch.setattr(run_module, "SHARD_ROWS", SHARD_ROWS)
    assert "Going on after 48 rows" in understudy("score", bundle, table, "-o", tmp_path / "out.csv").out


def test_errors_beyond_the_limit_stop_it_and_a_larger_limit_goes_on(
    bundle: Path, table: Path, tmp_path: Path, understudy: Callable[..., Any]
) -> None:
    command = ["score", bundle, table, "-o", tmp_path / "out.csv", "--max-errors"]
    result = understudy(*command, 3)
    assert result.code == 1
    assert "4 rows have an error, more than --max-errors 3 (" in result.err
    assert "in.tsv, line 2: empty text)" in result.err
    assert not (tmp_path / "out.csv").exists()
    result = understudy(*command, 11)
    assert result.code == 0
    assert "Going on after" in result.out
    assert "400 rows, 11 with an error" in result.out
    assert "The first error: " in result.out
