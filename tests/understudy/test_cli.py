"""The command: every foreseeable fault is one line and the right exit code, and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from common.errors import UnderstudyError
from tests.conftest import INTENTS, make_model, messages, write_tsv

Run = Callable[..., Any]
GOOD = "text\tlabel\n" + "".join(f"{row['text']}\t{row['label']}\n" for row in messages() if row["label"] in INTENTS)


def _one_line(result: Any, code: int, reason: str) -> None:
    assert result.code == code, result
    assert reason in result.err, result.err
    assert result.err.startswith("understudy: ")
    assert result.err.count("\n") == 1, result.err


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("absent.tsv", None, "no such file"),
        ("t.tsv", b"", "is empty"),
        ("t.tsv", b"text\tlabel\n", "holds no rows"),
        ("t.tsv", b"words\tlabel\na\tb\n", "has no text column"),
        ("t.tsv", b"text\tkind\na\tb\n", "has no label column"),
        ("t.tsv", b"text\tlabel\na\tx\nb\tx\n", "every row has the label 'x'"),
        ("t.tsv", b"text\tlabel\na\tx\nb\ty\tz\n", "line 3: 3 fields where the header names 2"),
        ("t.tsv", b"text\tlabel\na\tx\nna\xefve\ty\n", "line 3: not UTF-8"),
        ("t.tsv", b"text\tlabel\na\tx\nb\0c\ty\n", "line 3: the text holds a NUL character"),
        ("t.tsv", b"text\tlabel\na\tx\n" + b"b" * 1_000_000 + b"\ty\n", "line 3: the text has 1,000,000 bytes"),
        ("t.tsv", b"text\tlabel\na\tx\n\ty\n", "line 3: empty text"),
        ("t.tsv", b"text\tlabel\na\tx\nb\t\n", "line 3: empty label"),
        ("t.csv", b'text,label\n"a,x\n', "line 2: not valid CSV"),
        ("t.parquet", b"PAR1 no", "is not a Parquet file"),
        ("t.xlsx", b"a", "unknown table format"),
    ],
)
def test_bad_training_tables(
    name: str,
    content: bytes | None,
    reason: str,
    understudy: Run,
    bert_base: Path,
    small_tables: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    before = sorted(tmp_path.iterdir())
    result = understudy(
        "finetune", "--model", bert_base, "--train", tmp_path / name, "--dev", small_tables[1], "-o", tmp_path / "out"
    )
    _one_line(result, 2, reason)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--model", "no/such-model"], "'no/such-model' is neither a directory"),
        (["--model", "{tmp}"], "is no model directory"),
        (["--text-column", "words"], "has no column 'words'"),
        (["--epochs", "0"], "epochs must lie between 1 and 100,000"),
        (["--learning-rate", "nan"], "learning_rate must lie between"),
        (["--metric", "matthew"], "the metric 'matthew' does not fit this task"),
        (["--multi-label", "--regression"], "exclude each other"),
        (["--regression"], "is not a number"),
        (["-o", "{tmp}/file/out"], "is no writable directory"),
    ],
)
def test_bad_arguments_of_finetune(
    arguments: list[str], reason: str, understudy: Run, bert_base: Path, small_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    train, dev = small_tables
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    result = understudy(
        "finetune", "--model", bert_base, "--train", train, "--dev", dev, "-o", tmp_path / "out", *given
    )
    _one_line(result, 2, reason)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("layers", "method", "reason"),
    [
        (4, "kd", "asked for 4, the teacher has 4"),
        (9, "pkd-skip", "asked for 9"),
        (0, "kd", "at least 1"),
        (2, "magic", "method must be one of"),
    ],
)
def test_bad_students(
    layers: int,
    method: str,
    reason: str,
    understudy: Run,
    bert_teacher: Path,
    small_tables: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    train, dev = small_tables
    result = understudy(
        "distill",
        "--teacher",
        bert_teacher,
        "--layers",
        layers,
        "--method",
        method,
        "--train",
        train,
        "--dev",
        dev,
        "-o",
        tmp_path / "student",
    )
    _one_line(result, 2, reason)
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_whose_labels_differ_is_refused(
    understudy: Run, small_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    teacher = make_model(tmp_path / "teacher", labels=("x", "y", "z"))
    train, dev = small_tables
    result = understudy(
        "distill",
        "--teacher",
        teacher,
        "--layers",
        2,
        "--init",
        "teacher-skip",
        "--train",
        train,
        "--dev",
        dev,
        "-o",
        tmp_path / "student",
    )
    _one_line(result, 2, "is not one of the model's 3 (x, y, z)")


def test_a_full_disk_is_one_line_and_leaves_nothing(
    understudy: Run, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tsv(tmp_path / "in.tsv", [{"text": "hello"}])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "out.tsv")

    monkeypatch.setattr("serve.scoring.journal.Journal.keep", full)
    result = understudy("score", bundle, tmp_path / "in.tsv", "-o", tmp_path / "out.tsv")
    _one_line(result, 1, "the disk is full")
    assert [path.name for path in tmp_path.iterdir()] == ["in.tsv"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(("saved", "kind"), [(PreTrainedModel, SafetensorError), (PreTrainedTokenizerBase, Exception)])
def test_a_full_disk_when_the_model_is_written_is_one_line(
    saved: type,
    kind: type[Exception],
    understudy: Run,
    bert_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "t.tsv").write_text(GOOD)

    def full(*_: object, **__: object) -> None:
        raise kind("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(saved, "save_pretrained", full)
    tables = ("--train", tmp_path / "t.tsv", "--dev", tmp_path / "t.tsv")
    result = understudy("finetune", *tables, "--model", bert_base, "--epochs", 1, "-o", tmp_path / "teacher")
    _one_line(result, 1, "teacher cannot be written (Error while serializing: I/O error: No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["t.tsv"]


def test_characters_that_the_terminal_has_not_are_told_otherwise(bundle: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-m", "understudy", "inspect", str(bundle)]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert b"\\u2026" in done.stdout, "the sign for what is left out"


def test_a_full_disk_behind_standard_output_is_no_traceback(bundle: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "understudy", "inspect", str(bundle)], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_damaged_bundle_is_one_line(understudy: Run, bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    content = bytearray((copy / "model.onnx").read_bytes())
    content[-1] ^= 1
    (copy / "model.onnx").write_bytes(content)
    table = write_tsv(tmp_path / "in.tsv", [{"text": "hello"}])
    for command in (["inspect", copy], ["serve", copy, "--port", 0], ["score", copy, table, "-o", tmp_path / "o.tsv"]):
        _one_line(understudy(*command), 2, "model.onnx does not match its sha256")


def test_usage_errors_are_exit_code_2(understudy: Run, tmp_path: Path) -> None:
    for arguments in (
        [],
        ["finetune"],
        ["nonsense"],
        ["serve", tmp_path, "--port", "99999"],
        ["serve", tmp_path, "--no"],
    ):
        result = understudy(*arguments)
        assert result.code == 2, arguments
        assert "Traceback" not in result.err


def test_help_is_exit_code_0(understudy: Run) -> None:
    for command in ("", "finetune", "distill", "sweep", "export", "serve", "score", "compare", "bench", "demo"):
        result = understudy(*command.split(), "--help")
        assert result.code == 0
        assert "Usage" in result.out


_CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.18 GiB of which 10.19 MiB is "
    "free. Process 805 has 66.00 MiB memory in use. If reserved but unallocated memory is large try setting\n"
)


@pytest.mark.parametrize(
    ("shortage", "told"),
    [
        # PyTorch's own error of a CPU: more than any machine can address.
        (lambda: torch.empty(1 << 50), "out of memory (tried to allocate 4503599627370496 bytes): a smaller batch"),
        (
            lambda: _raise(torch.OutOfMemoryError(_CUDA)),
            "out of memory (tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.18 GiB of which 10.19 MiB is "
            "free): a smaller batch, or a lower length limit, takes less",
        ),
        (
            lambda: _raise(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
            "out of memory (CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`): a ",
        ),
        (lambda: _raise(MemoryError()), "out of memory"),
    ],
)
def test_memory_that_runs_out_in_training_is_one_line(
    shortage: Callable[[], Any],
    told: str,
    understudy: Run,
    bert_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "t.tsv").write_text(GOOD)
    monkeypatch.setattr("distill.training.TrainingPass.__call__", lambda *_: shortage())
    tables = ("--train", tmp_path / "t.tsv", "--dev", tmp_path / "t.tsv")
    result = understudy("finetune", *tables, "--model", bert_base, "--epochs", 1, "-o", tmp_path / "teacher")
    _one_line(result, 1, told)
    assert [path.name for path in tmp_path.iterdir()] == ["t.tsv"]


def _raise(error: Exception) -> None:
    raise error


def test_an_interrupt_says_so_and_leaves_nothing(
    understudy: Run, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tsv(tmp_path / "in.tsv", [{"text": "hello"}])

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("serve.scoring.shard_scorer.classify_windows", interrupt)
    result = understudy("score", bundle, tmp_path / "in.tsv", "-o", tmp_path / "out.tsv")
    _one_line(result, 1, "interrupted; nothing half-written is left")
    assert [path.name for path in tmp_path.iterdir()] == ["in.tsv"]


def test_what_nobody_foresaw_is_not_hidden(understudy: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.inspection.Bundle.load", lambda _path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        understudy("inspect", bundle)


def test_every_error_has_its_code_status_and_exit_code() -> None:
    def tree(kind: type[UnderstudyError]) -> list[type[UnderstudyError]]:
        return [kind, *(below for child in kind.__subclasses__() for below in tree(child))]

    kinds = tree(UnderstudyError)
    assert {kind.status for kind in kinds} == {400, 401, 403, 404, 413, 422, 429, 499, 500, 503, 504}
    assert {kind.exit_code for kind in kinds} == {1, 2}
    codes = {kind.code: kind.status for kind in kinds}
    assert codes["overloaded"] == 429
    assert codes["deadline"] == 504
