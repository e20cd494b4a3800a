"""The bound: against plain sums in float64, against known mutual information, and against cross-entropy."""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from distill.pretraining.info_nce import info_nce, similarity
from distill.pretraining.infoword import candidates

ROOT = Path(__file__).parents[3]
PAIRS = 64


@pytest.mark.parametrize("seed", range(5))
def test_the_bound_is_the_formulas_sum(seed: int) -> None:
    draw = np.random.default_rng(seed)
    pairs, columns = 7, 11
    scores = draw.normal(0, 20, (pairs, columns)).astype(np.float32)
    own = draw.integers(0, columns, pairs)
    times = draw.integers(0, 4, (pairs, columns))
    times[np.arange(pairs), own] = 1

    losses, gains = [], []
    for row in range(pairs):
        given = [float(scores[row, column]) for column in range(columns) for _ in range(times[row, column])]
        highest = max(given)
        total = highest + math.log(sum(math.exp(score - highest) for score in given))
        losses.append(total - float(scores[row, own[row]]))
        gains.append(math.log(len(given)) - losses[-1])
    bound = info_nce(torch.from_numpy(scores), torch.from_numpy(own), torch.from_numpy(times))
    assert bound.loss.item() == pytest.approx(np.mean(losses), rel=1e-5)
    assert bound.mutual_information.item() == pytest.approx(np.mean(gains), rel=1e-5, abs=1e-5)


def test_candidates_that_are_left_out_have_no_gradient() -> None:
    scores = torch.randn(3, 4, requires_grad=True)
    times = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0], [1, 1, 1, 0]])
    info_nce(scores, torch.tensor([0, 1, 2]), times).loss.backward()
    assert scores.grad is not None
    assert torch.equal(scores.grad != 0, torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 0]]).bool())


def test_over_the_whole_vocabulary_it_is_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 50), torch.randint(50, (6,))
    bound = info_nce(logits, labels, torch.ones(6, 50))
    expected = functional.cross_entropy(logits, labels)
    torch.testing.assert_close(bound.loss, expected)
    torch.testing.assert_close(bound.mutual_information, math.log(50) - expected)


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.99])
def test_with_the_best_critic_it_stays_below_the_mutual_information_and_close(width: int, share: float) -> None:
    truth = share * math.log(PAIRS) / 2
    square = 1 - math.exp(-2 * truth / width)  # of the correlation: I = -width/2 · log(1 - ρ²)
    row = torch.arange(PAIRS)
    everyone = candidates(row, row)
    draw = torch.Generator().manual_seed(0)
    estimates = []
    for _ in range(600):
        a = torch.randn(PAIRS, width, generator=draw)
        b = math.sqrt(square) * a + math.sqrt(1 - square) * torch.randn(PAIRS, width, generator=draw)
        # log p(b|a) / p(b)
        apart = (b - math.sqrt(square) * a[:, None]).square() / (1 - square)
        critic = ((b.square() - apart) / 2 - math.log(1 - square) / 2).sum(dim=2)
        estimates.append(info_nce(critic, row, everyone).mutual_information.item())
    assert 0.9 * truth <= np.mean(estimates) <= truth
    assert max(estimates) <= math.log(PAIRS)


def test_similarity_is_in_full_precision_where_autocast_is_not() -> None:
    torch.manual_seed(1)
    a, b = torch.randn(5, 64), torch.randn(7, 64)
    with torch.autocast("cpu", torch.bfloat16):
        inside, half = similarity(a, b), similarity(a.bfloat16(), b.bfloat16())
    assert inside.dtype == half.dtype == torch.float32
    assert torch.equal(inside, similarity(a, b))
    assert not torch.equal(inside, half)


def test_the_table_names_code_that_is_there() -> None:
    page = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
    named = re.findall(r"\[`([\w.]+)`\]\(\.\./([\w/]+\.py)\)", page)
    assert len(named) > 10
    for name, file in named:
        scope: ast.AST = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        for part in name.split("."):
            scope = _defined(scope)[part]


def _defined(scope: ast.AST) -> dict[str, ast.AST]:
    return {node.name: node for node in ast.iter_child_nodes(scope) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
