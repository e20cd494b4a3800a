"""When training stops before its last epoch: early, or because its numbers are none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from common.errors import WorkFailedError
from distill import training as module
from distill.checkpoint import Checkpoint
from distill.finetuning import HardLabels, finetune
from distill.settings import TrainingSettings


def _settings(**more: Any) -> TrainingSettings:
    return TrainingSettings(**{"batch_size": 32, "learning_rate": 1e-3, "max_length": 64, **more})


@pytest.mark.parametrize(
    ("early_stopping", "accuracy", "epochs", "best"),
    [
        (None, [0.5, 0.6, 0.6, 0.5, 0.4, 0.7], 6, 6),
        (1, [0.5, 0.6, 0.6, 0.5, 0.4, 0.7], 3, 2),
        (2, [0.5, 0.6, 0.6, 0.5, 0.4, 0.7], 4, 2),
        (4, [0.5, 0.6, 0.6, 0.5, 0.4, 0.7], 6, 6),
        (2, [0.5, 0.4, 0.6, 0.5, 0.7, 0.1], 6, 5),
    ],
)
def test_early_stopping(
    early_stopping: int | None,
    accuracy: list[float],
    epochs: int,
    best: int,
    bert_base: Path,
    small_tables: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given: Iterator[float] = iter(accuracy)
    weights = []

    def evaluate(*_: object) -> dict[str, float]:
        return {"accuracy": next(given)}

    predict = module.predict

    def keep(model: Any, *rest: Any) -> Any:
        weights.append(model.classifier.weight.detach().clone())
        return predict(model, *rest)

    monkeypatch.setattr(module, "evaluate", evaluate)
    monkeypatch.setattr(module, "predict", keep)
    train, dev = map(str, small_tables)
    settings = _settings(epochs=6, metric="accuracy", early_stopping=early_stopping)
    record = finetune(str(bert_base), train, dev, tmp_path / "out", settings)
    assert (len(record.epochs), record.best_epoch) == (epochs, best)
    assert ("training stops early" in capsys.readouterr().out) == (epochs < 6)
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["classifier.weight"], weights[best - 1])


@pytest.mark.parametrize("saved", [True, False])
def test_a_loss_that_is_no_number_names_its_step_rows_and_checkpoint(
    saved: bool, bert_base: Path, small_tables: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[int]] = []
    forward = HardLabels.forward

    def fail_at_five(self: Any, output: Any, batch: Any, rows: list[int], *more: Any) -> dict[str, Tensor]:
        batches.append(rows)
        terms = forward(self, output, batch, rows, *more)
        return {name: value * (float("nan") if len(batches) == 5 else 1) for name, value in terms.items()}

    monkeypatch.setattr(HardLabels, "forward", fail_at_five)
    monkeypatch.setattr(Checkpoint, "due", saved)
    train, dev = map(str, small_tables)
    with pytest.raises(WorkFailedError) as failure:
        finetune(str(bert_base), train, dev, tmp_path / "out", _settings(epochs=2, batch_size=32))
    lines = ", ".join(str(row + 2) for row in sorted(batches[4]))  # the header is line 1
    checkpoint = tmp_path / ".out.checkpoint"
    last = f"the last good checkpoint is of step 4, in {checkpoint}" if saved else "there is no checkpoint yet"
    assert str(failure.value) == (
        f"the loss is nan at step 5 (epoch 2), on {train}, lines {lines}: nothing was written, {last}; "
        f"lower --learning-rate"
    )
    assert checkpoint.exists() == saved
    assert not (tmp_path / "out").exists()


def test_a_dev_score_that_is_no_number_stops_the_run(
    bert_base: Path, small_tables: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = module.predict
    monkeypatch.setattr(module, "predict", lambda *given: predict(*given) * float("nan"))
    train, dev = map(str, small_tables)
    with pytest.raises(WorkFailedError, match=re.escape("the dev score is nan at the end of epoch 1: nothing was")):
        finetune(str(bert_base), train, dev, tmp_path / "out", _settings(epochs=1))
    assert list(tmp_path.iterdir()) == []


def test_training_rows_that_dev_has_are_counted(
    bert_base: Path, small_tables: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, dev = small_tables
    lines = dev.read_text(encoding="utf-8").splitlines()
    text, label = lines[1].split("\t")
    grown = tmp_path / "train.tsv"
    # The tokenizer lower-cases.
    grown.write_text(train.read_text(encoding="utf-8") + f"{lines[2]}\n{text.upper()}\t{label}\n", encoding="utf-8")
    record = finetune(str(bert_base), str(grown), str(dev), tmp_path / "out", _settings(epochs=1))
    assert record.data["train"]["in_dev"] == 2
    assert (record.data["train"]["rows"], len(record.steps)) == (98, 4)
    assert "2 training rows have a text that the dev table has" in capsys.readouterr().out
    record = finetune(str(bert_base), str(train), str(dev), tmp_path / "apart", _settings(epochs=1))
    assert record.data["train"]["in_dev"] == 0
    assert "training rows have a text" not in capsys.readouterr().out
