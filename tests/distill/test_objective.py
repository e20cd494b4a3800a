"""The loss of a batch in which some rows have no label, against a plain computation in float64."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import BertConfig, BertForSequenceClassification

from common.labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task
from distill.layer_map import evenly_spread
from distill.live_teacher import LiveTeacher
from distill.losses import hard_loss, patience_loss, soft_loss
from distill.objective import DistillationObjective
from distill.pretraining.infoword import DeepInfoMax
from distill.processes import Share
from distill.settings import DistillationSettings
from distill.teacher import TeacherTargets
from tests.conftest import make_config, make_tokenizer, messages

Array = NDArray[np.float64]
LAYERS, WIDTH, LENGTH = 3, 8, 5
LABELLED = 6  # of the training rows, the first ones
SETTINGS = DistillationSettings(LAYERS, temperature=3.0, alpha=0.6, beta=20.0)
STUDENT: Any = SimpleNamespace(config=BertConfig(hidden_size=WIDTH))
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
    objective = DistillationObjective(STUDENT, task, SETTINGS, answers, LABELLED)
    terms = objective(SimpleNamespace(logits=logits, hidden_states=hidden), {}, rows, torch.from_numpy(labels)[known])

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
    objective = DistillationObjective(STUDENT, task, settings, answers, LABELLED)
    logits = torch.tensor([[2.0, -1.0, 0.5]]).repeat(4, 1)
    targets = torch.tensor([1, 1, 1, 1])
    alone, all_four = (
        objective(SimpleNamespace(logits=logits), {}, rows, targets[:known])["hard"]
        for rows, known in (([0, 7, 8, 9], 1), ([0, 1, 2, 3], 4))
    )
    assert 4 * alone.item() == pytest.approx(all_four.item())


@pytest.mark.parametrize("method", ["finetune", "kd", "pkd-skip", "pkd-last"])
def test_the_papers_losses_are_to_the_bit_what_eq_8_says(method: str) -> None:
    torch.manual_seed(0)
    settings = DistillationSettings(LAYERS, method, temperature=10.0, alpha=0.2, beta=500.0)
    answers = TeacherTargets(torch.randn(4, 3), torch.randn(4, LAYERS - 1, WIDTH))
    logits, hidden, targets = torch.randn(4, 3), torch.randn(LAYERS + 1, 4, LENGTH, WIDTH), torch.tensor([0, 2, 1, 1])
    expected = hard_loss(logits, targets, SINGLE_LABEL)
    if method != "finetune":
        expected = 0.8 * expected + 0.2 * soft_loss(logits, answers.logits, 10.0, SINGLE_LABEL)
    if method.startswith("pkd"):
        expected = expected + 500.0 * patience_loss(hidden[1:-1, :, 0].transpose(0, 1), answers.states[[0, 1, 2, 3]])
    objective = DistillationObjective(STUDENT, TASKS[0], settings, answers, LABELLED)
    assert not list(objective.parameters())
    terms = objective(SimpleNamespace(logits=logits, hidden_states=hidden), {}, [0, 1, 2, 3], targets)
    assert torch.equal(terms["loss"], expected)


def test_states_in_half_precision_are_projected_in_full() -> None:
    torch.manual_seed(2)
    settings = DistillationSettings(2, "pkd-skip", hidden_weight=1.0)
    teacher, student = _bert(24, 5, 4), _bert(12, 2, 2)
    live = LiveTeacher(teacher, student, settings, torch.device("cpu"))
    answers = TeacherTargets(torch.randn(2, 3), torch.randn(2, 1, 24))
    objective = DistillationObjective(student, TASKS[0], settings, answers, 2, live)
    batch = {"input_ids": torch.randint(1, 60, (2, 6)), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    logits, hidden = torch.randn(2, 3), torch.randn(3, 2, 6, 12).bfloat16()
    half, full = (
        objective(SimpleNamespace(logits=logits, hidden_states=tuple(states)), batch, [0, 1], torch.tensor([0, 2]))
        for states in (hidden, hidden.float())
    )
    for term in ("patience", "hidden"):
        assert torch.equal(half[term], full[term])


def _bert(width: int, layers: int, heads: int) -> BertForSequenceClassification:
    config = BertConfig(
        vocab_size=60,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=2 * width,
        initializer_range=0.2,
        num_labels=3,
    )
    return BertForSequenceClassification(config).eval()


@pytest.mark.parametrize("width", [24, 12])
def test_hidden_states_and_relations_of_a_live_teacher_against_float64(width: int) -> None:
    torch.manual_seed(1)
    teacher, student = _bert(24, 5, 4), _bert(width, 2, 2)
    settings = DistillationSettings(
        2, "kd", hidden_weight=3.0, relation_weight=7.0, relation_layer=4, relation_heads=3, alpha=0.0
    )
    live = LiveTeacher(teacher, student, settings, torch.device("cpu"))
    objective = DistillationObjective(student, TASKS[0], settings, None, 2, live)
    ids, mask = torch.randint(1, 60, (2, 6)), torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    batch = {"input_ids": ids, "attention_mask": mask}
    for projection in objective.parameters():
        torch.nn.init.normal_(projection, std=0.3)
    own = student(**batch, output_hidden_states=True)
    terms = objective(own, batch, [0, 1], torch.tensor([0, 2]))
    terms["loss"].backward()
    assert all(part.grad is None for part in teacher.parameters())
    assert all(part.grad is not None and part.grad.abs().sum() > 0 for part in objective.parameters())
    assert len(list(objective.parameters())) == (width != 24)

    theirs = teacher.double()(**batch, output_hidden_states=True).hidden_states
    weight = next(objective.parameters(), torch.eye(24)).double().detach().numpy()
    tokens = [(row, place) for row in range(2) for place in range(int(mask[row].sum()))]
    hidden = 0.0
    for j, layer in enumerate(evenly_spread(5, 2), start=1):
        for row, place in tokens:
            mine = weight @ own.hidden_states[j][row, place].double().detach().numpy()
            hidden += float(((mine - theirs[layer][row, place].detach().numpy()) ** 2).sum()) / (len(tokens) * 2 * 24)
    relation = 0.0
    sides = []
    for model, states, layer in ((teacher, theirs, 4), (student.double(), own.hidden_states, 2)):
        attention = model.bert.encoder.layer[layer - 1].attention.self
        inside = states[layer - 1].double()
        sides.append([part(inside).detach().numpy() for part in (attention.query, attention.key, attention.value)])
    for given, mine in zip(*sides, strict=True):
        for row in range(2):
            length = int(mask[row].sum())
            for head in range(3):
                rows = []
                for vectors in (given, mine):
                    size = vectors.shape[-1] // 3
                    part = vectors[row, :length, head * size : (head + 1) * size]
                    rows.append(np.stack([_log_softmax(line) for line in part @ part.T / np.sqrt(size)]))
                relation += float((np.exp(rows[0]) * (rows[0] - rows[1])).sum()) / (3 * len(tokens))
    assert terms["hidden"].item() == pytest.approx(hidden, rel=1e-4)
    assert terms["relation"].item() == pytest.approx(relation, rel=1e-4)
    assert terms["loss"].item() == pytest.approx(terms["hard"].item() + 3 * hidden + 7 * relation, rel=1e-4)


def test_dim_is_the_students_own_in_float64_and_comes_on_top() -> None:
    torch.manual_seed(3)
    tokenizer, settings = make_tokenizer("bert"), DistillationSettings(2, "kd", alpha=0.0, dim_weight=0.4)
    config = make_config("bert", len(tokenizer), 2, initializer_range=0.2, num_labels=3)
    student = BertForSequenceClassification(config).eval()
    dim = DeepInfoMax(student, tokenizer)
    objective = DistillationObjective(student, TASKS[0], settings, None, 6, dim=dim)
    assert not list(objective.parameters())
    assert not objective.state_dict()
    pairs = [(one["text"], other["text"]) for one, other in zip(messages()[:6], messages()[6:12], strict=True)]
    batch = dict(tokenizer(pairs, padding=True, return_tensors="pt"))
    output, targets = student(**batch), torch.tensor([0, 2, 1, 1, 0, 2])

    torch.manual_seed(4)
    terms = objective(output, batch, list(range(6)), targets)
    torch.manual_seed(4)
    half = objective(output, batch, list(range(6)), targets, Share(0.5, 0.5))
    torch.manual_seed(4)
    views = dim.views(batch["input_ids"], torch.default_generator)
    assert terms.keys() == {"loss", "hard", "dim"}
    assert terms["loss"].item() == pytest.approx(terms["hard"].item() + 0.4 * terms["dim"].item())
    assert half["dim"].item() == pytest.approx(terms["dim"].item() / 2)
    terms["loss"].backward()
    assert student.bert.embeddings.word_embeddings.weight.grad is not None

    exact = student.bert.double()
    with torch.no_grad():
        whole = exact(**{**batch, "input_ids": views["global_ids"]}).last_hidden_state[:, 0].numpy()
        alone = exact(views["local_ids"], views["local_mask"]).last_hidden_state[:, 0].numpy()
    rows = [line[mask.bool()].tolist() for line, mask in zip(views["local_ids"], views["local_mask"], strict=True)]
    sentence, expected = views["sentence"].tolist(), 0.0
    for number, row in enumerate(rows):
        rivals = [
            other
            for other, text in enumerate(rows)
            if other == number or (sentence[other] != sentence[number] and text != row)
        ]
        scores = np.array([whole[sentence[number]] @ alone[other] for other in rivals])
        expected -= _log_softmax(scores - scores.max())[rivals.index(number)] / len(rows)
    assert len(rows) >= 6
    assert terms["dim"].item() == pytest.approx(expected, rel=1e-5)
