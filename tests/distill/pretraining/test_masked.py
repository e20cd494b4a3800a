"""BERT's masked language model: what is masked and how, and its loss against transformers' own."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    AutoModel,
    AutoModelForSequenceClassification,
    BertForMaskedLM,
    DistilBertForMaskedLM,
)

from common.errors import InputError
from distill.models import prepared
from distill.pretraining.masked import MaskedObjective
from distill.pretraining.settings import PretrainingSettings
from tests.conftest import make_config, messages
from tests.distill.pretraining.small_models import HEADS, TOKENIZERS, drawn, segments, small_model, texts

SETTINGS = PretrainingSettings("masked", max_length=64)
MODEL = small_model()


def test_a_segment_of_body_tokens_has_max_length() -> None:
    objective = MaskedObjective(small_model(), TOKENIZERS["bert"], SETTINGS)
    full = segments([[100] * objective.body_tokens])
    assert objective.batch(full, drawn(0))["input_ids"].shape == (1, SETTINGS.max_length)


@pytest.mark.parametrize("family", list(HEADS))
def test_rows_are_as_the_tokenizer_frames_and_pads_them(family: str) -> None:
    tokenizer = TOKENIZERS[family]
    objective = MaskedObjective(small_model(family), tokenizer, SETTINGS)
    batch = objective.batch(texts(family), drawn(0))
    batch["input_ids"].view(-1)[batch["places"]] = batch["labels"]
    whole = tokenizer([row["text"] for row in messages()[:8]], padding=True, return_tensors="pt")
    assert "attention_mask" in objective.names
    for name in objective.names:
        assert torch.equal(batch[name], whole[name]), name


@settings(deadline=None)
@given(st.lists(st.integers(1, 62), min_size=1, max_size=5), st.floats(0.05, 0.9), st.integers(0, 2**32))
def test_the_share_of_each_row_is_masked_and_nothing_else_changes(lengths: list[int], share: float, seed: int) -> None:
    objective = MaskedObjective(MODEL, TOKENIZERS["bert"], replace(SETTINGS, mask_share=share))
    rows = [torch.randint(5, 600, (length,), generator=drawn(seed)).tolist() for length in lengths]
    batch = objective.batch(segments(rows), drawn(seed))
    ids, places = batch["input_ids"], batch["places"]
    row, column = places // ids.shape[1], places % ids.shape[1] - 1
    assert len(set(places.tolist())) == len(places)
    for number, own in enumerate(rows):
        mine = row == number
        assert mine.sum() == max(1, round(share * len(own)))
        assert [own[place] for place in column[mine]] == batch["labels"][mine].tolist()
    seen = ids.clone()
    seen.view(-1)[places] = batch["labels"]
    assert [line[line > 4].tolist() for line in seen] == rows


def test_the_unknown_word_is_text_and_is_masked_too() -> None:
    tokenizer = TOKENIZERS["bert"]
    objective = MaskedObjective(small_model(), tokenizer, SETTINGS)
    batch = objective.batch(segments([[tokenizer.unk_token_id]]), drawn(0))
    assert batch["labels"].tolist() == [tokenizer.unk_token_id]


def test_of_the_chosen_80_percent_are_hidden_10_replaced_and_10_left() -> None:
    tokenizer = TOKENIZERS["bert"]
    objective = MaskedObjective(small_model(), tokenizer, SETTINGS)
    # One word throughout, so that no replacement is taken for what was there, but for one in 600.
    sequences = segments([[100] * 62] * 64)
    hidden = left = total = 0
    others: set[int] = set()
    for seed in range(20):
        batch = objective.batch(sequences, drawn(seed))
        seen = batch["input_ids"].view(-1)[batch["places"]]
        hidden += int((seen == tokenizer.mask_token_id).sum())
        left += int((seen == 100).sum())
        total += len(seen)
        others |= set(seen.tolist()) - {100, tokenizer.mask_token_id}
    assert total == 20 * 64 * 9
    # Four standard deviations.
    assert hidden / total == pytest.approx(0.8, abs=4 * (0.16 / total) ** 0.5)
    assert left / total == pytest.approx(0.1 + 0.1 / 600, abs=4 * (0.09 / total) ** 0.5)
    assert len(others) > 400
    assert not others & set(tokenizer.all_special_ids)


@pytest.mark.parametrize("family", list(HEADS))
def test_the_loss_is_transformers_own_on_the_same_tokens(family: str) -> None:
    model = small_model(family).eval()
    objective = MaskedObjective(prepared(copy.deepcopy(model)), TOKENIZERS[family], SETTINGS).eval()
    batch = objective.batch(texts(family), drawn(1))
    terms = objective(batch)
    labels = torch.full_like(batch["input_ids"], -100)
    labels.view(-1)[batch["places"]] = batch["labels"]
    inputs = {name: batch[name] for name in objective.names}
    if family == "xlnet":  # whose own loss counts every token
        logits = model.double()(**inputs).logits
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    else:
        expected = model.double()(**inputs, labels=labels).loss
    assert terms["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert terms["targets"].item() == len(batch["labels"])


def test_the_head_is_the_input_embeddings() -> None:
    model = small_model()
    objective = MaskedObjective(model, TOKENIZERS["bert"], SETTINGS)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    before = {name: value.clone() for name, value in model.named_parameters()}
    objective(objective.batch(texts(), drawn(0)))["loss"].backward()
    torch.optim.SGD(objective.parameters(), lr=0.1).step()
    assert all(not torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert len(list(objective.parameters())) == len(before)


def test_the_loss_goes_down() -> None:
    torch.manual_seed(0)
    objective = MaskedObjective(small_model(), TOKENIZERS["bert"], SETTINGS)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    sequences, losses = texts(count=16), []
    for step in range(30):
        terms = objective(objective.batch(sequences, drawn(step)))
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        losses.append(terms["loss"].item())
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_what_is_saved_is_an_encoder_and_a_classifiers_start(tmp_path: Path) -> None:
    objective = MaskedObjective(small_model(), TOKENIZERS["bert"], SETTINGS)
    objective.save(tmp_path)
    encoder = AutoModel.from_pretrained(tmp_path)
    trained = objective.encoder.base_model.state_dict()
    assert all(torch.equal(encoder.state_dict()[name], value) for name, value in trained.items())
    AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    again = BertForMaskedLM.from_pretrained(tmp_path)
    assert all(torch.equal(again.state_dict()[name], value) for name, value in objective.encoder.state_dict().items())


def test_albert_has_its_head_elsewhere() -> None:
    sizes: dict[str, Any] = {"hidden_size": 16, "embedding_size": 8, "num_attention_heads": 2, "intermediate_size": 16}
    config = AlbertConfig(vocab_size=len(TOKENIZERS["bert"]), num_hidden_layers=1, **sizes)
    objective = MaskedObjective(AlbertForMaskedLM(config), TOKENIZERS["bert"], SETTINGS)
    assert objective(objective.batch(texts(), drawn(0)))["loss"].isfinite()


def test_what_cannot_be_masked_is_refused() -> None:
    tokenizer = copy.deepcopy(TOKENIZERS["bert"])
    with pytest.raises(InputError, match="distilbert"):
        MaskedObjective(DistilBertForMaskedLM(make_config("distilbert", 600, 1)), tokenizer, SETTINGS)
    tokenizer.backend_tokenizer.post_processor = None
    with pytest.raises(InputError, match="no special tokens"):
        MaskedObjective(small_model(), tokenizer, SETTINGS)
    tokenizer.mask_token = None
    with pytest.raises(InputError, match="mask token"):
        MaskedObjective(small_model(), tokenizer, SETTINGS)
