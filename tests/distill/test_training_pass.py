"""Passes from graphs against passes without, on a GPU where there is one: elsewhere a graph is the pass itself."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from common.errors import WorkFailedError
from distill import live_teacher, training
from distill.distillation import distill
from distill.finetuning import finetune
from distill.settings import DistillationSettings, TrainingSettings
from distill.training_pass import LENGTHS, MAX_POSITIONS, RECORDABLE, PassOutput, TrainingPass

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
ROWS = 4

# A recorder of this machine's: CUDA's own, or none that records.
own_recorder: Callable[..., Any] | None = None if GPU else (lambda module, _: module)


def make_model(family: str, dropout: float = 0.0) -> PreTrainedModel:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    if family == "distilbert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "seq_classif_dropout": dropout}
        sizes |= {"dropout": dropout, "attention_dropout": dropout}
    elif family == "xlnet":
        sizes = {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64, "dropout": dropout}
    else:
        sizes |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=99, num_labels=3, **sizes)
    return AutoModelForSequenceClassification.from_config(config).to(DEVICE).train()


def make_batch(seed: int, length: int = 24, rows: int = ROWS) -> dict[str, Tensor]:
    """Padded on the right, where all texts but one end early."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 99, (rows, length), generator=draw)
    lengths = torch.randint(1, length + 1, (rows,), generator=draw)
    lengths[0] = length
    mask = (torch.arange(length) < lengths[:, None]).long()
    return {"input_ids": (ids * mask + (1 - mask)).to(DEVICE), "attention_mask": mask.to(DEVICE)}


def answers_and_gradients(
    run: TrainingPass, model: PreTrainedModel, batch: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad(set_to_none=True)
    output = run(batch)
    loss = output.logits.float().square().sum()
    for state in output.hidden_states or ():
        loss = loss + 0.01 * (state.float() * batch["attention_mask"][..., None]).square().sum()
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return output.logits.detach().clone(), gradients


@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("family", RECORDABLE)
def test_graphs_answer_and_learn_as_the_model_does(family: str, states: bool) -> None:
    model = make_model(family)
    graphed = TrainingPass(model, states, own_recorder)
    plain = TrainingPass(model, states, graphs=False)
    for step in range(12):
        batch = make_batch(step, length=24 if step % 2 else 48)
        expected, of_plain = answers_and_gradients(plain, model, batch)
        got, of_graph = answers_and_gradients(graphed, model, batch)
        torch.testing.assert_close(got, expected, rtol=1e-2 if GPU else 0, atol=1e-3 if GPU else 0)
        assert of_graph.keys() == of_plain.keys()
        assert len(of_graph) > 10
        for name, gradient in of_graph.items():
            error = float((gradient - of_plain[name]).norm())
            assert error <= (2e-2 if GPU else 0) * float(of_plain[name].norm()) + 1e-6, name
        with torch.no_grad():  # as an optimizer's step would: graphs read the weights as they are
            for parameter in model.parameters():
                parameter += 0.01 * torch.randn_like(parameter)
    assert len(graphed._graphs) == 2


def test_dropout_is_drawn_anew_by_each_pass() -> None:
    model = make_model("bert", dropout=0.5)
    run, batch = TrainingPass(model, states=False, record=own_recorder), make_batch(0)
    answers = [run(batch).logits.detach().clone() for _ in range(8)]
    assert len(run._graphs) == 1
    assert all(not torch.equal(a, b) for number, a in enumerate(answers) for b in answers[:number])


def test_a_teachers_pass_has_no_gradient() -> None:
    model = make_model("bert").eval().requires_grad_(False)
    run = TrainingPass(model, states=True, record=own_recorder)
    for seed in range(6):
        batch = make_batch(seed)
        with torch.no_grad():
            given, expected = run(batch), model(**batch, output_hidden_states=True)
        assert given.hidden_states is not None
        assert not given.logits.requires_grad
        for state, own in zip(given.hidden_states, expected.hidden_states, strict=True):
            torch.testing.assert_close(state.float(), own, rtol=2e-2 if GPU else 0, atol=3e-2 if GPU else 0)


def test_a_shape_is_recorded_when_it_comes_a_fourth_time() -> None:
    recorded = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
        recorded.append(tuple(inputs[0].shape))
        return module

    run = TrainingPass(make_model("bert"), states=False, record=record)
    for length in (24, 48, 24, 24, 48, *[25] * 6):
        assert run(make_batch(0, length)).logits.shape == (ROWS, 3)
    assert not recorded
    for length in (48, 48, 24, 24, 48):
        run(make_batch(0, length))
    assert recorded == [(ROWS, 48), (ROWS, 24)]


def test_texts_are_padded_to_few_lengths_where_graphs_are_recorded() -> None:
    run = TrainingPass(make_model("bert"), states=False, record=lambda module, _: module)
    assert [run.length(ROWS, n) for n in (1, 16, 17, 25, 100, 256, 257, 512)] == [16, 16, 24, 32, 128, 256, 257, 512]
    many = MAX_POSITIONS // 64
    assert [run.length(many, n) for n in (60, 65)] == [64, 65]
    assert list(LENGTHS) == sorted(LENGTHS)


def test_without_a_gpu_and_in_other_families_nothing_is_padded_or_recorded() -> None:
    family = "xlnet" if GPU else "bert"
    run = TrainingPass(make_model(family), states=False)
    assert run.length(ROWS, 17) == 17
    for seed in range(6):
        run(make_batch(seed))
    assert not run._graphs


def test_where_there_is_no_room_nothing_is_recorded() -> None:
    run = TrainingPass(make_model("bert"), states=False, record=lambda *_: None)
    for seed in range(6):
        assert run(make_batch(seed)).logits.requires_grad
    assert not run._graphs


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory.\nTried"), RuntimeError()])
def test_what_cannot_be_recorded_ends_with_what_to_do(error: RuntimeError) -> None:
    def refuse(*_: object) -> Any:
        raise error

    run, batch = TrainingPass(make_model("bert"), states=False, record=refuse), make_batch(0)
    for _ in range(3):
        run(batch)
    told = r"could not be recorded as a CUDA graph \(.+\): with UNDERSTUDY_CUDA_GRAPHS=0"
    with pytest.raises(WorkFailedError, match=told):
        run(batch)


@pytest.mark.skipif(not GPU, reason="needs a GPU")
def test_graphs_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_CUDA_GRAPHS", "0")
    run = TrainingPass(make_model("bert"), states=False)
    for seed in range(6):
        run(make_batch(seed))
    assert not run._graphs


def test_a_pass_and_its_graphs_go_when_they_are_no_longer_used() -> None:
    model = make_model("bert")
    run = TrainingPass(model, states=False, record=own_recorder)
    for seed in range(5):
        run(make_batch(seed))
    assert run._graphs
    gone = weakref.ref(model)
    gc.disable()
    try:
        del run, model
        assert gone() is None
    finally:
        gc.enable()


def test_training_keeps_nothing_of_a_pass_for_the_next(
    bert_base: Path, small_tables: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[weakref.ref[Tensor]] = []

    class Watched(TrainingPass):
        def __call__(self, batch: dict[str, Tensor]) -> PassOutput:
            assert not any(reference() is not None for reference in passes)
            output = super().__call__(batch)
            passes.append(weakref.ref(output.logits))
            return output

    monkeypatch.setattr(training, "TrainingPass", Watched)
    train, dev = map(str, small_tables)
    finetune(str(bert_base), train, dev, tmp_path / "out", TrainingSettings(epochs=2, max_length=64))
    assert len(passes) > 4


@pytest.mark.parametrize("method", ["finetune", "pkd-skip", "best"])
def test_a_student_from_graphs_is_the_one_from_no_graphs(
    method: str, bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Apart from rounding, and from dropout, which would be drawn for the padding too."""
    teacher = tmp_path / "teacher"
    shutil.copytree(bert_teacher, teacher)
    config = json.loads((teacher / "config.json").read_text())
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (teacher / "config.json").write_text(json.dumps({**config, **dropout}))
    train, dev = map(str, small_tables)
    own = TrainingSettings(epochs=6, learning_rate=1e-3, max_length=64, batch_size=16)
    chosen = DistillationSettings(layers=2, method=method, init="teacher-skip", training=own)
    weights = []
    for graphs in (True, False):
        made: list[TrainingPass] = []

        def make(model: PreTrainedModel, states: bool, made: Any = made, graphs: Any = graphs) -> TrainingPass:
            made.append(TrainingPass(model, states, own_recorder if graphs else None, graphs=graphs))
            return made[-1]

        for module in (training, live_teacher):
            monkeypatch.setattr(module, "TrainingPass", make)
        distill(str(teacher), train, dev, tmp_path / str(graphs), chosen)
        assert all(bool(run._graphs) == graphs for run in made)
        assert len(made) == (2 if method == "best" else 1)
        weights.append(load_file(tmp_path / str(graphs) / "model.safetensors"))
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=0, atol=5e-2 if GPU else 2e-5, msg=name)
