"""Pretraining as a whole: its steps, what it learns and leaves, and what will not do."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, get_linear_schedule_with_warmup

from common.errors import InputError, WorkFailedError
from distill.checkpoint import Checkpoint
from distill.distillation import distill
from distill.finetuning import finetune
from distill.pretraining.corpus import Corpus
from distill.pretraining.pretraining import pretrain
from distill.pretraining.settings import PretrainingSettings
from distill.pretraining.start import find_start, make_model
from distill.pretraining.stream import SegmentStream, ShuffledDocuments
from distill.pretraining.tokenizer import text_encoder
from distill.settings import DistillationSettings, TrainingSettings
from tests.conftest import make_model as make_directory
from tests.distill.pretraining.tiny import (
    OBJECTIVES,
    SETTINGS,
    Files,
    TinyObjective,
    run_pretrain,
    settings_for,
    write_config,
)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_result_is_a_base_of_finetune_and_of_distill(
    objective: str,
    pretraining_files: Files,
    undisturbed: Path,
    small_tables: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = undisturbed / objective
    train, dev = map(str, small_tables)
    training = TrainingSettings(epochs=1, learning_rate=1e-3)
    record = finetune(str(base), train, dev, tmp_path / "teacher", training)
    weights = load_file(base / "model.safetensors")
    assert record.base_model is not None
    assert record.base_model["name"] == objective
    settings = DistillationSettings(1, "kd", "pretrained", base=str(base), training=training)
    for more, name in ((settings, "named"), (replace(settings, base=None), "found")):
        if name == "named" or objective == "masked":
            # Without --base the model is looked up by its name, from where one stands.
            with contextlib.chdir(base.parent):
                student = distill(str(tmp_path / "teacher"), train, dev, tmp_path / name, more)
            assert student.layers["started_as"]["model"] == objective
    # The encoder, the tokenizer and its limit are whole and the run's own.
    found = AutoModel.from_pretrained(base)
    assert all(torch.equal(value, weights[f"{_prefix(objective)}.{name}"]) for name, value in _encoder(found))
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert tokenizer.model_max_length == SETTINGS.max_length
    assert tokenizer.padding_side == ("left" if objective == "permutation" else "right")
    # The next run goes on from it, its head included.
    capsys.readouterr()
    again = run_pretrain(pretraining_files, tmp_path / "again", settings_for(objective, steps=1), model=str(base))
    assert again.started_from == record.base_model
    assert "head" not in capsys.readouterr().out
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == weights.keys()


def _prefix(objective: str) -> str:
    return "transformer" if objective == "permutation" else "bert"


def _encoder(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters but for the pooler's, which pretraining has no use for."""
    return ((name, value) for name, value in model.named_parameters() if not name.startswith("pooler."))


@pytest.mark.usefixtures("tiny")
def test_the_steps_are_those_of_a_plain_loop(pretraining_files: Files, tmp_path: Path) -> None:
    """AdamW over the mean of all targets of a step's batches, warm-up, linear decay, clipped gradients."""
    settings = replace(SETTINGS, steps=5, warmup=0.4, clip=0.5, weight_decay=0.1, learning_rate=1e-2)
    record = run_pretrain(pretraining_files, tmp_path / "out", settings)

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    start = find_start(settings, None, pretraining_files["bert"], None)
    objective = TinyObjective(make_model(start, tokenizer, settings.seed), tokenizer, settings)
    documents = ShuffledDocuments(Corpus([pretraining_files["corpus"]]), text_encoder(tokenizer), settings.seed)
    stream = SegmentStream(documents, settings.batch_size, objective.body_tokens)
    draw = torch.Generator().manual_seed(settings.seed)
    torch.manual_seed(settings.seed)
    decayed, plain = [], []
    for parameter in objective.parameters():
        (decayed if parameter.ndim > 1 else plain).append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}], lr=1e-2
    )
    schedule = get_linear_schedule_with_warmup(optimizer, 2, 5)
    objective.train()
    for step in range(5):
        terms = [objective(objective.batch(stream.next(), draw)) for _ in range(2)]
        targets = sum(term["targets"] for term in terms)
        loss = sum(term["loss"] * term["targets"] for term in terms) / targets
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(objective.parameters(), 0.5)
        assert record.losses[step]["loss"] == pytest.approx(loss.item(), rel=1e-4)
        assert record.losses[step]["targets"] == float(targets)
        assert record.losses[step]["lr"] == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    weights = load_file(tmp_path / "out" / "model.safetensors")
    for name, value in objective.encoder.named_parameters():
        torch.testing.assert_close(weights[name], value, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_it_learns(objective: str, pretraining_files: Files, tmp_path: Path) -> None:
    settings = settings_for(objective, steps=60, batch_size=8, accumulate=1)
    record = run_pretrain(pretraining_files, tmp_path / "out", replace(settings, learning_rate=5e-3))
    losses = [entry["loss"] for entry in record.losses]
    assert sum(losses[-20:]) / 20 < sum(losses[:10]) / 10 - 0.15
    assert record.epochs >= 1
    assert record.model["layers"] == 2
    assert record.tokens > 60 * 8


@pytest.mark.usefixtures("tiny")
def test_the_record_of_a_long_run_is_short(
    pretraining_files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = run_pretrain(pretraining_files, tmp_path / "every", SETTINGS).losses
    monkeypatch.setattr("distill.pretraining.run.ENTRIES", 3)
    few = run_pretrain(pretraining_files, tmp_path / "few", SETTINGS).losses
    assert [entry["step"] for entry in few] == [4, 8, 12]
    for index, entry in enumerate(few):
        part = every[4 * index : 4 * index + 4]
        targets = sum(step["targets"] for step in part)
        assert entry["targets"] == targets
        mean = sum(step["loss"] * step["targets"] for step in part) / targets
        assert entry["loss"] == pytest.approx(mean)
        assert entry["lr"] == part[-1]["lr"]


@pytest.mark.usefixtures("tiny")
def test_a_loss_that_is_no_number_names_its_step_and_checkpoint(
    pretraining_files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    forward = TinyObjective.forward

    def fail(self: TinyObjective, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        calls.append(1)
        terms = forward(self, batch)
        return {**terms, "loss": terms["loss"] * (float("nan") if len(calls) == 10 else 1)}

    monkeypatch.setattr(TinyObjective, "forward", fail)
    monkeypatch.setattr(Checkpoint, "due", True)
    with pytest.raises(WorkFailedError) as failure:
        run_pretrain(pretraining_files, tmp_path / "out", SETTINGS)
    assert str(failure.value) == (
        f"the loss is nan at step 5: nothing was written, the last good checkpoint is of step 4, in "
        f"{tmp_path / '.out.checkpoint'}; lower --learning-rate"
    )
    assert not (tmp_path / "out").exists()


def test_another_models_pooler_and_labels_stay_behind(
    pretraining_files: Files, bert_teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = run_pretrain(pretraining_files, tmp_path / "out", settings_for("masked", steps=1), model=str(bert_teacher))
    assert f"{bert_teacher.name} has no language-model head; it starts fresh" in capsys.readouterr().out
    assert record.started_from is not None
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert not config.get("id2label")
    assert config["architectures"] == ["BertForMaskedLM"]
    # Its tokenizer is the teacher's.
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab() == (
        AutoTokenizer.from_pretrained(bert_teacher).get_vocab()
    )


def test_a_tokenizer_that_is_given_decides_about_the_built_in_model(
    pretraining_files: Files, bert_teacher: Path, tmp_path: Path
) -> None:
    settings = settings_for("masked", steps=1)
    record = pretrain([pretraining_files["corpus"]], tmp_path / "out", settings, tokenizer=bert_teacher)
    assert record.model == {
        "type": "bert",
        "layers": 4,
        "width": 256,
        "vocabulary": len(AutoTokenizer.from_pretrained(bert_teacher)),
        "parameters": record.model["parameters"],
    }


def test_what_does_not_go_together_is_one_line(pretraining_files: Files, bert_base: Path, tmp_path: Path) -> None:
    bert, xlnet = pretraining_files["bert"], pretraining_files["xlnet"]
    masked, permutation = SETTINGS, settings_for("permutation")
    roberta = make_directory(tmp_path / "roberta", "roberta", pretrained=True)
    small = write_config(tmp_path / "small.json", vocab_size=64)
    narrow = write_config(tmp_path / "narrow.json", hidden_size=30)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "empty").mkdir()
    cases: list[tuple[PretrainingSettings, dict[str, Any], str]] = [
        (
            permutation,
            {"config": bert},
            r"the permutation objective trains models of type 'xlnet'; .*json is of 'bert'",
        ),
        (masked, {"config": xlnet}, r"the masked objective trains models of type 'bert'; .* is of 'xlnet'"),
        (masked, {"model": str(roberta)}, r"type 'bert'; roberta is of 'roberta'"),
        (permutation, {"model": str(bert_base)}, r"type 'xlnet'; base is of 'bert'"),
        (masked, {"model": str(bert_base), "config": bert}, r"--model and --config exclude each other"),
        (masked, {"model": str(bert_base), "tokenizer": bert_base}, r"--model and --tokenizer exclude each other"),
        (replace(masked, vocabulary=100), {"model": str(bert_base)}, r"--model and --vocabulary exclude each other"),
        (replace(masked, vocabulary=100), {"tokenizer": bert_base}, r"--tokenizer and --vocabulary exclude each other"),
        (masked, {"config": small, "tokenizer": bert_base}, r"the tokenizer has 600 tokens, the model 64: they do not"),
        (
            permutation,
            {"config": xlnet, "tokenizer": bert_base},
            r"pads on the right, .* 'xlnet' read: they do not fit",
        ),
        (masked, {"config": narrow}, r"no model can be made by this config: The hidden size"),
        (masked, {"config": tmp_path / "broken.json"}, r"broken.json is not valid JSON"),
        (masked, {"config": tmp_path / "none.json"}, r"none.json: no such file"),
        (masked, {"tokenizer": tmp_path / "empty"}, r"empty: a fast tokenizer is needed"),
        (masked, {"model": str(tmp_path / "empty")}, r"empty is no model directory"),
        (replace(masked, max_length=129), {"config": bert}, r"max_length 129 is more than the model's 128 positions"),
    ]
    before = sorted(tmp_path.iterdir())
    for settings, more, message in cases:
        with pytest.raises(InputError, match=message):
            pretrain([pretraining_files["corpus"]], tmp_path / "out", settings, **more)
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.usefixtures("tiny")
def test_a_run_replaces_its_own_result_alone(pretraining_files: Files, tmp_path: Path) -> None:
    settings = replace(SETTINGS, steps=1)
    run_pretrain(pretraining_files, tmp_path / "out", settings)
    with pytest.raises(InputError, match=r"out exists: choose another output or pass --overwrite"):
        run_pretrain(pretraining_files, tmp_path / "out", settings)
    run_pretrain(pretraining_files, tmp_path / "out", settings, overwrite=True)
    with pytest.raises(InputError, match="out is the model itself"):
        run_pretrain(pretraining_files, tmp_path / "out", settings, overwrite=True, model=str(tmp_path / "out"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").touch()
    with pytest.raises(InputError, match="was not made by Understudy"):
        run_pretrain(pretraining_files, tmp_path / "mine", settings, overwrite=True)
