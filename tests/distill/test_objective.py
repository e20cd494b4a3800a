"""The loss of a batch in which some rows have no label, against a plain computation in float64."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import BertConfig

from common.labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task
from distill.objective import pkd_objective
from distill.settings import DistillationSettings
from distill.teacher import TeacherTargets

Array = NDArray[np.float64]
LAYERS, WIDTH, LENGTH = 3, 8, 5
LABELLED = 6  # of the training rows, the first ones
SETTINGS = DistillationSettings(LAYERS, temperature=3.0, alpha=0.6, beta=20.0)
STUDENT: Any = SimpleNamespace(config=BertConfig())
TASKS = [Task(SINGLE_LABEL, ("a", "b", "c")), Task(MULTI_LABEL, ("a", "b", "c")), Task(REGRESSION, ("score",))]


def _log_softmax(values: Array) -> Array:
    return values - np.log(np.exp(values).sum())


def _sigmoid_entropy(logits: Array, target: Array) -> float:
    chance = 1 / (1 + np.exp(-logits))
    return float(-(target * np.log(chance) + (1 - target) * np.log(1 - chance)).mean())


def _hard(logits: Array, target: Any, kind: str) -> float:
    if kind == SINGLE_LABEL:
        return float(-_log_softmax(logits)[int(target)])
    return _sigmoid_entropy(logits, target) if kind == MULTI_LABEL else float((logits[0] - target) ** 2)


def _soft(logits: Array, given: Array, kind: str) -> float:
    heat = SETTINGS.temperature
    if kind == SINGLE_LABEL:
        return float(-(np.exp(_log_softmax(given / heat)) * _log_softmax(logits / heat)).sum() * heat**2)
    if kind == MULTI_LABEL:
        return _sigmoid_entropy(logits / heat, 1 / (1 + np.exp(-given / heat))) * heat**2
    return float((logits[0] - given[0]) ** 2)


@pytest.mark.parametrize("rows", [[7, 2, 9, 0], [0, 8, 7, 6], [6, 9, 7, 8], [3, 1, 0, 5], [4, 6, 2]])
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.problem_type)
def test_the_loss_of_a_mixed_batch(task: Task, rows: list[int]) -> None:
    draw = np.random.default_rng(len(rows) + rows[0])
    total, count = 10, len(task.labels)
    answers = TeacherTargets(
        torch.tensor(draw.normal(0, 3, (total, count)), dtype=torch.float32),
        torch.tensor(draw.normal(size=(total, LAYERS - 1, WIDTH)), dtype=torch.float32),
    )
    labels = {
        SINGLE_LABEL: draw.integers(0, count, LABELLED),
        MULTI_LABEL: draw.integers(0, 2, (LABELLED, count)).astype(np.float32),
        REGRESSION: draw.normal(size=LABELLED).astype(np.float32),
    }[task.problem_type]
    logits = torch.tensor(draw.normal(0, 2, (len(rows), count)), dtype=torch.float32, requires_grad=True)
    hidden = [torch.randn(len(rows), LENGTH, WIDTH) for _ in range(LAYERS + 1)]

    known = [row for row in rows if row < LABELLED]
    objective = pkd_objective(STUDENT, task, SETTINGS, answers, LABELLED)
    terms = objective(SimpleNamespace(logits=logits, hidden_states=hidden), rows, torch.from_numpy(labels)[known])

    hard = soft = patience = 0.0
    for place, row in enumerate(rows):
        own = logits[place].detach().double().numpy()
        if row < LABELLED:
            hard += _hard(own, labels[row], task.problem_type) / len(rows)
        soft += _soft(own, answers.logits[row].double().numpy(), task.problem_type) / len(rows)
        for layer in range(LAYERS - 1):
            mine = hidden[layer + 1][place, 0].double().numpy()
            theirs = answers.states[row, layer].double().numpy()
            distance = ((mine / np.linalg.norm(mine) - theirs / np.linalg.norm(theirs)) ** 2).sum()
            patience += float(distance) / (len(rows) * (LAYERS - 1) * WIDTH)
    expected = {
        "loss": (1 - SETTINGS.alpha) * hard + SETTINGS.alpha * soft + SETTINGS.beta * patience,
        "hard": hard,
        "soft": soft,
        "patience": patience,
    }
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(expected, rel=1e-5, abs=1e-7)
    terms["loss"].backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_a_label_weighs_the_same_however_few_there_are() -> None:
    task, settings = TASKS[0], DistillationSettings(LAYERS, "kd")
    answers = TeacherTargets(torch.zeros(10, 3), torch.zeros(10, 0, WIDTH))
    objective = pkd_objective(STUDENT, task, settings, answers, LABELLED)
    logits = torch.tensor([[2.0, -1.0, 0.5]]).repeat(4, 1)
    targets = torch.tensor([1, 1, 1, 1])
    alone, all_four = (
        objective(SimpleNamespace(logits=logits), rows, targets[:known])["hard"]
        for rows, known in (([0, 7, 8, 9], 1), ([0, 1, 2, 3], 4))
    )
    assert 4 * alone.item() == pytest.approx(all_four.item())
