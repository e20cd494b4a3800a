"""Fine-tuning and distilling end to end on small models of several families."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import f1_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from common.errors import InputError, WorkFailedError
from demo.messages import DEV, TRAIN
from distill.distillation import distill
from distill.finetuning import finetune
from distill.models import load_config
from distill.record import read_record
from distill.settings import DistillationSettings, TrainingSettings
from distill.sources import find_model
from tests.conftest import INTENTS, make_model, messages, write_tsv

QUICK = TrainingSettings(epochs=1, learning_rate=1e-3, max_length=64)


def _student(
    layers: int = 2, method: str = "pkd-skip", init: str = "teacher-skip", **more: object
) -> DistillationSettings:
    return DistillationSettings(layers=layers, method=method, init=init, training=QUICK, **more)  # type: ignore[arg-type]


def test_the_teacher_is_what_transformers_loads(bert_teacher: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(bert_teacher)
    assert tuple(model.config.id2label.values()) == INTENTS
    assert model.config.problem_type == "single_label_classification"
    assert AutoTokenizer.from_pretrained(bert_teacher).model_max_length == 64
    record = json.loads((bert_teacher / "distillation.json").read_text())
    assert record["base_model"]["name"] == "base"
    assert record["data"]["train"]["rows"] == 96
    assert len(record["steps"]) == 3
    assert record["best_dev"] == record["epochs"][record["best_epoch"] - 1]["dev"]


@pytest.mark.parametrize("positive", ["cancel_order", "login_problem"])
def test_f1_is_of_the_positive_label(positive: str, bert_base: Path, tmp_path: Path) -> None:
    labels = ("cancel_order", "login_problem")
    train, dev = ([row for row in messages(path) if row["label"] in labels][:60] for path in (TRAIN, DEV))
    tables = [str(write_tsv(tmp_path / f"{name}.tsv", rows)) for name, rows in (("train", train), ("dev", dev))]
    settings = replace(QUICK, epochs=1, metric="f1")
    record = finetune(str(bert_base), *tables, tmp_path / "teacher", settings, positive=positive)
    loaded = pipeline("text-classification", str(tmp_path / "teacher"), device="cpu")
    answers = [answer["label"] for answer in loaded([row["text"] for row in dev])]
    f1 = {label: f1_score([row["label"] for row in dev], answers, pos_label=label) for label in labels}
    assert record.best["f1"] == pytest.approx(f1[positive])
    assert len(set(f1.values())) == 2, "the other label has another F1"


@pytest.mark.parametrize("method", ["finetune", "kd", "pkd-skip", "pkd-last"])
def test_each_method_leaves_a_student_and_its_terms(
    method: str, bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    train, dev = map(str, small_tables)
    record = distill(str(bert_teacher), train, dev, tmp_path / "student", _student(3, method))
    terms = set(record.steps[0]) - {"step", "lr", "loss"}
    assert (
        terms
        == {
            "finetune": {"hard"},
            "kd": {"hard", "soft"},
            "pkd-skip": {"hard", "soft", "patience"},
            "pkd-last": {"hard", "soft", "patience"},
        }[method]
    )
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "student").config.num_hidden_layers == 3
    step = record.steps[0]
    alpha, beta = (0.0, 0.0) if method == "finetune" else (0.7, 100.0 if method.startswith("pkd") else 0.0)
    expected = (1 - alpha) * step["hard"] + alpha * step.get("soft", 0) + beta * step.get("patience", 0)
    assert step["loss"] == pytest.approx(expected, rel=1e-5)


def test_the_same_seed_gives_the_same_bits(bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path) -> None:
    train, dev = map(str, small_tables)
    weights = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        training = TrainingSettings(epochs=1, learning_rate=1e-3, max_length=64, seed=seed)
        settings = DistillationSettings(2, "pkd-skip", "teacher-skip", training=training)
        distill(str(bert_teacher), train, dev, tmp_path / name, settings)
        weights.append(load_file(tmp_path / name / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_the_pretrained_start_takes_the_first_layers_and_a_fresh_head(bert_teacher: Path, bert_base: Path) -> None:
    from distill.students import make_student

    source = find_model(str(bert_base))
    student = make_student(load_config(find_model(str(bert_teacher))), source, (1, 2), seed=0).state_dict()
    base = load_file(bert_base / "model.safetensors")
    for layer in (0, 1):
        name = f"encoder.layer.{layer}.attention.self.query.weight"
        assert torch.equal(student[f"bert.{name}"], base[name])
    assert torch.equal(student["bert.embeddings.word_embeddings.weight"], base["embeddings.word_embeddings.weight"])
    assert torch.equal(student["bert.pooler.dense.weight"], base["pooler.dense.weight"])
    teacher = load_file(bert_teacher / "model.safetensors")
    assert not torch.equal(student["classifier.weight"], teacher["classifier.weight"])


def test_the_skip_start_takes_every_second_layer_and_the_teachers_head(bert_teacher: Path) -> None:
    from distill.students import make_student

    source = find_model(str(bert_teacher))
    student = make_student(load_config(source), source, (2, 4), seed=0).state_dict()
    teacher = load_file(bert_teacher / "model.safetensors")
    for own, theirs in ((0, 1), (1, 3)):
        name = "bert.encoder.layer.{}.output.dense.weight"
        assert torch.equal(student[name.format(own)], teacher[name.format(theirs)])
    assert torch.equal(student["classifier.weight"], teacher["classifier.weight"])


@pytest.mark.parametrize("family", ["roberta", "electra", "distilbert", "xlnet"])
def test_other_families_go_through(family: str, small_tables: tuple[Path, Path], tmp_path: Path) -> None:
    train, dev = map(str, small_tables)
    base = make_model(tmp_path / "base", family, 3, pretrained=True, scale=1.0)
    finetune(str(base), train, dev, tmp_path / "teacher", QUICK)
    for init, start in (("pretrained", str(base)), ("teacher-skip", None)):
        settings = _student(2, "pkd-skip", init, base=start)
        record = distill(str(tmp_path / "teacher"), train, dev, tmp_path / init, settings)
        assert record.layers["matched"] == (2,)
        assert np.isfinite([step["loss"] for step in record.steps]).all()
    with_dim = replace(settings, dim_weight=0.5)
    if family == "xlnet":
        with pytest.raises(InputError, match="the head of 'xlnet' reads the last one"):
            distill(str(tmp_path / "teacher"), train, dev, tmp_path / "dim", with_dim)
        return
    record = distill(str(tmp_path / "teacher"), train, dev, tmp_path / "dim", with_dim)
    assert all(step["dim"] > 0 for step in record.steps)


def test_a_student_of_one_layer_is_plain_kd(
    bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, dev = map(str, small_tables)
    record = distill(str(bert_teacher), train, dev, tmp_path / "student", _student(1))
    assert "plain KD" in capsys.readouterr().out
    assert "patience" not in record.steps[0]


def test_multi_label_and_regression_go_through(bert_base: Path, tmp_path: Path) -> None:
    rows = [{"text": row["text"], "label": row["label"]} for row in messages() if row["label"] in INTENTS][:64]
    several = [{**row, "label": row["label"] if n % 3 else f"{row['label']}|urgent"} for n, row in enumerate(rows)]
    several[5]["label"] = ""
    numbers = [{**row, "label": len(row["text"]) / 100} for row in rows]
    for name, table, flags in (("several", several, {"multi_label": True}), ("number", numbers, {"regression": True})):
        path = str(write_tsv(tmp_path / f"{name}.tsv", table))
        record = finetune(str(bert_base), path, path, tmp_path / name, QUICK, **flags)
        student = distill(str(tmp_path / name), path, path, tmp_path / f"{name}-student", _student(2))
        assert student.problem_type == record.problem_type
        assert student.metric == {"several": "micro-f1", "number": "pearson-spearman"}[name]
        assert np.isfinite([step["loss"] for step in student.steps]).all()
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path / "number-student").config
    assert (config.num_labels, config.problem_type) == (1, "regression")


def test_pairs_go_through(bert_base: Path, tmp_path: Path) -> None:
    rows = messages()[:48]
    table = [
        {"sentence1": row["text"], "sentence2": rows[n - 1]["text"], "label": str(n % 2)} for n, row in enumerate(rows)
    ]
    path = str(write_tsv(tmp_path / "pairs.tsv", table))
    record = finetune(str(bert_base), path, path, tmp_path / "teacher", QUICK)
    assert record.labels == ["0", "1"]


def test_a_teacher_without_a_known_base_says_what_to_do(small_tables: tuple[Path, Path], tmp_path: Path) -> None:
    train, dev = map(str, small_tables)
    teacher = make_model(tmp_path / "teacher")
    with pytest.raises(InputError, match="--init teacher-skip or --init teacher-first"):
        distill(str(teacher), train, dev, tmp_path / "student", _student(2, init="pretrained"))


def test_a_changed_base_is_noticed(small_tables: tuple[Path, Path], tmp_path: Path, bert_teacher: Path) -> None:
    train, dev = map(str, small_tables)
    other = make_model(tmp_path / "base", pretrained=True, scale=2.0)
    record_path = tmp_path / "teacher" / "distillation.json"
    (tmp_path / "teacher").mkdir()
    for file in bert_teacher.iterdir():
        (tmp_path / "teacher" / file.name).write_bytes(file.read_bytes())
    record = json.loads(record_path.read_text())
    record["base_model"]["name"] = str(other)
    record_path.write_text(json.dumps(record))
    with pytest.raises(InputError, match="no longer the model that the teacher was made from"):
        distill(str(tmp_path / "teacher"), train, dev, tmp_path / "student", _student(2, init="pretrained"))


def test_different_vocabularies_are_refused(
    small_tables: tuple[Path, Path], tmp_path: Path, bert_teacher: Path
) -> None:
    train, dev = map(str, small_tables)
    other = make_model(tmp_path / "roberta", "roberta", pretrained=True)
    with pytest.raises(InputError, match="different vocabularies"):
        distill(str(bert_teacher), train, dev, tmp_path / "s", _student(2, init="pretrained", base=str(other)))


def test_a_dev_label_that_train_lacks_is_named_with_its_line(
    bert_base: Path, small_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    dev = write_tsv(tmp_path / "dev.tsv", [{"text": "hello", "label": INTENTS[0]}, {"text": "hi", "label": "other"}])
    with pytest.raises(InputError, match=r"dev\.tsv, line 3: the label 'other' is not one of"):
        finetune(str(bert_base), str(small_tables[0]), str(dev), tmp_path / "out", QUICK)
    assert not (tmp_path / "out").exists()


def test_a_loss_that_leaves_the_finite_numbers_stops_the_run(
    bert_base: Path, small_tables: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, dev = map(str, small_tables)
    monkeypatch.setattr("distill.finetuning.hard_loss", lambda logits, *_: logits.sum() * float("nan"))
    with pytest.raises(WorkFailedError, match="the loss is nan at step 1"):
        finetune(str(bert_base), train, dev, tmp_path / "out", QUICK)
    assert list(tmp_path.iterdir()) == []


def test_a_model_whose_files_lack_weights_is_refused(
    bert_base: Path, small_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    train, dev = map(str, small_tables)
    # An encoder alone is no teacher: its head would be random.
    headless = Path(shutil.copytree(bert_base, tmp_path / "headless"))
    config = json.loads((headless / "config.json").read_text())
    config["id2label"] = dict(enumerate(INTENTS))
    (headless / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"is no trained classifier: its files lack classifier\.bias"):
        distill(str(headless), train, dev, tmp_path / "student", _student(2))
    foreign = Path(shutil.copytree(bert_base, tmp_path / "foreign"))
    weights = load_file(foreign / "model.safetensors")
    save_file({f"other.{name}": weight for name, weight in weights.items()}, foreign / "model.safetensors")
    with pytest.raises(InputError, match="does not hold the weights of a BertForSequenceClassification"):
        finetune(str(foreign), train, dev, tmp_path / "out", QUICK)


def test_a_teacher_saved_in_half_precision_has_a_float32_student(
    bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    train, dev = map(str, small_tables)
    AutoModelForSequenceClassification.from_pretrained(bert_teacher, dtype=torch.bfloat16).save_pretrained(
        tmp_path / "t"
    )
    AutoTokenizer.from_pretrained(bert_teacher).save_pretrained(tmp_path / "t")
    distill(str(tmp_path / "t"), train, dev, tmp_path / "student", _student(2))
    weights = load_file(tmp_path / "student" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert json.loads((tmp_path / "student" / "config.json").read_text())["dtype"] == "float32"


def test_a_student_reads_as_far_as_its_teacher_unless_told_otherwise(
    bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    train, dev = map(str, small_tables)
    settings = DistillationSettings(2, init="teacher-skip", training=TrainingSettings(epochs=1))
    whole = distill(str(bert_teacher), train, dev, tmp_path / "whole", settings)
    assert whole.settings["max_length"] == 64
    short = TrainingSettings(epochs=1, max_length=5)
    cut = distill(
        str(bert_teacher), train, dev, tmp_path / "cut", DistillationSettings(2, init="teacher-skip", training=short)
    )
    assert cut.settings["max_length"] == 5
    # The teacher is measured as it would be served, whatever the student reads.
    assert whole.teacher is not None
    assert cut.teacher is not None
    assert cut.teacher["dev"] == whole.teacher["dev"]


def test_the_labels_order_is_the_heads_not_the_files(small_tables: tuple[Path, Path], tmp_path: Path) -> None:
    train, dev = map(str, small_tables)
    model = make_model(tmp_path / "model", labels=INTENTS[::-1])
    config = json.loads((model / "config.json").read_text())
    config["id2label"] = {str(index): INTENTS[::-1][index] for index in (2, 0, 1)}
    (model / "config.json").write_text(json.dumps(config))
    record = finetune(str(model), train, dev, tmp_path / "out", QUICK)
    assert record.labels == list(INTENTS[::-1])


@pytest.mark.parametrize(
    ("labels", "problem_type", "fresh"),
    [
        (INTENTS, "single_label_classification", False),
        (INTENTS[::-1], None, False),
        (("a", "b", "c"), "single_label_classification", True),
        (INTENTS, "multi_label_classification", True),
    ],
)
def test_a_head_of_another_task_starts_fresh(
    labels: tuple[str, ...],
    problem_type: str | None,
    fresh: bool,
    small_tables: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train, dev = map(str, small_tables)
    model = make_model(tmp_path / "model", labels=labels, problem_type=problem_type)
    finetune(str(model), train, dev, tmp_path / "out", TrainingSettings(epochs=1, learning_rate=1e-9))
    before, after = (load_file(path / "model.safetensors")["classifier.weight"] for path in (model, tmp_path / "out"))
    assert torch.allclose(before, after, atol=1e-5) is not fresh
    said = "model answers another task; the last layer of its head starts fresh"
    assert (said in capsys.readouterr().out) is fresh


def test_labels_that_were_never_named_are_those_of_the_data(tmp_path: Path) -> None:
    rows = [{"text": row["text"], "label": n % 2} for n, row in enumerate(messages()[:32])]
    table = str(write_tsv(tmp_path / "t.tsv", rows))
    model = make_model(tmp_path / "model", labels=("LABEL_0", "LABEL_1"))
    finetune(str(model), table, table, tmp_path / "out", TrainingSettings(epochs=1, learning_rate=1e-9))
    before, after = (load_file(path / "model.safetensors")["classifier.weight"] for path in (model, tmp_path / "out"))
    assert torch.allclose(before, after, atol=1e-5)


def test_whole_numbers_are_ordered_by_size(bert_base: Path, tmp_path: Path) -> None:
    rows = [{"text": row["text"], "label": n % 11} for n, row in enumerate(messages()[:66])]
    path = str(write_tsv(tmp_path / "t.tsv", rows))
    assert finetune(str(bert_base), path, path, tmp_path / "out", QUICK).labels == [str(n) for n in range(11)]


def test_a_gradient_that_leaves_the_finite_numbers_stops_the_run(
    bert_base: Path, small_tables: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, dev = map(str, small_tables)

    class Overflow(torch.autograd.Function):
        @staticmethod
        def forward(_context, value):  # type: ignore[no-untyped-def]
            return value.clone()

        @staticmethod
        def backward(_context, gradient):  # type: ignore[no-untyped-def]
            return gradient * float("inf")

    monkeypatch.setattr("distill.finetuning.hard_loss", lambda logits, *_: Overflow.apply(logits.square().mean()))
    with pytest.raises(WorkFailedError, match=r"the gradient is (inf|nan) at step 1"):
        finetune(str(bert_base), train, dev, tmp_path / "out", QUICK)
    assert list(tmp_path.iterdir()) == []


def test_families_whose_head_reads_elsewhere_are_refused(bert_base: Path, tmp_path: Path) -> None:
    config = json.loads((bert_base / "config.json").read_text())
    for name, change in (("llama", {"model_type": "llama"}), ("gpt2", {"model_type": "gpt2"})):
        directory = tmp_path / name
        directory.mkdir()
        for file in bert_base.iterdir():
            (directory / file.name).write_bytes(file.read_bytes())
        (directory / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(InputError, match=f"models of type '{name}' are not supported"):
            load_config(find_model(str(directory)))


def test_the_teacher_itself_is_no_output(bert_teacher: Path, small_tables: tuple[Path, Path]) -> None:
    train, dev = map(str, small_tables)
    with pytest.raises(InputError):
        distill(str(bert_teacher), train, dev, bert_teacher, _student(2), overwrite=True)
    assert (bert_teacher / "model.safetensors").is_file()


def test_a_damaged_record_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "distillation.json").write_text('{"made_by": "understudy", "method": "kd"}')
    with pytest.raises(InputError, match="is damaged: it has no 'settings'"):
        read_record(tmp_path)
