"""Targets and factorisation orders: their distributions, and the mask against a walk through the order."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill.pretraining.factorization import draw_places, draw_targets, hidden_pairs


def _draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _runs(targets: Tensor) -> list[int]:
    return [len(list(run)) for chosen, run in itertools.groupby(targets.tolist()) if chosen]


@given(length=st.integers(0, 200), k=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_one_token_in_k_is_a_target(length: int, k: int, seed: int) -> None:
    targets = draw_targets(length, k, _draw(seed))
    assert targets.shape == (length,)
    assert abs(int(targets.sum()) - length / k) < 1


def test_a_short_text_has_its_share_on_average() -> None:
    for length in (1, 4, 8, 17):
        counts = [int(draw_targets(length, 6, _draw(seed)).sum()) for seed in range(3000)]
        assert sum(counts) / len(counts) == pytest.approx(length / 6, abs=0.04)


def test_spans_have_one_to_five_tokens_and_lie_anywhere_in_their_contexts() -> None:
    draw = _draw(0)
    # Contexts so long that spans of neighbours hardly ever touch: runs are spans.
    runs = Counter(run for _ in range(20) for run in _runs(draw_targets(300_000, 500, draw)))
    total = sum(runs.values())
    # P(L) ∝ 1 / L, as the authors' code has it.
    harmonic = sum(1 / span for span in range(1, 6))
    for span in range(1, 6):
        assert runs[span] / total == pytest.approx(1 / span / harmonic, abs=0.01)
    assert sum(count for run, count in runs.items() if run > 5) < 0.01 * total
    places = Counter(int(draw_targets(6, 6, draw).nonzero()) for _ in range(6000))
    assert len(places) == 6
    assert all(850 < count < 1150 for count in places.values())


def test_the_order_is_uniform_and_does_not_cross_parts() -> None:
    parts = torch.tensor([0, 0, 1, 1, 1, 1]).expand(6000, -1)
    context = torch.tensor([True, False, False, False, True, False]).expand(6000, -1)
    places = draw_places(parts, context, _draw(1))
    orders = Counter(tuple(row) for row in places.argsort(dim=1, stable=True).tolist())
    assert {order[:3] for order in orders} == {(0, 1, 4)}
    assert len(orders) == 6
    assert all(850 < count < 1150 for count in orders.values())


@st.composite
def _rows(draw: st.DrawFn) -> tuple[list[int], list[bool]]:
    lengths = [draw(st.integers(0, 6)) for _ in range(3)]
    parts = [part for part, length in enumerate(lengths) for _ in range(length)] or [0]
    return parts, draw(st.lists(st.booleans(), min_size=len(parts), max_size=len(parts)))


def _seen_on_a_walk(parts: list[int], context: list[bool], places: list[float]) -> list[set[int]]:
    """What each token's query sees: the order is walked through, and what was passed is seen."""
    seen: set[int] = set()
    sees: list[set[int]] = [set() for _ in parts]
    for part in sorted(set(parts)):
        own = [at for at in range(len(parts)) if parts[at] == part]
        block = {at for at in own if context[at]}
        seen |= block
        for at in block:
            sees[at] = set(seen)
        for at in sorted((at for at in own if not context[at]), key=lambda at: places[at]):
            sees[at] = set(seen)
            seen.add(at)
    return sees


@given(row=_rows(), seed=st.integers(0, 2**32))
def test_the_mask_is_that_of_a_walk_through_the_order(row: tuple[list[int], list[bool]], seed: int) -> None:
    parts, context = row
    places = draw_places(torch.tensor([parts]), torch.tensor([context]), _draw(seed))
    hidden = hidden_pairs(places, torch.tensor([context]))[0]
    want = _seen_on_a_walk(parts, context, places[0].tolist())
    assert [{j for j, is_hidden in enumerate(line) if not is_hidden} for line in hidden.tolist()] == want
