"""Numbers as labels: learned alike in any unit, answered in their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from common.labels import REGRESSION, SINGLE_LABEL
from distill.distillation import distill
from distill.finetuning import finetune
from distill.label_scale import LabelScale
from distill.models import FAMILIES, output_layer
from distill.settings import DistillationSettings, TrainingSettings
from tests.conftest import INTENTS, make_model, messages, write_tsv

TRAINING = TrainingSettings(epochs=2, learning_rate=1e-3, batch_size=8, max_length=64)
STILL = TrainingSettings(epochs=1, learning_rate=1e-12, max_length=64)


def _table(path: Path, low: float, high: float) -> str:
    """Messages of three intents, each of which has a number of its own, and some noise."""
    rows = [row for row in messages() if row["label"] in INTENTS][:60]
    share = {label: place / 2 for place, label in enumerate(INTENTS)}
    numbers = [low + (high - low) * (share[row["label"]] + n % 3 / 50) for n, row in enumerate(rows)]
    return str(
        write_tsv(path, [{"text": row["text"], "label": number} for row, number in zip(rows, numbers, strict=True)])
    )


def _labels(path: str) -> np.ndarray:
    return np.array([float(line.split("\t")[1]) for line in Path(path).read_text().splitlines()[1:]])


def _answers(model: Path, path: str) -> np.ndarray:
    """What transformers' own model says, text by text."""
    classifier = AutoModelForSequenceClassification.from_pretrained(model).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [line.split("\t")[0] for line in Path(path).read_text().splitlines()[1:]]
    with torch.inference_mode():
        return np.array(
            [classifier(**tokenizer(text, truncation=True, return_tensors="pt")).logits.item() for text in texts]
        )


def test_the_scale_is_the_labels_mean_and_deviation() -> None:
    scale = LabelScale.of(np.array([2.0, 4.0, 9.0], np.float32), REGRESSION)
    assert scale == LabelScale(5.0, pytest.approx((26 / 3) ** 0.5))
    assert scale.standardized(np.array([5.0], np.float32)).tolist() == [0.0]
    assert LabelScale.of(np.full(7, 0.1, np.float32), REGRESSION).deviation == 1.0
    classes = np.array([0, 1, 1])
    assert LabelScale.of(classes, SINGLE_LABEL).standardized(classes) is classes


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "xlnet"])
def test_a_model_answers_in_either_unit(family: str, tmp_path: Path) -> None:
    path = make_model(tmp_path / "m", family, labels=("score",), problem_type=REGRESSION)
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    scale = LabelScale(50.0, 20.0)
    with torch.inference_mode():
        before = model(ids).logits
        scale.unfold(model)
        standardized = model(ids).logits
        torch.testing.assert_close(standardized, (before - 50) / 20)
        with scale.in_labels_unit(model):
            torch.testing.assert_close(model(ids).logits, before)
        assert torch.equal(model(ids).logits, standardized)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_output_layer_of_each_family_is_outside_the_encoder(family: str) -> None:
    config = AutoConfig.for_model(family, num_labels=7, **{"n_layer" if family == "xlnet" else "num_hidden_layers": 1})
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    names = {name for name, part in model.named_modules() if part is output_layer(model)}
    assert names < {"classifier", "classifier.out_proj", "logits_proj"}
    assert output_layer(model).out_features == 7


def test_labels_far_from_0_are_learned_as_those_near_it(bert_base: Path, tmp_path: Path) -> None:
    near, far = _table(tmp_path / "near.tsv", -1, 1), _table(tmp_path / "far.tsv", 0, 1000)
    records = [
        finetune(str(bert_base), table, table, tmp_path / name, TRAINING, regression=True)
        for name, table in (("a", near), ("b", far))
    ]
    losses = [[step["loss"] for step in record.steps] for record in records]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    best = records[1].best["mse"]
    assert best < 1.05 * np.var(_labels(far))
    assert best == pytest.approx(records[0].best["mse"] * 500**2, rel=1e-3)
    assert np.mean((_answers(tmp_path / "b", far) - _labels(far)) ** 2) == pytest.approx(best, rel=1e-3)
    written = json.loads((tmp_path / "b" / "distillation.json").read_text())["data"]["train"]["labels"]
    assert written == pytest.approx({"mean": _labels(far).mean(), "deviation": _labels(far).std()}, rel=1e-6)


def test_a_model_of_numbers_goes_on_from_what_it_answers(bert_base: Path, tmp_path: Path) -> None:
    table, other = _table(tmp_path / "t.tsv", 0, 100), _table(tmp_path / "o.tsv", -30, 60)
    first = finetune(str(bert_base), table, table, tmp_path / "a", TRAINING, regression=True)
    again = finetune(str(tmp_path / "a"), other, table, tmp_path / "b", STILL, regression=True)
    assert again.best["mse"] == pytest.approx(first.best["mse"], rel=1e-3)
    expected = np.mean((_answers(tmp_path / "a", other) - _labels(other)) ** 2) / np.var(_labels(other))
    assert np.mean([step["loss"] for step in again.steps]) == pytest.approx(expected, rel=0.3)


@pytest.mark.parametrize("init", ["pretrained", "teacher-skip"])
def test_students_learn_numbers_from_labels_and_teacher(init: str, bert_base: Path, tmp_path: Path) -> None:
    table = _table(tmp_path / "t.tsv", 0, 100)
    finetune(str(bert_base), table, table, tmp_path / "teacher", TRAINING, regression=True)
    base = str(bert_base) if init == "pretrained" else None
    settings = DistillationSettings(2, "kd", init, base=base, training=TRAINING)
    record = distill(str(tmp_path / "teacher"), table, table, tmp_path / "student", settings)
    assert record.best["mse"] < 1.05 * np.var(_labels(table))
    assert np.mean((_answers(tmp_path / "student", table) - _labels(table)) ** 2) == pytest.approx(
        record.best["mse"], rel=1e-3
    )
    # A student that answers as its teacher has no soft loss, whatever the unit.
    same = DistillationSettings(3, "kd", "teacher-first", training=STILL)
    soft = distill(str(tmp_path / "teacher"), table, table, tmp_path / "same", same).steps
    assert max(step["soft"] for step in soft) < 0.01


def test_a_model_that_learned_no_numbers_says_so(
    bert_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, dev = _table(tmp_path / "t.tsv", 0, 100), _table(tmp_path / "d.tsv", 500, 600)
    finetune(str(bert_base), train, dev, tmp_path / "a", STILL, regression=True)
    assert f"variance of the dev labels {np.var(_labels(dev)):.4g}" in capsys.readouterr().out
    known = _table(tmp_path / "k.tsv", 0, 1)
    answers = _answers(tmp_path / "a", known)
    rows = Path(known).read_text().splitlines()
    own = [f"{row.split(chr(9))[0]}{chr(9)}{answer}" for row, answer in zip(rows[1:], answers, strict=True)]
    Path(known).write_text("\n".join([rows[0], *own]) + "\n")
    finetune(str(tmp_path / "a"), known, known, tmp_path / "b", STILL, regression=True)
    assert "variance" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("labels", "said"),
    [(("0.5", "2", "3"), "Labels such as '0.5' are learned as classes"), (("1.0", "2", "nan"), None)],
)
def test_numbers_that_are_learned_as_classes_are_told(
    labels: tuple[str, ...],
    said: str | None,
    bert_base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [{"text": row["text"], "label": labels[n % 3]} for n, row in enumerate(messages()[:12])]
    table = str(write_tsv(tmp_path / "rated.tsv", rows))
    finetune(str(bert_base), table, table, tmp_path / "teacher", STILL)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Labels such as")]
    assert [line[: len(said or "")] for line in told] == ([said] if said else [])
