"""Pretraining runs that are killed and asked for again, alone and in company: as if they had not been."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from common import files
from common.errors import InputError
from distill.checkpoint import Checkpoint
from distill.pretraining import pretraining as module
from distill.pretraining.tokenizer import train_tokenizer
from tests.distill.pretraining.pretrained_together import pretrain_in_two_parts
from tests.distill.pretraining.tiny import (
    OBJECTIVES,
    SETTINGS,
    Files,
    TinyObjective,
    run_pretrain,
    settings_for,
    write_config,
    write_corpus,
)
from tests.fresh_process import exit_code


def _run_and_die(log: Path, every: int, die_at_step: int, tiny: bool, *arguments: Any) -> None:
    """In a process of its own: saves after every so many steps, and is killed by SIGKILL where it is asked to be."""
    calls = {"due": 0, "step": 0}
    step = torch.optim.AdamW.step

    def count(name: str) -> int:
        calls[name] += 1
        return calls[name]

    def deadly_step(self: Any, *arguments: Any) -> Any:
        if count("step") == die_at_step:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *arguments)

    files._sync = lambda _path: None
    torch.optim.AdamW.step = deadly_step  # type: ignore[method-assign]
    Checkpoint.due = property(lambda _: count("due") % every == 0)  # type: ignore[assignment, method-assign]
    if tiny:
        module.OBJECTIVES["masked"] = TinyObjective
    with log.open("a") as file, contextlib.redirect_stdout(file):
        run_pretrain(*arguments)


def _same_end(first: Path, second: Path) -> None:
    """The same weights and tokenizer, and the same losses on the way to them."""
    for name in ("model.safetensors", "tokenizer.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    records = [json.loads((path / "pretraining.json").read_text()) for path in (first, second)]
    for name in ("losses", "tokens", "epochs"):
        assert records[0][name] == records[1][name]


@pytest.mark.parametrize(
    ("every", "deaths"),
    # The steps at which one process after the other dies: at once, before and after checkpoints, at the last step.
    [(1, (1, 7)), (5, (3, 11, 2)), (3, (4, 9)), (4, (12,)), (20, (6,))],
)
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(
    every: int, deaths: tuple[int, ...], pretraining_files: Files, undisturbed: Path, tmp_path: Path
) -> None:
    arguments = (pretraining_files, tmp_path / "killed", SETTINGS)
    log = tmp_path / "log"
    for death in deaths:
        assert exit_code(_run_and_die, log, every, death, True, *arguments) == -signal.SIGKILL
        assert not (tmp_path / "killed").exists()
    assert exit_code(_run_and_die, log, every, 0, True, *arguments) == 0
    _same_end(undisturbed / "tiny", tmp_path / "killed")
    expected, at = [], 0
    for death in deaths:
        at += (death - 1) // every * every
        expected += [f"Going on after step {at}, from {tmp_path / '.killed.checkpoint'}"] if at else []
    assert [line for line in log.read_text().splitlines() if line.startswith("Going on")] == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "log"]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_goes_on_where_it_was_killed(
    objective: str, pretraining_files: Files, undisturbed: Path, tmp_path: Path
) -> None:
    arguments = (pretraining_files, tmp_path / "killed", settings_for(objective))
    for death in (5, 3):
        assert exit_code(_run_and_die, tmp_path / "log", 4, death, False, *arguments) == -signal.SIGKILL
    assert exit_code(_run_and_die, tmp_path / "log", 4, 0, False, *arguments) == 0
    _same_end(undisturbed / objective, tmp_path / "killed")


@pytest.mark.usefixtures("tiny")
def test_the_checkpoint_of_another_run_is_not_mixed_in(
    pretraining_files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls = torch.optim.AdamW.step, []

    def stop(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.AdamW, "step", stop)
        patched.setattr(Checkpoint, "due", True)
        with pytest.raises(KeyboardInterrupt):
            run_pretrain(pretraining_files, tmp_path / "out", SETTINGS)
    for change, reason in (
        ({"learning_rate": 1e-4}, r"learning_rate was 0\.001, is 0\.0001"),
        ({"accumulate": 1}, "accumulate was 2, is 1"),
        ({"seed": 1}, "seed was 0, is 1"),
    ):
        with pytest.raises(InputError, match=rf"holds the checkpoint of another run \({reason}"):
            run_pretrain(pretraining_files, tmp_path / "out", replace(SETTINGS, **change))
    other = write_corpus(tmp_path / "other.txt", 152)
    with pytest.raises(InputError, match=r'another run \(corpus was "\w+…, is "\w+…'):
        run_pretrain({**pretraining_files, "corpus": other}, tmp_path / "out", SETTINGS)
    with pytest.raises(InputError, match=r"another run \(documents was"):
        run_pretrain(pretraining_files, tmp_path / "out", SETTINGS, documents="line")


def test_a_tokenizer_is_trained_once(pretraining_files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (pretraining_files, tmp_path / "killed", SETTINGS)
    assert exit_code(_run_and_die, tmp_path / "log", 20, 2, True, *arguments) == -signal.SIGKILL
    kept = tmp_path / ".killed.checkpoint" / "tokenizer.json"
    found = json.loads(kept.read_text())
    calls: list[int] = []
    monkeypatch.setitem(module.OBJECTIVES, "masked", TinyObjective)

    def train(*arguments: Any, **more: Any) -> Any:
        calls.append(1)
        return train_tokenizer(*arguments, **more)

    monkeypatch.setattr(module, "train_tokenizer", train)
    kept.write_text(json.dumps({**found, "made_from": {**found["made_from"], "vocabulary": 299}}))
    run_pretrain(*arguments)
    assert calls == [1]
    kept.parent.mkdir()
    kept.write_text(json.dumps(found))
    run_pretrain(pretraining_files, tmp_path / "killed", SETTINGS, overwrite=True)
    assert calls == [1]


def test_two_processes_end_where_one_does(pretraining_files: Files, tmp_path: Path) -> None:
    """Without draws that differ; both stop on the way and go on."""
    config = write_config(tmp_path / "config.json", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    (tmp_path / "two").mkdir()
    launch = (sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
    script = ("--num_machines", "1", "-m", "tests.distill.pretraining.pretrained_together")
    done = subprocess.run(
        [*launch, *script, pretraining_files["corpus"], config, tmp_path / "two" / "out"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # One of the two speaks.
    assert done.stdout.count("Going on after step 3,") == 1
    assert done.stdout.count("step 6 of 6: loss") == 1
    (tmp_path / "one").mkdir()
    pretrain_in_two_parts(pretraining_files["corpus"], config, tmp_path / "one" / "out")
    one, two = (load_file(tmp_path / count / "out" / "model.safetensors") for count in ("one", "two"))
    for weight in one:
        torch.testing.assert_close(two[weight], one[weight], rtol=1e-3, atol=1e-4)
    records = [json.loads((tmp_path / count / "out" / "pretraining.json").read_text()) for count in ("one", "two")]
    for term in ("step", "lr", "loss", "tokens", "targets"):
        values = [[entry[term] for entry in record["losses"]] for record in records]
        assert values[1] == pytest.approx(values[0], rel=1e-4)
    assert records[0]["tokens"] == records[1]["tokens"]
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["out"]
