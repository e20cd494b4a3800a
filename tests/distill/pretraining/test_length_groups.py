"""Batches read in groups of like length: every row once, with the states, losses and gradients of the whole batch."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distill.pretraining import permutation
from distill.pretraining.length_groups import ON_CPU, last_states, length_groups
from distill.pretraining.masked import MaskedObjective
from distill.pretraining.objective import PretrainingObjective
from distill.pretraining.permutation import PermutationObjective
from distill.pretraining.settings import PretrainingSettings
from tests.conftest import messages
from tests.distill.pretraining.small_models import HEADS, TOKENIZERS, drawn, segments, small_model, texts

LENGTHS = st.lists(st.integers(1, 512), min_size=1, max_size=80)


@given(LENGTHS, st.integers(1, 4_096))
def test_every_row_is_in_one_group_and_groups_are_no_smaller_than_said(lengths: list[int], fewest: int) -> None:
    groups = length_groups(lengths, fewest)
    assert sorted(itertools.chain.from_iterable(groups)) == list(range(len(lengths)))
    positions = len(lengths) * max(lengths)
    if positions <= fewest or sum(lengths) >= 0.9 * positions:
        assert groups == [list(range(len(lengths)))]
        return
    longest = [lengths[row] for group in groups for row in group]
    assert longest == sorted(longest, reverse=True)
    for group in groups[:-1]:
        positions = len(group) * max(lengths[row] for row in group)
        # No more rows than it takes, or there would be padding for nothing.
        assert fewest <= positions < fewest + max(lengths[row] for row in group)


@pytest.mark.parametrize("family", list(HEADS))
def test_the_states_are_those_of_the_whole_batch(family: str) -> None:
    tokenizer, model = TOKENIZERS[family], small_model(family).base_model.eval()
    lines = [row["text"] for row in messages()[:96]]
    inputs = dict(tokenizer(lines, padding=True, truncation=True, max_length=64, return_tensors="pt"))
    read: list[int] = []
    handle = model.register_forward_pre_hook(
        lambda _, __, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    with torch.no_grad():
        states = last_states(model, inputs)
        handle.remove()
        whole = copy.deepcopy(model).double()(**inputs).last_hidden_state
    assert len(read) > 1
    assert sum(read) < 0.9 * inputs["input_ids"].numel()
    text = inputs["attention_mask"] > 0
    assert torch.allclose(states[text].double(), whole[text], atol=1e-5)


@pytest.mark.parametrize("lines", [["short", "somewhat longer than that"], ["of one length, all of them"] * 300])
def test_a_batch_that_is_small_or_full_is_read_at_once(lines: list[str]) -> None:
    calls: list[Any] = []
    model = small_model().base_model.eval()
    model.register_forward_pre_hook(lambda _, __, kwargs: calls.append(kwargs), with_kwargs=True)
    inputs = dict(TOKENIZERS["bert"](lines, padding=True, return_tensors="pt"))
    assert (inputs["input_ids"].numel() > ON_CPU) == (len(lines) > 2)
    last_states(model, inputs)
    assert len(calls) == 1
    assert calls[0]["input_ids"] is inputs["input_ids"]


def test_masked_learns_the_same_as_from_rows_on_their_own() -> None:
    objective = MaskedObjective(small_model().eval(), TOKENIZERS["bert"], PretrainingSettings("masked", max_length=64))
    batch = objective.batch(texts(count=96), drawn(0))
    assert batch["input_ids"].numel() > ON_CPU
    length = batch["input_ids"].shape[1]
    rows = []
    for number in range(len(batch["input_ids"])):
        own = batch["places"] // length == number
        row = {name: batch[name][number : number + 1] for name in objective.names}
        rows.append({**row, "places": batch["places"][own] % length, "labels": batch["labels"][own]})
    _assert_same(objective, batch, rows)


@pytest.mark.parametrize("segments_a_row", [1, 2])
def test_permutation_learns_the_same_as_from_rows_on_their_own(segments_a_row: int) -> None:
    given = PretrainingSettings("permutation", max_length=64, segments=segments_a_row)
    objective = PermutationObjective(small_model("xlnet").eval(), TOKENIZERS["xlnet"], given)
    batch = objective.batch(texts("xlnet", count=96), drawn(0))
    assert batch["input_ids"].numel() > ON_CPU
    rows = [{name: value[n : n + 1] for name, value in batch.items()} for n in range(len(batch["labels"]))]
    _assert_same(objective, batch, rows)


@pytest.mark.parametrize(("changes", "parts"), [({}, 3), ({"bidirectional": True}, 1), ({"memory_length": 8}, 1)])
def test_rows_that_must_stay_in_their_places_do(
    changes: dict[str, Any], parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[torch.Size] = []
    streams = permutation.two_streams

    def counted(model: Any, input_ids: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
        shapes.append(input_ids.shape)
        return streams(model, input_ids, *others)

    monkeypatch.setattr(permutation, "two_streams", counted)
    given = PretrainingSettings("permutation", max_length=64, **changes)
    objective = PermutationObjective(small_model("xlnet").eval(), TOKENIZERS["xlnet"], given)
    rows = [[100] * length for length in (62, 46, 30, 14) for _ in range(16)]
    objective(objective.batch(segments(rows), drawn(0)))
    assert len(shapes) == parts
    assert sum(shape[0] for shape in shapes) == len(rows)


def _assert_same(objective: PretrainingObjective, batch: dict[str, Tensor], rows: list[dict[str, Tensor]]) -> None:
    """The loss and the gradient of a batch against the sum over its rows, by their targets."""
    terms = objective(batch)
    terms["loss"].backward()
    gradients = {name: parameter.grad.clone() for name, parameter in _trained(objective)}
    objective.zero_grad()
    loss = 0.0
    for row in rows:
        own = objective(row)
        weight = float(own["targets"] / terms["targets"])
        (weight * own["loss"]).backward()
        loss += weight * own["loss"].item()
    assert terms["loss"].item() == pytest.approx(loss, rel=1e-5)
    for name, parameter in _trained(objective):
        assert torch.allclose(gradients[name], parameter.grad, atol=1e-5, rtol=1e-4), name


def _trained(objective: PretrainingObjective) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in objective.named_parameters() if parameter.grad is not None]
