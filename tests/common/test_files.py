"""Outputs appear whole or not at all, and nothing is replaced that Understudy did not make."""

import errno
import json
import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError, UnderstudyError
from common.files import (
    MARKERS,
    check_output,
    durable_file,
    require_file,
    staged_directory,
    staged_file,
    write_json,
)

Stage = Callable[..., AbstractContextManager[Path]]
STAGES = pytest.mark.parametrize("stage", [staged_file, staged_directory])


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below `folder` with its bytes, None for a directory."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def fill(staging: Path, text: str = "new") -> None:
    (staging / "part.txt" if staging.is_dir() else staging).write_text(text)


def made(path: Path, marker: str = "understudy.json") -> Path:
    """A directory such as Understudy makes."""
    with staged_directory(path) as staging:
        write_json(staging / marker, {"made_by": "understudy"})
        (staging / "model.onnx").write_text("old")
    return path


def fail_rename(monkeypatch: pytest.MonkeyPatch, error: BaseException, call: int = 1) -> None:
    """Makes the given renaming fail; those before it and after it succeed."""
    calls = 0
    for name in ("replace", "rename"):
        genuine = getattr(os, name)

        def rename(*paths: Any, genuine: Callable[..., None] = genuine, **options: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == call:
                raise error
            genuine(*paths, **options)

        monkeypatch.setattr(os, name, rename)


def run(stage: AbstractContextManager[Path], error: BaseException | None = None) -> None:
    """Stages something and, where an error is given, fails after it."""
    with stage as staging:
        fill(staging)
        if error is not None:
            raise error


# Staging


@STAGES
def test_the_output_appears_when_the_block_ends(tmp_path: Path, stage: Stage) -> None:
    output = tmp_path / "deep" / "er" / "out.csv"
    with stage(output) as staging:
        assert staging.parent == output.parent
        assert staging.suffix == ".csv" or staging.is_dir()
        fill(staging)
        assert not output.exists()
    assert list(output.parent.iterdir()) == [output]
    assert (output / "part.txt" if output.is_dir() else output).read_text() == "new"


@STAGES
@pytest.mark.parametrize(
    "error", [RuntimeError("x"), KeyboardInterrupt(), SystemExit(1), OSError(errno.ENOSPC, "full")]
)
def test_nothing_is_left_behind_by_a_block_that_fails(tmp_path: Path, stage: Stage, error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        run(stage(tmp_path / "out.csv"), error)
    assert raised.value is error
    assert contents(tmp_path) == {}


@STAGES
@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt()])
def test_directories_made_for_an_output_go_with_it(tmp_path: Path, stage: Stage, error: BaseException) -> None:
    with pytest.raises(type(error)):
        run(stage(tmp_path / "deep" / "er" / "out.csv"), error)
    assert contents(tmp_path) == {}


def test_a_failing_block_leaves_the_old_output_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("old")
    made(tmp_path / "out")
    before = contents(tmp_path)
    for stage, name in ((staged_file, "out.csv"), (staged_directory, "out")):
        with pytest.raises(KeyboardInterrupt):
            run(stage(tmp_path / name, overwrite=True), KeyboardInterrupt())
    assert contents(tmp_path) == before


def test_an_old_output_is_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("old and longer")
    made(tmp_path / "out")
    for stage, name in ((staged_file, "out.csv"), (staged_directory, "out")):
        with stage(tmp_path / name, overwrite=True) as staging:
            fill(staging)
    assert contents(tmp_path) == {"out.csv": b"new", "out": None, "out/part.txt": b"new"}


def test_an_empty_directory_is_filled_without_asking(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with staged_directory(tmp_path / "out") as staging:
        fill(staging)
    assert contents(tmp_path) == {"out": None, "out/part.txt": b"new"}


@STAGES
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), OSError(errno.EACCES, "no"), KeyboardInterrupt()])
def test_nothing_is_left_behind_when_the_last_step_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Stage, error: BaseException
) -> None:
    with monkeypatch.context() as patch:
        fail_rename(patch, error)
        with pytest.raises((OSError, UnderstudyError, KeyboardInterrupt)):
            run(stage(tmp_path / "out.csv"))
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("error", [OSError(errno.EBUSY, "busy"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", [1, 2])
def test_the_old_directory_survives_a_failing_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, error: BaseException
) -> None:
    """Neither moving the old one away nor moving the new one in may lose it or leave a copy beside it."""
    made(tmp_path / "out")
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        fail_rename(patch, error, call)
        with pytest.raises((OSError, UnderstudyError, KeyboardInterrupt)):
            run(staged_directory(tmp_path / "out", overwrite=True))
    assert contents(tmp_path) == before


def test_the_working_directory_as_output_is_filled_or_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`-o .` in a new directory: it cannot be exchanged by renaming."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    started = False
    try:
        with staged_directory(Path(".")) as staging:
            started = True
            fill(staging)
    except InputError:
        assert not started
        assert contents(tmp_path) == {"work": None}
    else:
        assert contents(tmp_path) == {"work": None, "work/part.txt": b"new"}


def test_a_mount_point_as_output_is_filled_or_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's volume: `-o /output`, empty, and no renaming moves it."""
    volume = tmp_path / "volume"
    volume.mkdir()
    started = False
    genuine_ismount = os.path.ismount
    with monkeypatch.context() as patch:
        for name in ("replace", "rename"):
            genuine = getattr(os, name)

            def rename(source: Any, target: Any, genuine: Callable[..., None] = genuine) -> None:
                if volume in (Path(source), Path(target)):
                    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(source))
                genuine(source, target)

            patch.setattr(os, name, rename)
        patch.setattr(os.path, "ismount", lambda path: Path(path) == volume or genuine_ismount(path))
        patch.setattr(Path, "is_mount", os.path.ismount)
        try:
            with staged_directory(volume) as staging:
                started = True
                fill(staging)
        except InputError:
            assert not started
        else:
            assert (volume / "part.txt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["volume"]


def test_outputs_have_the_permissions_of_ordinary_files(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        for stage, name in ((staged_file, "out.csv"), (staged_directory, "out")):
            with stage(tmp_path / name) as staging:
                fill(staging)
                if staging.is_dir():
                    (staging / "deep").mkdir(mode=0o700)
                    (staging / "deep" / "weights").touch(mode=0o600)
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "out.csv").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "out" / "deep").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "out" / "deep" / "weights").stat().st_mode) == 0o640


@STAGES
def test_a_directory_that_another_process_makes_meanwhile_is_used(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new").mkdir()
    exists = Path.exists
    seen = []

    def late(path: Path) -> bool:
        if path == tmp_path / "new":
            seen.append(path)
            return len(seen) != 2  # `check_output` sees it, `parents_of` does not yet
        return exists(path)

    monkeypatch.setattr(Path, "exists", late)
    with stage(tmp_path / "new" / "out") as staging:
        fill(staging)
    assert len(seen) >= 2
    assert exists(tmp_path / "new" / "out")


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    for path in (tmp_path / name, tmp_path / name / "out"):
        with pytest.raises(InputError, match="must be valid UTF-8"):
            check_output(path, directory=True, overwrite=False)
        check_output(path, directory=False, overwrite=False)
    write_json(tmp_path / "record.json", {"made from": name})
    assert json.loads((tmp_path / "record.json").read_text(encoding="utf-8")) == {"made from": "caf?"}


def test_a_pipe_or_a_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/null")):
        with pytest.raises(InputError, match="is a pipe or a device: choose another output"):
            check_output(path, directory=False, overwrite=True)


def test_a_link_to_an_empty_directory_stays_a_link(tmp_path: Path) -> None:
    """The link says where the space is; the output belongs behind it."""
    (tmp_path / "big-disk").mkdir()
    (tmp_path / "out").symlink_to("big-disk")
    with staged_directory(tmp_path / "out") as staging:
        fill(staging)
    assert (tmp_path / "out" / "part.txt").read_text() == "new"
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "big-disk" / "part.txt").is_file()


# What may be replaced


def test_a_new_path_is_accepted_and_nothing_is_made(tmp_path: Path) -> None:
    check_output(tmp_path / "a" / "b" / "out", directory=True, overwrite=False)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("marker", MARKERS)
def test_what_understudy_made_is_replaced_only_when_asked(tmp_path: Path, marker: str) -> None:
    output = made(tmp_path / "out", marker)
    with pytest.raises(InputError, match=r"out exists: .*--overwrite"):
        check_output(output, directory=True, overwrite=False)
    check_output(output, directory=True, overwrite=True)


def test_an_existing_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("old")
    with pytest.raises(InputError, match="--overwrite"), staged_file(tmp_path / "out.csv"):
        pytest.fail("the work started")
    with staged_file(tmp_path / "out.csv", overwrite=True) as staging:
        fill(staging)
    assert (tmp_path / "out.csv").read_text() == "new"


def test_a_directory_of_someone_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    before = contents(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(InputError), staged_directory(tmp_path / "thesis", overwrite=overwrite):
            pytest.fail("the work started")
    assert contents(tmp_path) == before


def test_a_file_of_a_common_name_does_not_make_a_directory_ours(tmp_path: Path) -> None:
    """Many programs write a results.json; replacing the directory deletes everything else in it."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "results.json").write_text('{"accuracy": 0.9}')
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    with pytest.raises(InputError, match="not made by Understudy"):
        check_output(tmp_path / "thesis", directory=True, overwrite=True)


def test_a_file_is_never_replaced_by_a_directory(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError), staged_directory(tmp_path / "notes.txt", overwrite=True) as staging:
        fill(staging)
    assert contents(tmp_path) == {"notes.txt": b"mine"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_is_never_replaced_by_a_file(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "empty").mkdir()
    made(tmp_path / "out")
    before = contents(tmp_path)
    for name in ("empty", "out"):
        with pytest.raises(InputError), staged_file(tmp_path / name, overwrite=overwrite):
            pytest.fail("the work started")
    assert contents(tmp_path) == before


@STAGES
def test_a_dangling_link_stays_one_and_its_target_is_written(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("elsewhere")
    with stage(tmp_path / "out") as staging:
        fill(staging)
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "elsewhere").exists()


def test_a_parent_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="no writable directory"):
        check_output(tmp_path / "file" / "deep" / "out", directory=True, overwrite=False)


@pytest.mark.parametrize("existing", ["nothing", "empty directory", "our directory", "file"])
def test_a_parent_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: str
) -> None:
    """The staging stands beside the output, so the parent must be writable whatever is there."""
    output = tmp_path / "locked" / "out"
    output.parent.mkdir()
    if existing == "empty directory":
        output.mkdir()
    elif existing == "our directory":
        made(output)
    elif existing == "file":
        output.write_text("old")
    genuine = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != output.parent and genuine(path, mode))
    with pytest.raises(InputError, match="cannot be written"):
        check_output(output, directory=True, overwrite=True)


def test_a_name_longer_than_any_file_may_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="longer than a file's may be"):
        check_output(tmp_path / ("x" * 300), directory=True, overwrite=False)
    with pytest.raises(InputError, match="longer than a file's may be"):
        require_file(tmp_path / ("x" * 300))


def test_a_durable_file_is_the_new_one_or_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "state"
    # What a killed process left of its own attempt is in nobody's way.
    (tmp_path / "state.partial").write_text("half and more")
    with durable_file(path) as file:
        file.write_text("one")
        assert not path.exists()
    assert contents(tmp_path) == {"state": b"one"}
    with pytest.raises(UnicodeEncodeError), durable_file(path) as file:
        file.write_text("half \ud800", encoding="utf-8")
    assert contents(tmp_path) == {"state": b"one"}
    with durable_file(path) as file:
        file.write_text("two")
    assert contents(tmp_path) == {"state": b"two"}
