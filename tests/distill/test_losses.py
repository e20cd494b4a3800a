"""Losses against numbers worked out by hand and against a float64 implementation of the paper's formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from distill.losses import hard_loss, patience_loss, soft_loss

Array = NDArray[np.float64]


def _softmax(values: Array) -> Array:
    shifted = np.exp(values - values.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def test_hard_loss_of_even_odds_is_log_two() -> None:
    loss = hard_loss(torch.zeros(3, 2), torch.tensor([0, 1, 1]), SINGLE_LABEL)
    assert loss.item() == pytest.approx(math.log(2))


def test_hard_loss_by_hand() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0]])
    assert hard_loss(logits, torch.tensor([0]), SINGLE_LABEL).item() == pytest.approx(-math.log(0.75))
    assert hard_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), MULTI_LABEL).item() == pytest.approx(math.log(2))
    assert hard_loss(torch.tensor([[3.0], [1.0]]), torch.tensor([1.0, 1.0]), REGRESSION).item() == pytest.approx(2.0)


def test_soft_loss_by_hand() -> None:
    # Teacher 3:1 at T = 1, student undecided: the cross-entropy is log 2 whatever the teacher says.
    teacher = torch.tensor([[math.log(3.0), 0.0]])
    assert soft_loss(torch.zeros(1, 2), teacher, 1.0, SINGLE_LABEL).item() == pytest.approx(math.log(2))
    # At T = 2 the factor T² is 4, and 3:1 softens to sqrt(3):1.
    student = torch.tensor([[2 * math.log(3.0), 0.0]])
    weight = math.sqrt(3) / (1 + math.sqrt(3))
    by_hand = -(weight * math.log(0.75) + (1 - weight) * math.log(0.25)) * 4
    assert soft_loss(student, teacher, 2.0, SINGLE_LABEL).item() == pytest.approx(by_hand)
    assert soft_loss(torch.tensor([[3.0]]), torch.tensor([[1.0]]), 5.0, REGRESSION).item() == pytest.approx(4.0)


def test_patience_loss_by_hand() -> None:
    # One batch, one layer, width 2: unit vectors at a right angle are √2 apart; the mean over two numbers is 1.
    student, teacher = torch.tensor([[[3.0, 0.0]]]), torch.tensor([[[0.0, 0.5]]])
    assert patience_loss(student, teacher).item() == pytest.approx(1.0)
    # Length does not count, only direction.
    assert patience_loss(student, student * 7).item() == pytest.approx(0.0)


def test_patience_loss_is_the_papers_sum_scaled() -> None:
    draw = np.random.default_rng(1)
    student, teacher = draw.normal(size=(2, 5, 3, 8))
    total = sum(
        np.sum((student[i, j] / np.linalg.norm(student[i, j]) - teacher[i, j] / np.linalg.norm(teacher[i, j])) ** 2)
        for i in range(5)
        for j in range(3)
    )
    assert patience_loss(torch.tensor(student), torch.tensor(teacher)).item() * 5 * 3 * 8 == pytest.approx(
        total, rel=1e-5
    )


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 6),
    st.integers(2, 9),
    st.floats(0.5, 20.0),
    st.integers(0, 2**32 - 1),
    st.sampled_from([SINGLE_LABEL, MULTI_LABEL]),
)
def test_soft_loss_agrees_with_float64(batch: int, labels: int, temperature: float, seed: int, kind: str) -> None:
    draw = np.random.default_rng(seed)
    student, teacher = draw.normal(0, 5, (2, batch, labels))
    if kind == SINGLE_LABEL:
        expected = -(_softmax(teacher / temperature) * np.log(_softmax(student / temperature))).sum(-1).mean()
    else:
        target, given_ = (1 / (1 + np.exp(-values / temperature)) for values in (teacher, student))
        expected = -(target * np.log(given_) + (1 - target) * np.log1p(-given_)).mean()
    loss = soft_loss(torch.tensor(student), torch.tensor(teacher), temperature, kind)
    # A loss near 0 is known no better than float32 knows the logarithm of a number near 1.
    assert loss.item() / temperature**2 == pytest.approx(expected, rel=1e-4, abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_hard_loss_agrees_with_float64(seed: int, labels: int) -> None:
    draw = np.random.default_rng(seed)
    logits, targets = draw.normal(0, 3, (4, labels)), draw.integers(0, labels, 4)
    expected = -np.log(_softmax(logits)[np.arange(4), targets]).mean()
    assert hard_loss(torch.tensor(logits), torch.tensor(targets), SINGLE_LABEL).item() == pytest.approx(
        expected, rel=1e-5
    )


def test_soft_gradient_keeps_its_size_with_temperature() -> None:
    # With T² the gradient of a nearly matched student tends to a constant; without it, it would fall as 1/T².
    sizes = []
    for temperature in (50.0, 500.0):
        student = torch.tensor([[0.3, -0.2, 0.1]], dtype=torch.float32, requires_grad=True)
        soft_loss(student, torch.zeros(1, 3), temperature, SINGLE_LABEL).backward()
        assert student.grad is not None
        sizes.append(student.grad.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)


def test_half_precision_states_give_a_float32_loss() -> None:
    states = torch.randn(2, 3, 8)
    loss = patience_loss(states.bfloat16(), (states * 2).bfloat16())
    assert loss.dtype == torch.float32
