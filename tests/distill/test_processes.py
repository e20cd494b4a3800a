"""Several processes train the model that one trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from common.progress import say
from distill.processes import ALONE, Processes, launched, one_voice
from tests.conftest import INTENTS, make_model, messages, write_tsv
from tests.distill.trained_together import train_all

LAUNCH = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")


@given(st.integers(1, 5), st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_the_parts_of_a_batch_are_the_batch_and_their_shares_one(count: int, lengths: list[int]) -> None:
    rows = list(range(len(lengths)))
    parts = [Processes(count, index).part(rows, lengths) for index in range(count)]
    assert sorted(row for part, share in parts if share.rows for row in part) == rows
    assert all(part for part, _ in parts)
    assert sum(share.rows for _, share in parts) == pytest.approx(1)
    assert sum(share.tokens for _, share in parts) == pytest.approx(1)
    means = [sum(lengths[row] for row in part) / len(part) for part, _ in parts]
    whole = sum(lengths) / len(lengths)
    assert sum(share.rows * mean for (_, share), mean in zip(parts, means, strict=True)) == pytest.approx(whole)


def test_alone_everything_is_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    assert launched() is ALONE
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([1.0, 2.0])
    ALONE.sum_gradients([weight])
    assert weight.grad.tolist() == [1.0, 2.0]
    assert ALONE.from_first("a") == "a"
    assert ALONE.gathered("a") == ["a"]
    with one_voice():
        say("heard")
    assert capsys.readouterr().out == "heard\n"


def test_two_processes_end_where_one_does(small_tables: tuple[Path, Path], tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", pretrained=True, scale=1.0)
    config = json.loads((base / "config.json").read_text())
    config.update(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    (base / "config.json").write_text(json.dumps(config))
    texts = [{"text": row["text"]} for row in messages() if row["label"] not in INTENTS][:40]
    unlabelled = write_tsv(tmp_path / "unlabelled.tsv", texts)
    (tmp_path / "two").mkdir()
    tables = [str(base), *map(str, small_tables), str(unlabelled)]
    script = [sys.executable, "-m", *LAUNCH, "-m", "tests.distill.trained_together", *tables, str(tmp_path / "two")]
    done = subprocess.run(
        script,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # One of the two speaks.
    assert done.stdout.count("epoch 1 of 2: dev accuracy") == 3
    train_all(*tables, tmp_path / "one")
    for name in ("teacher", "tokens", "unlabelled"):
        one, two = (load_file(tmp_path / count / name / "model.safetensors") for count in ("one", "two"))
        for weight in one:
            torch.testing.assert_close(two[weight], one[weight], rtol=1e-3, atol=1e-4)
        one_record, two_record = (
            json.loads((tmp_path / count / name / "distillation.json").read_text()) for count in ("one", "two")
        )
        for term in one_record["steps"][0]:
            terms = [[step[term] for step in record["steps"]] for record in (one_record, two_record)]
            assert terms[1] == pytest.approx(terms[0], rel=1e-3, abs=1e-5), term
        assert two_record["epochs"] == one_record["epochs"]
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["teacher", "tokens", "unlabelled"]
