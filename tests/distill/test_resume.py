"""Runs that are killed and asked for again: the same bits as without the break, or one clear line why not."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from common import files
from common.errors import InputError, WorkFailedError
from common.locks import held_directory
from distill import checkpoint as checkpoint_module
from distill import result
from distill.checkpoint import Checkpoint
from distill.distillation import distill
from distill.finetuning import finetune
from distill.models import load_with_fresh
from distill.record import TrainingRecord
from distill.settings import DistillationSettings, TrainingSettings
from tests.conftest import messages, write_tsv
from tests.fresh_process import exit_code

# 12 steps an epoch, with dropout.
TRAINING = TrainingSettings(epochs=2, batch_size=8, learning_rate=1e-3, max_length=64)


def _run(
    kind: str, model: Path, tables: tuple[Path, Path], output: Path, training: TrainingSettings, **more: Any
) -> TrainingRecord:
    train, dev = map(str, tables)
    if kind != "distill":
        return finetune(str(model), train, dev, output, training, regression=kind == "numbers", **more)
    settings = DistillationSettings(2, "pkd-skip", "teacher-skip", dim_weight=0.5, training=training)
    return distill(str(model), train, dev, output, settings, **more)


def _run_and_die(log: Path, every: int, die_at_step: int, die_in_save: int, *given: Any) -> None:
    """In a process of its own: saves after every so many steps, and is killed by SIGKILL where it is asked to be."""
    calls = {"due": 0, "step": 0, "save": 0}
    step, save = torch.optim.AdamW.step, torch.save

    def count(name: str) -> int:
        calls[name] += 1
        return calls[name]

    def deadly_step(self: Any, *arguments: Any) -> Any:
        if count("step") == die_at_step:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *arguments)

    def deadly_save(value: Any, path: Path) -> None:
        save(value, path)
        if count("save") == die_in_save:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    # What a process wrote outlives it; to wait for the disk saves it from a power cut alone, and is slow.
    files._sync = lambda _path: None
    torch.optim.AdamW.step = deadly_step  # type: ignore[method-assign]
    torch.save = deadly_save  # type: ignore[assignment]
    Checkpoint.due = property(lambda _: count("due") % every == 0)  # type: ignore[assignment, method-assign]
    with log.open("a") as file, contextlib.redirect_stdout(file):
        _run(*given)


def _ended(log: Path, every: int, die_at_step: int, die_in_save: int, *given: Any) -> int:
    return exit_code(_run_and_die, log, every, die_at_step, die_in_save, *given)


def _same_end(first: Path, second: Path) -> None:
    """The same weights, and the same steps on the way to them."""
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    records = [json.loads((path / "distillation.json").read_text()) for path in (first, second)]
    for name in ("steps", "epochs", "best_epoch", "best_dev"):
        assert records[0][name] == records[1][name]


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, bert_base: Path, bert_teacher: Path, small_tables: tuple[Path, Path]
) -> Path:
    """The models `finetune` and `distill`, of runs that nothing stopped."""
    directory = tmp_path_factory.mktemp("undisturbed")
    for kind, model in (("finetune", bert_base), ("distill", bert_teacher)):
        _run(kind, model, small_tables, directory / kind, TRAINING)
    return directory


@pytest.mark.parametrize(
    ("kind", "every", "deaths"),
    # The steps at which one process after the other dies: at once, before and after checkpoints, at an epoch's ends.
    [("finetune", 1, (4, 9)), ("finetune", 5, (3, 13)), ("distill", 7, (20, 3))],
)
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(
    kind: str,
    every: int,
    deaths: tuple[int, ...],
    undisturbed: Path,
    bert_base: Path,
    bert_teacher: Path,
    small_tables: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    model = bert_base if kind == "finetune" else bert_teacher
    given = (kind, model, small_tables, tmp_path / "killed", TRAINING)
    log = tmp_path / "log"
    for death in deaths:
        assert _ended(log, every, death, 0, *given) == -signal.SIGKILL
        assert not (tmp_path / "killed").exists()
    assert _ended(log, every, 0, 0, *given) == 0
    _same_end(undisturbed / kind, tmp_path / "killed")
    expected, at = [], 0
    for death in deaths:
        at += (death - 1) // every * every
        expected += [f"Going on after step {at}, from {tmp_path / '.killed.checkpoint'}"] if at else []
    assert [line for line in log.read_text().splitlines() if line.startswith("Going on")] == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "log"]


def test_a_run_on_numbers_goes_on_as_well(bert_base: Path, tmp_path: Path) -> None:
    rows = [{"text": row["text"], "label": 3 * len(row["text"])} for row in messages()[:96]]
    table = write_tsv(tmp_path / "numbers.tsv", rows)
    _run("numbers", bert_base, (table, table), tmp_path / "whole", TRAINING)
    given = ("numbers", bert_base, (table, table), tmp_path / "killed", TRAINING)
    assert _ended(tmp_path / "log", 5, 19, 0, *given) == -signal.SIGKILL
    assert _ended(tmp_path / "log", 5, 0, 0, *given) == 0
    assert "Going on after step 15," in (tmp_path / "log").read_text()
    _same_end(tmp_path / "whole", tmp_path / "killed")


def test_a_run_killed_while_it_saves_goes_on_from_the_save_before(
    undisturbed: Path, bert_base: Path, small_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    given = ("finetune", bert_base, small_tables, tmp_path / "killed", TRAINING)
    log, directory = tmp_path / "log", tmp_path / ".killed.checkpoint"
    assert _ended(log, 2, 0, 4, *given) == -signal.SIGKILL
    assert sorted(path.name for path in directory.iterdir()) == ["checkpoint.pt", "checkpoint.pt.partial", "lock"]
    assert _ended(log, 2, 0, 0, *given) == 0
    assert "Going on after step 6," in log.read_text()
    _same_end(undisturbed / "finetune", tmp_path / "killed")
    assert not directory.exists()


def _write_and_die(*given: Any) -> None:
    """In a process of its own: is killed by SIGKILL when it has written a part of the model."""

    def deadly_save(_model: Any, _tokenizer: Any, directory: Path, _max_length: int) -> None:
        (directory / "config.json").write_text("{}")
        os.kill(os.getpid(), signal.SIGKILL)

    result.save_model = deadly_save
    _run(*given)


def test_a_run_killed_while_it_writes_the_model_leaves_nothing_for_good(
    bert_base: Path, small_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    given = ("finetune", bert_base, small_tables, tmp_path / "out", replace(TRAINING, epochs=1))
    assert exit_code(_write_and_die, *given) == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [".out.checkpoint"]
    _run(*given)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture
def stopped(
    bert_base: Path,
    small_tables: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., TrainingRecord]:
    """Runs like one that was stopped after seven steps and left its checkpoint."""
    step, calls = torch.optim.AdamW.step, []

    def stop(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return step(self, *arguments)

    def run(training: TrainingSettings = TRAINING, tables: Any = small_tables, **more: Any) -> TrainingRecord:
        return _run("finetune", bert_base, tables, tmp_path / "out", training, **more)

    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.AdamW, "step", stop)
        patched.setattr(Checkpoint, "due", True)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert f"Step 7 is kept in {tmp_path / '.out.checkpoint'}: the same command" in capsys.readouterr().out
    return run


def test_a_run_that_was_stopped_goes_on_even_if_it_may_overwrite(
    stopped: Callable[..., TrainingRecord], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = stopped(overwrite=True)
    assert "Going on after step 7," in capsys.readouterr().out
    assert [step["step"] for step in record.steps] == list(range(1, 25))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_checkpoint_of_another_run_is_not_mixed_in(
    stopped: Callable[..., TrainingRecord],
    bert_base: Path,
    small_tables: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = replace(TRAINING, learning_rate=2e-3)
    train = small_tables[0].read_text(encoding="utf-8").splitlines()
    shorter = tmp_path / "shorter.tsv"
    shorter.write_text("\n".join(train[:-8]) + "\n", encoding="utf-8")
    for given, difference in (
        ({"training": other}, r"\(learning_rate was 0\.001, is 0\.002\)"),
        ({"training": replace(TRAINING, early_stopping=3)}, r"\(early_stopping was null, is 3\)"),
        ({"tables": (shorter, small_tables[1])}, r'\(train was "\w+…, is "\w+…\)'),
    ):
        with pytest.raises(InputError, match=rf"\.out\.checkpoint holds .* another run {difference}.* --overwrite"):
            stopped(**given)
    for file, change, name in (
        ("config.json", {"layer_norm_eps": 1e-3}, "config"),
        ("tokenizer_config.json", {"pad_token": "[UNK]"}, "tokenizer"),
    ):
        base = Path(shutil.copytree(bert_base, tmp_path / name / bert_base.name))
        content = json.loads((base / file).read_text(encoding="utf-8"))
        (base / file).write_text(json.dumps({**content, **change}), encoding="utf-8")
        with pytest.raises(InputError, match=rf'another run \({name} was "\w+…, is "\w+…\)'):
            _run("finetune", base, small_tables, tmp_path / "out", TRAINING)
    assert (tmp_path / ".out.checkpoint" / "checkpoint.pt").exists()
    stopped(training=other, overwrite=True)
    assert "The checkpoint of another run is discarded (learning_rate was" in capsys.readouterr().out
    _run("finetune", bert_base, small_tables, tmp_path / "afresh", other)
    _same_end(tmp_path / "afresh", tmp_path / "out")


def test_a_damaged_checkpoint_is_not_used(
    stopped: Callable[..., TrainingRecord], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / ".out.checkpoint" / "checkpoint.pt"
    os.truncate(path, path.stat().st_size // 2)
    stopped()
    assert f"{path} is damaged: the run starts afresh\n" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_runs_in_one_output_directory(
    understudy: Callable[..., Any], bert_base: Path, small_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    train, dev = small_tables
    given = ("finetune", "--model", bert_base, "--train", train, "--dev", dev, "--epochs", 1, "-o", tmp_path / "out")
    with held_directory(tmp_path / ".out.checkpoint"):
        result = understudy(*given)
    assert result.code == 2
    assert result.err == (
        f"understudy: another run is writing {tmp_path / 'out'}: wait for it, or choose another output\n"
    )
    # Whoever held it is gone, and its directory stands in nobody's way.
    assert understudy(*given).code == 0


def test_what_another_run_wrote_meanwhile_is_not_replaced(
    bert_base: Path, small_tables: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_load(*given: Any) -> Any:
        write_tsv(tmp_path / "out", [{"a": 1}])
        return load_with_fresh(*given)

    monkeypatch.setattr("distill.finetuning.load_with_fresh", slow_load)
    with pytest.raises(InputError):
        _run("finetune", bert_base, small_tables, tmp_path / "out", TRAINING)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_no_checkpoint_is_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in ([1, 2], {"run": 3, "step": 1, "state": {}}):
        torch.save(content, tmp_path / "checkpoint.pt")
        assert Checkpoint(tmp_path).load({"seed": 1}) is None
        assert "is damaged: the run starts afresh" in capsys.readouterr().out


def test_saving_takes_no_more_than_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("distill.checkpoint.time.monotonic", lambda: now)
    checkpoint = Checkpoint(tmp_path)
    assert not checkpoint.due
    now += checkpoint_module.INTERVAL_SECONDS
    assert checkpoint.due

    def slow_save(_value: Any, path: Path) -> None:
        nonlocal now
        path.write_bytes(b"state")
        now += 60

    monkeypatch.setattr("distill.checkpoint.torch.save", slow_save)
    checkpoint.save(1, {})
    now += 60 / checkpoint_module.MAX_SHARE - 1
    assert not checkpoint.due
    now += 1
    assert checkpoint.due


def test_a_full_disk_is_one_error_and_the_checkpoint_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.load({"seed": 1})
    checkpoint.save(3, {"a": 1})

    def full(_value: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed\nstack")

    monkeypatch.setattr("distill.checkpoint.torch.save", full)
    with pytest.raises(WorkFailedError, match=r"step 4 cannot be kept in .* file write failed\), .* is of step 3, in"):
        checkpoint.save(4, {"a": 2})
    assert Checkpoint(tmp_path).load({"seed": 1}) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
