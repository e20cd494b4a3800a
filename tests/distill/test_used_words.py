"""Training the words that are read alone: the same weights as by training all, and no trace of it in the model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForMaskedLM, BertConfig, BertForSequenceClassification, PreTrainedModel

from distill import training as module
from distill.distillation import distill
from distill.finetuning import finetune
from distill.settings import DistillationSettings, TrainingSettings
from distill.used_words import UsedWords, decay_factor, only_used_words
from tests.conftest import INTENTS, make_model, messages

VOCABULARY, WIDTH = 50, 8
# So much decay that a row which missed its share would be seen.
SETTINGS = TrainingSettings(epochs=3, batch_size=32, learning_rate=1e-3, max_length=64, weight_decay=0.5)


@pytest.fixture
def table() -> nn.Embedding:
    return nn.Embedding(VOCABULARY, WIDTH, padding_idx=3)


def _small_bert(kind: Any = BertForSequenceClassification) -> Any:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return kind(BertConfig(vocab_size=VOCABULARY, **sizes))


def test_words_are_looked_up_and_learned_as_in_the_whole_table(table: nn.Embedding) -> None:
    words = torch.tensor([3, 7, 20, 49])
    used = UsedWords(table, words)
    ids = torch.tensor([[7, 49, 3], [20, 7, 3]])
    assert torch.equal(used(ids), table(ids))
    weights = torch.randn(2, 3, WIDTH)
    (used(ids) * weights).sum().backward()
    (table(ids) * weights).sum().backward()
    assert table.weight.grad is not None
    assert used.weight.grad is not None
    assert torch.equal(used.weight.grad, table.weight.grad[words])
    assert not used.weight.grad[0].any(), "padding learns nothing"


def test_a_word_that_was_not_named_is_an_error(table: nn.Embedding) -> None:
    with pytest.raises(IndexError):
        UsedWords(table, torch.tensor([3, 7]))(torch.tensor([8]))


def test_state_has_the_used_rows_alone() -> None:
    model = _small_bert()
    names = list(model.state_dict())
    assert only_used_words(model, {1, 2, 9}) is not None
    state = model.state_dict()
    assert list(state) == names
    # Padding is row 0, which BERT names so.
    assert state["bert.embeddings.word_embeddings.weight"].shape == (4, WIDTH)
    assert len(list(model.parameters())) == len(names)


def test_tokens_that_the_model_has_not_are_left_out() -> None:
    used = only_used_words(_small_bert(), {1, 2, VOCABULARY, VOCABULARY + 9})
    assert used is not None
    assert used.num_embeddings == 3, "and padding"


def test_give_back() -> None:
    model = _small_bert()
    table = model.get_input_embeddings()
    before = table.weight.detach().clone()
    used = only_used_words(model, {1, 2, 9})
    assert used is not None
    with torch.no_grad():
        used.weight += 1.0
    used.give_back(model, 0.5)
    assert model.get_input_embeddings() is table
    learned = [0, 1, 2, 9]
    others = [row for row in range(VOCABULARY) if row not in learned]
    assert torch.equal(table.weight[learned], before[learned] + 1.0)
    assert torch.equal(table.weight[others], before[others] * 0.5)


class _Scaled(nn.Embedding):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return 2.0 * super().forward(ids)


def _scaled(model: PreTrainedModel) -> None:
    model.set_input_embeddings(_Scaled(VOCABULARY, WIDTH))


def _kept_to_a_norm(model: PreTrainedModel) -> None:
    model.set_input_embeddings(nn.Embedding(VOCABULARY, WIDTH, max_norm=1.0))


def _used_elsewhere(model: PreTrainedModel) -> None:
    model.decoder = nn.Linear(WIDTH, VOCABULARY, bias=False)
    model.decoder.weight = model.get_input_embeddings().weight


@pytest.mark.parametrize("change", [_scaled, _kept_to_a_norm, _used_elsewhere])
def test_embeddings_of_another_kind_are_trained_whole(change: Callable[[PreTrainedModel], None]) -> None:
    model = _small_bert()
    change(model)
    table = model.get_input_embeddings()
    assert only_used_words(model, {1, 2}) is None
    assert model.get_input_embeddings() is table


def test_a_head_that_shares_the_table_keeps_it() -> None:
    model = _small_bert(AutoModelForMaskedLM.from_config)
    assert only_used_words(model, {1, 2}) is None
    assert model.cls.predictions.decoder.weight is model.get_input_embeddings().weight


def test_decay_factor_is_adamw_s() -> None:
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = torch.optim.AdamW([weight], lr=1.0, weight_decay=0.1)
    rates = [0.01, 0.3, 0.2]
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
    assert math.isclose(weight.item(), decay_factor(rates, 0.1), rel_tol=1e-12)
    assert decay_factor([], 0.1) == 1.0


@pytest.fixture
def second_epoch_is_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three, so that what is kept is not what training ended with."""
    accuracy: Iterator[float] = iter([0.2, 0.9, 0.5] * 2)
    monkeypatch.setattr(module, "evaluate", lambda *_: {"accuracy": next(accuracy)})


def _whole_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "only_used_words", lambda *_: None)


def _same(first: Path, second: Path) -> None:
    one, other = (load_file(directory / "model.safetensors") for directory in (first, second))
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0.0, atol=1e-6, msg=lambda text, name=name: name + text)
    assert not all(torch.equal(one[name], other[name]) for name in one), "the second run trained the whole table"


@pytest.mark.usefixtures("second_epoch_is_best")
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "xlnet"])
def test_finetuning_ends_with_the_weights_of_training_all_words(
    family: str, small_tables: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, dev = map(str, small_tables)
    base = str(make_model(tmp_path / "base", family, 2, pretrained=True, scale=1.0))
    finetune(base, train, dev, tmp_path / "used", SETTINGS)
    _whole_table(monkeypatch)
    finetune(base, train, dev, tmp_path / "whole", SETTINGS)
    _same(tmp_path / "used", tmp_path / "whole")


@pytest.mark.usefixtures("second_epoch_is_best")
def test_distilling_ends_with_the_weights_of_training_all_words(
    bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, dev = map(str, small_tables)
    # Words that no labelled row has, and masks where n-grams are hidden.
    unlabelled = tmp_path / "log.jsonl"
    others = [row["text"] for row in messages() if row["label"] not in INTENTS][:20]
    unlabelled.write_text("".join(json.dumps({"text": text}) + "\n" for text in others), encoding="utf-8")
    settings = DistillationSettings(2, init="teacher-skip", training=SETTINGS, dim_weight=0.1)
    distill(str(bert_teacher), train, dev, tmp_path / "used", settings, unlabelled=str(unlabelled))
    _whole_table(monkeypatch)
    distill(str(bert_teacher), train, dev, tmp_path / "whole", settings, unlabelled=str(unlabelled))
    _same(tmp_path / "used", tmp_path / "whole")
