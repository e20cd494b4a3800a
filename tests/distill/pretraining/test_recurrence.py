"""Two streams and their memory against a naive XLNet, transformers' own, and unbroken texts."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from transformers import XLNetConfig, XLNetLMHeadModel

from distill.pretraining.factorization import draw_places, hidden_pairs
from distill.pretraining.recurrence import Memory, no_memory, two_streams
from kernels.xlnet import fuse, unfuse
from tests.distill.pretraining.naive_xlnet import NaiveXLNet

VOCABULARY = 40


def _model(layers: int = 3, **changes: Any) -> Any:
    torch.manual_seed(0)
    config = XLNetConfig(
        vocab_size=VOCABULARY, d_model=16, n_layer=layers, n_head=2, d_inner=24, initializer_range=0.3, **changes
    )
    model = XLNetLMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name or "layer_norm" in name:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    return fuse(model)


def _ids(rows: int, length: int, seed: int = 1) -> Tensor:
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def _one_hot(positions: list[list[int]], length: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return functional.one_hot(torch.tensor(positions), length).to(dtype)


def _visible(hidden: Tensor) -> list[set[int]]:
    return [{j for j, is_hidden in enumerate(line) if not is_hidden} for line in hidden.tolist()]


def _random_order(rows: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """A mask, and which tokens are neither context nor in its part."""
    draw = torch.Generator().manual_seed(seed)
    parts = (torch.arange(length) >= length // 3).long().expand(rows, -1)
    context = torch.rand(rows, length, generator=draw) < 0.4
    return hidden_pairs(draw_places(parts, context, draw), context), context


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32), backwards=st.booleans())
def test_both_streams_are_those_of_the_formulas(seed: int, backwards: bool) -> None:
    model = _model().double()
    model.transformer.bi_data = backwards
    length, filled = 6, [0, 2, 4, 3]
    hidden, _ = _random_order(4, length, seed)
    hidden[:, torch.arange(length), torch.arange(length)] = True
    ids, segments = _ids(4, length, seed), torch.tensor([[0, 0, 0, 0, 0, 2]]).expand(4, -1)
    draw = torch.Generator().manual_seed(seed)
    memory = Memory(torch.randn(3, 4, 4, 16, generator=draw, dtype=torch.float64), torch.tensor(filled))
    # A query that sees nothing has its own test.
    targets = [[t for t in range(length) if filled[row] or not hidden[row, t].all()][-2:] for row in range(4)]
    states, inputs = two_streams(
        model.transformer, ids, segments, hidden, _one_hot(targets, length, torch.float64), memory
    )
    for row in range(4):
        naive = NaiveXLNet(model, backwards=backwards and row >= 2)
        own = [layer[4 - filled[row] :, row].numpy() for layer in memory.states]
        layers, query = naive.run(ids[row].tolist(), segments[row].tolist(), _visible(hidden[row]), targets[row], own)
        torch.testing.assert_close(states[row].detach(), torch.from_numpy(query), rtol=0, atol=1e-5)
        for got, want in zip(inputs[:, :, row], layers[:-1], strict=True):
            torch.testing.assert_close(got, torch.from_numpy(want), rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(length=st.integers(2, 8), seed=st.integers(0, 2**32))
def test_a_target_hangs_on_what_comes_before_it_in_the_order_and_on_nothing_else(length: int, seed: int) -> None:
    model = _model(layers=2).double()
    hidden, context = _random_order(1, length, seed)
    targets = [t for t in range(length) if not context[0, t] and not hidden[0, t].all()]
    if not targets:
        return
    embedded: list[Tensor] = []
    watch = model.transformer.word_embedding.register_forward_hook(lambda *given: embedded.append(given[2]))
    states, _ = two_streams(
        model.transformer, _ids(1, length, seed), torch.zeros(1, length, dtype=torch.int64), hidden,
        _one_hot([targets], length, torch.float64), no_memory(model.transformer, 1),
    )  # fmt: skip
    watch.remove()
    directions = torch.randn(16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for number, target in enumerate(targets):
        (gradient,) = torch.autograd.grad(states[0, number] @ directions, embedded, retain_graph=True)
        reached = gradient[0].abs().sum(-1)
        assert not reached[target]
        assert {j for j in range(length) if reached[j] > 0} == _visible(hidden[0])[target]


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_another_token_at_the_target_changes_no_bit_and_one_that_is_seen_does(seed: int) -> None:
    length = 6
    model = _model(layers=2).transformer
    hidden, context = _random_order(1, length, seed)
    seen = [_visible(line[None])[0] for line in hidden[0]]
    targets = [t for t in range(length) if not context[0, t] and seen[t]]

    def query(ids: Tensor, target: int) -> Tensor:
        segments = torch.zeros(1, length, dtype=torch.int64)
        with torch.no_grad():
            return two_streams(model, ids, segments, hidden, _one_hot([[target]], length), no_memory(model, 1))[0]

    ids = _ids(1, length, seed)
    for target in targets:
        before = query(ids, target)
        for changed in range(length):
            other = ids.clone()
            other[0, changed] = (ids[0, changed] + 1) % VOCABULARY
            assert torch.equal(query(other, target), before) == (changed not in seen[target])


def test_a_query_that_sees_nothing_is_finite_and_so_are_gradients() -> None:
    model = _model()
    hidden = torch.ones(2, 3, 3, dtype=torch.bool)
    states, _ = two_streams(
        model.transformer, _ids(2, 3), torch.zeros(2, 3, dtype=torch.int64), hidden, _one_hot([[0, 1], [2, 0]], 3),
        no_memory(model.transformer, 2),
    )  # fmt: skip
    assert torch.isfinite(states).all()
    states.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("memory_length", [2, 5, 9, 30])
def test_text_in_chunks_has_the_states_of_unbroken_text(memory_length: int) -> None:
    """A chunk sees the last tokens before it, through the states that they had in their own chunks."""
    model, chunks = _model(), [4, 6, 5, 4]
    length, last = sum(chunks), chunks[-1]
    ids = _ids(2, length)
    hidden, _ = _random_order(2, last, seed=3)
    targets = [[1, 3], [0, 2]]
    memory, inputs, begin = no_memory(model.transformer, 2), [], 0
    for tokens in chunks:
        mask = hidden if begin + tokens == length else torch.zeros(2, tokens, tokens, dtype=torch.bool)
        states, chunk_inputs = two_streams(
            model.transformer, ids[:, begin : begin + tokens], torch.zeros(2, tokens, dtype=torch.int64), mask,
            _one_hot(targets, tokens), memory.of(torch.tensor([True, True])),
        )  # fmt: skip
        memory = memory.extended(chunk_inputs, torch.tensor([tokens, tokens]), memory_length)
        inputs.append(chunk_inputs)
        begin += tokens

    chunk = torch.repeat_interleave(torch.arange(len(chunks)), torch.tensor(chunks))
    starts = torch.tensor([sum(chunks[:number]) for number in range(len(chunks))])[chunk]
    at = torch.arange(length)
    unseen = (chunk[None] > chunk[:, None]) | (at[None] < starts[:, None] - memory_length)
    perm_mask = unseen.float().repeat(2, 1, 1)
    perm_mask[:, -last:, -last:] = hidden.float()
    stock = unfuse(copy.deepcopy(model)).transformer
    mapping = functional.pad(_one_hot(targets, last), (length - last, 0))
    with torch.no_grad():
        want = stock(
            ids, perm_mask=perm_mask, target_mapping=mapping, token_type_ids=torch.zeros_like(ids), use_mems=False,
            output_hidden_states=True,
        )  # fmt: skip
    content = torch.stack(want.hidden_states[:-2:2]).transpose(1, 2)
    torch.testing.assert_close(torch.cat(inputs, dim=1), content, rtol=0, atol=2e-5)
    torch.testing.assert_close(states, want.last_hidden_state, rtol=0, atol=2e-5)


def test_memory_is_what_transformers_keeps() -> None:
    model = _model(mem_len=7, reuse_len=4)
    stock = unfuse(copy.deepcopy(model)).transformer
    memory, mems = no_memory(model.transformer, 2), None
    for number in range(4):
        ids, hidden = _ids(2, 6, seed=number), _random_order(2, 6, seed=number)[0]
        given = {"token_type_ids": torch.zeros_like(ids), "target_mapping": _one_hot([[1], [5]], 6)}
        with torch.no_grad():
            want = stock(ids, perm_mask=hidden.float(), mems=mems, use_mems=True, **given)
            states, inputs = two_streams(model.transformer, ids, perm_mask=hidden, memory=memory, **given)
        memory, mems = memory.extended(inputs, torch.tensor([4, 4]), 7), want.mems
        kept = int(memory.filled[0])
        assert kept == len(mems[0]) == min(7, 4 * (number + 1))
        torch.testing.assert_close(states, want.last_hidden_state, rtol=0, atol=2e-5)
        torch.testing.assert_close(memory.states[:, -kept:], torch.stack(mems), rtol=0, atol=2e-5)


@settings(deadline=None)
@given(data=st.data())
def test_memory_holds_each_rows_own_tokens(data: st.DataObject) -> None:
    """States that are numbers: row · 1000 + the token's number in its document."""
    limit = data.draw(st.integers(1, 6))
    documents: list[list[int]] = [[], []]
    memory = Memory(torch.zeros(1, 0, 2, 1), torch.zeros(2, dtype=torch.int64))
    for _ in range(data.draw(st.integers(1, 6))):
        continues = data.draw(st.lists(st.booleans(), min_size=2, max_size=2))
        kept = data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=2))
        memory = memory.of(torch.tensor(continues))
        inputs = torch.full((1, 5, 2, 1), -1.0)
        for row in range(2):
            document = documents[row] if continues[row] else []
            own = [1000.0 * row + len(document) + number for number in range(kept[row])]
            inputs[0, : kept[row], row, 0] = torch.tensor(own)
            documents[row] = [*document, *map(int, own)]
            seen = memory.states[0, ~memory.hidden[row], row, 0].tolist()
            assert seen == document[-limit:]
        memory = memory.extended(inputs, torch.tensor(kept), limit)
        assert memory.states.shape[1] == limit


def test_rows_read_backwards_are_the_text_read_forwards() -> None:
    """Reversed text whose positions count backwards: the memory is what lies behind the text."""
    model = _model(layers=1)
    stock = unfuse(copy.deepcopy(model)).transformer
    model.transformer.bi_data = True
    text = _ids(2, 9)
    hidden = _random_order(2, 5, seed=4)[0]
    targets = [[1, 4], [2, 3]]
    # Row 0 has the first four tokens in memory and reads the rest; row 1 has the last four and reads the others.
    ids = torch.stack([text[0, 4:], text[1, :5].flip(0)])
    before = torch.stack([text[0, :4], text[1, 5:].flip(0)])
    embedded = model.transformer.word_embedding(before).transpose(0, 1)[None].detach()
    with torch.no_grad():
        states, _ = two_streams(
            model.transformer, ids, torch.zeros_like(ids), hidden, _one_hot(targets, 5),
            Memory(embedded, torch.tensor([4, 4])),
        )  # fmt: skip
        for row in range(2):
            mask, mapping = torch.zeros(1, 9, 9), torch.zeros(1, 2, 9)
            mask[0, 4:, 4:], mapping[0, :, 4:] = hidden[row].float(), _one_hot(targets, 5)[row]
            if row == 1:
                mask, mapping = mask.flip(1, 2), mapping.flip(2)
            want = stock(
                text[row][None], perm_mask=mask, target_mapping=mapping, token_type_ids=torch.zeros(1, 9).long()
            )
            torch.testing.assert_close(states[row], want.last_hidden_state[0], rtol=0, atol=1e-5)
