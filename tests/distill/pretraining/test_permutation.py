"""Permutation language modelling: its batches, its loss against transformers', its memory, and what is saved."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    XLNetConfig,
    XLNetLMHeadModel,
)

from common.errors import InputError
from distill.pretraining.factorization import hidden_pairs
from distill.pretraining.objective import Segment, Sequences
from distill.pretraining.permutation import PermutationObjective
from distill.pretraining.settings import PretrainingSettings
from kernels.xlnet import is_fused, unfuse
from tests.distill.pretraining.naive_xlnet import NaiveXLNet

VOCABULARY, PAD, SEP, CLS = 50, 0, 4, 3
TOKENIZER = SimpleNamespace(pad_token_id=PAD, sep_token_id=SEP, cls_token_id=CLS)


def _objective(encoder: Any = None, dropout: float = 0.0, **changes: Any) -> PermutationObjective:
    if encoder is None:
        torch.manual_seed(0)
        sizes = {"vocab_size": VOCABULARY, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24}
        encoder = XLNetLMHeadModel(XLNetConfig(**sizes, initializer_range=0.3, dropout=dropout))
    settings = PretrainingSettings(**({"objective": "permutation", "max_length": 24, "batch_size": 4} | changes))
    return PermutationObjective(encoder.eval(), TOKENIZER, settings)


def _draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _text(length: int, seed: int) -> list[int]:
    return torch.randint(5, VOCABULARY, (length,), generator=_draw(seed)).tolist()


def _sequences(lengths: list[int], continues: list[bool] | bool = False, seed: int = 0) -> Sequences:
    going_on = continues if isinstance(continues, list) else [continues] * len(lengths)
    return Sequences(
        [Segment(_text(n, 100 * seed + row), on) for row, (n, on) in enumerate(zip(lengths, going_on, strict=True))]
    )


@hypothesis_settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 22), min_size=1, max_size=4),
    reuse=st.none() | st.integers(1, 22),
    k=st.integers(2, 7),
    seed=st.integers(0, 2**32),
)
def test_a_batch_is_what_it_says(lengths: list[int], reuse: int | None, k: int, seed: int) -> None:
    objective = _objective(reuse_length=reuse, span_k=k)
    sequences = _sequences(lengths)
    batch = objective.batch(sequences, _draw(seed))
    longest = max(lengths) + 2
    for row, segment in enumerate(sequences.rows):
        length = len(segment.ids)
        padding = [PAD] * (longest - length - 2)
        assert batch["input_ids"][row].tolist() == [*segment.ids, SEP, CLS, *padding]
        assert batch["token_type_ids"][row, : length + 2].tolist() == [0] * (length + 1) + [2]
        hidden = batch["perm_mask"][row]
        used = batch["labels"][row] != -100
        mapping = batch["target_mapping"][row]
        assert not mapping[~used].any()
        targets = mapping[used].argmax(1)
        assert mapping[used].sum(1).eq(1).all()
        assert batch["labels"][row][used].tolist() == [segment.ids[t] for t in targets]
        # SEP, CLS and padding are never targets; one token in k is, and one at least.
        assert targets.unique().numel() == targets.numel() >= 1
        assert int(targets.max()) < length
        first = min(reuse or 0, length)
        assert len(targets) < 2 + length / k
        # Padding is seen by none of the text, and no target by itself.
        assert hidden[: length + 2, length + 2 :].all()
        assert hidden[targets, targets].all()
        # What is no target is seen by the whole of its part and by all that comes behind; the first part sees no more.
        context = torch.ones(length, dtype=torch.bool)
        context[targets] = False
        assert not hidden[:first, :first][:, context[:first]].any()
        assert not hidden[first : length + 2, :length][:, context].any()
        assert not hidden[first : length + 2, :first].any()
        assert hidden[:first, first:].all()
        assert int(batch["kept"][row]) == (length if reuse is None else first)


def test_the_same_draw_gives_the_same_batch() -> None:
    objective, sequences = _objective(), _sequences([20, 7, 22, 1])
    first, second = (objective.batch(sequences, _draw(5)) for _ in range(2))
    other = objective.batch(sequences, _draw(6))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["perm_mask"], other["perm_mask"])


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("reuse", "bidirectional"), [(None, False), (9, False), (9, True)])
def test_the_loss_is_that_of_transformers(reuse: int | None, bidirectional: bool, fused: bool) -> None:
    """Step by step, with the memory that transformers keeps itself: all rows are as long and go on."""
    objective = _objective(memory_length=12, reuse_length=reuse, bidirectional=bidirectional)
    reference = copy.deepcopy(objective.encoder)
    reference = reference if fused else unfuse(reference)
    reference.transformer.mem_len = 12
    reference.transformer.reuse_len = 14 if reuse is None else reuse
    reference.transformer.bi_data = bidirectional
    mems, draw = None, _draw()
    for step in range(4):
        batch = objective.batch(_sequences([14] * 4, continues=step > 0, seed=step), draw)
        given = {name: batch[name] for name in ("input_ids", "token_type_ids", "target_mapping", "labels")}
        want = reference(**given, perm_mask=batch["perm_mask"].float(), mems=mems, use_mems=True)
        got = objective(batch)
        mems = want.mems
        torch.testing.assert_close(got["loss"], want.loss, rtol=0, atol=1e-5)
        assert int(got["targets"]) == int((batch["labels"] != -100).sum())
    gradients = []
    for model, loss in ((objective.encoder, got["loss"]), (reference, want.loss)):
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], gradient, rtol=0, atol=1e-4)
    assert gradients[0]["transformer.mask_emb"].any()


def test_with_one_step_after_the_other_it_is_a_left_to_right_language_model() -> None:
    """The identity order, against a model that is given each prefix of the text alone."""
    objective = _objective(memory_length=8)
    ids = _text(9, seed=3)
    order = torch.arange(9, dtype=torch.float64)[None]
    batch = {
        "input_ids": torch.tensor([ids]),
        "token_type_ids": torch.zeros(1, 9, dtype=torch.int64),
        "perm_mask": hidden_pairs(order, torch.zeros(1, 9, dtype=torch.bool)),
        "target_mapping": torch.eye(9)[None],
        "labels": torch.tensor([ids]),
        "continues": torch.tensor([False]),
        "kept": torch.tensor([9]),
    }
    result = objective(batch)
    naive = NaiveXLNet(objective.encoder)
    losses, before = [], []
    for t in range(9):
        prefix = [set(range(i)) for i in range(t + 1)]
        layers, query = naive.run(ids[: t + 1], [0] * (t + 1), prefix, [t] if t else [])
        if t:
            losses.append(-naive.log_probabilities(query[0])[ids[t]])
        before = [layer[-8:] for layer in layers[:-1]]
    # Nothing stands before the first token.
    assert int(result["targets"]) == 8
    assert result["loss"].item() == pytest.approx(sum(losses) / 8, abs=1e-5)
    # And the text goes on: now something stands before it.
    more = _text(3, seed=4)
    batch = {name: value[:, :3] for name, value in batch.items() if value.ndim > 1} | {
        "perm_mask": batch["perm_mask"][:, :3, :3],
        "target_mapping": torch.eye(3)[None],
        "input_ids": torch.tensor([more]),
        "labels": torch.tensor([more]),
        "continues": torch.tensor([True]),
        "kept": torch.tensor([3]),
    }
    _, query = naive.run(more, [0] * 3, [set(range(i)) for i in range(3)], [0, 1, 2], before)
    want = -naive.log_probabilities(query)[range(3), more].mean()
    assert objective(batch)["loss"].item() == pytest.approx(want, abs=1e-5)


def _of_row(objective: PermutationObjective, batch: dict[str, Tensor], row: int) -> float:
    """The loss of one row of a batch, the others' targets left out; the objective's memory stays."""
    twin, alone = copy.deepcopy(objective), torch.arange(len(batch["labels"])) != row
    return twin({**batch, "labels": batch["labels"].masked_fill(alone[:, None], -100)})["loss"].item()


def test_a_row_that_starts_a_document_is_as_if_alone() -> None:
    objective, draw = _objective(memory_length=30), _draw()
    objective(objective.batch(_sequences([22, 22, 9, 22], seed=1), draw))
    objective(objective.batch(_sequences([22, 22, 5, 22], [True, False, False, True], seed=2), draw))
    batch = objective.batch(_sequences([20, 14, 11, 3], [True, False, True, True], seed=3), draw)
    assert objective.state()["filled"].tolist() == [30, 22, 5, 30]
    for row in range(4):
        alone = {name: value[row : row + 1] for name, value in batch.items()}
        fresh = _objective(objective.encoder, memory_length=30)
        without = fresh({**alone, "continues": torch.tensor([False])})["loss"].item()
        same = _of_row(objective, batch, row) == pytest.approx(without, abs=1e-6)
        assert same == (row == 1)
        # A row that goes on is as if alone with its own memory.
        fresh.load_state({"states": objective.state()["states"][:, :, row : row + 1],
                          "filled": objective.state()["filled"][row : row + 1]})  # fmt: skip
        assert _of_row(objective, batch, row) == pytest.approx(fresh(alone)["loss"].item(), abs=1e-6)


def test_no_gradient_flows_into_the_memory() -> None:
    objective = _objective(memory_length=8).train()
    objective(objective.batch(_sequences([10, 10]), _draw()))
    assert not objective.state()["states"].requires_grad


def test_a_resumed_run_goes_on_with_the_same_bits() -> None:
    steps = [[22, 22, 9, 22], [22, 3, 22, 22], [5, 22, 22, 22], [22, 22, 1, 8]]
    continues = [[False] * 4, [True, True, False, True], [True, False, True, True], [False, True, True, True]]

    def losses(objective: PermutationObjective, chosen: range, draw: torch.Generator) -> list[float]:
        found = []
        for step in chosen:
            torch.manual_seed(step)
            batch = objective.batch(_sequences(steps[step], continues[step], seed=step), draw)
            found.append(objective(batch)["loss"].item())
        return found

    whole = _objective(dropout=0.1, memory_length=24).train()
    draw = _draw()
    want = losses(whole, range(4), draw)
    first, draw = _objective(dropout=0.1, memory_length=24).train(), _draw()
    assert first.state() == {}
    got = losses(first, range(2), draw)
    state = {name: value.clone() for name, value in first.state().items()}
    resumed = _objective(copy.deepcopy(first.encoder), memory_length=24).train()
    resumed.load_state(state)
    assert got + losses(resumed, range(2, 4), draw) == want
    resumed.load_state({})
    assert resumed.state() == {}


def test_targets_that_see_nothing_are_left_out_rather_than_told() -> None:
    """A text of one token: nothing is to be learned from it, and nothing is told by the mean of all values."""
    objective, counted = _objective(), set()
    for seed in range(12):
        batch = objective.batch(_sequences([1]), _draw(seed))
        sees = not batch["perm_mask"][0, 0].all()
        result = objective(batch)
        result["loss"].backward()
        assert int(result["targets"]) == int(sees)
        assert torch.isfinite(result["loss"])
        assert (result["loss"].item() > 0) == sees
        counted.add(sees)
    assert counted == {True, False}
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None)


def test_the_embeddings_are_learned_by_the_head_too_and_the_loss_falls(tmp_path: Path) -> None:
    objective = _objective(memory_length=10, reuse_length=10, bidirectional=True).train()
    encoder = objective.encoder
    assert encoder.lm_loss.weight is encoder.transformer.word_embedding.weight
    optimizer, draw, losses = torch.optim.AdamW(objective.parameters(), lr=1e-2), _draw(), []
    text = [5 + number % 3 for number in range(22)]
    for step in range(60):
        rows = [text[shift : shift + 18] for shift in range(2)]
        sequences = Sequences([Segment(ids, step % 3 > 0) for ids in [*rows, rows[0][::-1], rows[1][::-1]]])
        loss = objective(objective.batch(sequences, draw))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])

    objective.save(tmp_path)
    ids = torch.tensor([_text(7, seed=1)])
    loaded = AutoModel.from_pretrained(tmp_path, local_files_only=True).eval()
    encoder.eval().transformer.bi_data = False
    with torch.no_grad():
        want = encoder.transformer(ids).last_hidden_state
        torch.testing.assert_close(loaded(ids).last_hidden_state, want, rtol=0, atol=1e-5)
    assert not loaded.config.bi_data
    classifier, report = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, local_files_only=True, num_labels=3, output_loading_info=True
    )
    assert classifier(ids).logits.shape == (1, 3)
    assert all(name.startswith(("sequence_summary", "logits_proj")) for name in report["missing_keys"])
    again = XLNetLMHeadModel.from_pretrained(tmp_path, local_files_only=True)
    assert torch.equal(again.lm_loss.bias, encoder.lm_loss.bias)


def test_it_runs_on_the_fused_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    from kernels import xlnet_attention

    calls = []
    attention = xlnet_attention.relative_attention
    monkeypatch.setattr(
        xlnet_attention, "relative_attention", lambda *given, **named: calls.append(1) or attention(*given, **named)
    )
    objective = _objective()
    assert is_fused(objective.encoder)
    objective(objective.batch(_sequences([9, 9]), _draw()))
    assert len(calls) == 4  # two layers, two streams


def test_what_does_not_fit_is_told() -> None:
    bert = BertForMaskedLM(
        BertConfig(
            vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
        )
    )
    with pytest.raises(InputError, match=r"^permutation is XLNet's objective: 'bert'"):
        _objective(bert)
    with pytest.raises(InputError, match=r"^bidirectional reads half of the rows .* multiple of 2$"):
        _objective(bidirectional=True, batch_size=3)
    settings = PretrainingSettings("permutation", bidirectional=True, batch_size=6)
    settings.check_processes(3)
    with pytest.raises(InputError, match=r"in each of 2 processes: .* multiple of 4$"):
        settings.check_processes(2)
    with pytest.raises(InputError, match=r"^reuse_length must be at most"):
        _objective(reuse_length=23)
    assert _objective(reuse_length=22).stride == 22
    assert _objective(reuse_length=7).stride == 7
    without = SimpleNamespace(pad_token_id=0, sep_token_id=None, cls_token_id=3)
    with pytest.raises(InputError, match=r"^the tokenizer has no separator"):
        PermutationObjective(_objective().encoder, without, PretrainingSettings("permutation"))


def test_a_batch_of_other_rows_starts_without_memory() -> None:
    objective, draw = _objective(memory_length=8), _draw()
    objective(objective.batch(_sequences([10, 10, 10]), draw))
    batch = objective.batch(_sequences([10, 10], continues=True), draw)
    want = _objective(objective.encoder, memory_length=8)(batch)["loss"]
    assert torch.equal(objective(batch)["loss"], want)


def test_no_token_is_scored_but_the_targets() -> None:
    objective, rows = _objective(), []
    assert objective.stride == objective.body_tokens == 22
    objective.encoder.lm_loss.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    result = objective(objective.batch(_sequences([22, 3, 12]), _draw()))
    assert rows == [int(result["targets"])]
