"""XLNet through every command: it reads the last position and is padded on the left, and all else is as for BERT."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from common.files import read_json
from demo.messages import DEV
from distill.batches import TokenizedSet
from distill.models import load_classifier, load_config, load_tokenizer, make_encoder
from distill.sources import find_model
from distill.teacher import Teacher, teacher_targets
from export.exporting import export
from export.settings import ExportSettings
from serve.engine import Engine
from tests.conftest import INTENTS, CommandResult, make_model, messages

Run = Callable[..., CommandResult]
TEXTS = [row["text"] for row in messages()[:12]]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random XLNet classifier of two layers."""
    return make_model(tmp_path_factory.mktemp("xlnet") / "teacher", "xlnet", 2)


@pytest.fixture(scope="module")
def teacher_bundle(teacher: Path) -> Path:
    """Its bundle: to trace an XLNet takes longer than all else here."""
    export(teacher, teacher.parent / "bundle", checked_on=str(DEV), settings=ExportSettings(with_weights=True))
    return teacher.parent / "bundle"


def test_what_a_student_is_matched_with_are_the_last_positions_of_the_stock_model(teacher: Path) -> None:
    source = find_model(str(teacher))
    config = load_config(source)
    encoder = make_encoder(load_tokenizer(source), config, 64)
    texts = [*TEXTS, (TEXTS[0], TEXTS[1])]
    data = TokenizedSet(encoder.encode(texts), np.zeros(len(texts), np.int64))
    lead = Teacher(source, load_classifier(source, config), torch.device("cpu"))
    found = teacher_targets(lead, encoder, data, (1, 2))
    stock, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(teacher),
        AutoTokenizer.from_pretrained(teacher),
    )
    for row, text in enumerate(texts):
        pair = text if isinstance(text, tuple) else (text,)
        with torch.inference_mode():
            output = stock.eval()(**tokenizer(*pair, return_tensors="pt"), output_hidden_states=True, use_mems=False)
        torch.testing.assert_close(found.logits[row], output.logits[0], rtol=0, atol=1e-5)
        for place, layer in enumerate((1, 2)):
            want = output.hidden_states[layer][0, -1]
            torch.testing.assert_close(found.states[[row]][0, place], want, rtol=0, atol=1e-5)


def test_every_command(
    understudy: Run,
    teacher: Path,
    teacher_bundle: Path,
    small_tables: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train, dev = small_tables
    base = make_model(tmp_path / "base", "xlnet", 4, pretrained=True, scale=1.0)
    # A tokenizer that is trained again on the same texts has its pieces in another order.
    shutil.copy(teacher / "tokenizer.json", base)
    tables = ("--train", train, "--dev", dev, "--epochs", 1, "--learning-rate", 1e-3)
    assert understudy("finetune", "--model", base, *tables, "-o", tmp_path / "teacher").code == 0
    for method in ("finetune", "kd", "pkd-last", "pkd-skip"):
        options = ("--teacher", tmp_path / "teacher", "--layers", 2, "--init", "teacher-skip", "--method", method)
        assert understudy("distill", *options, *tables, "-o", tmp_path / method).code == 0
        record = json.loads((tmp_path / method / "distillation.json").read_text())
        assert ("patience" in record["steps"][0]) == method.startswith("pkd")
        assert record["layers"]["matched"] == {"pkd-skip": [2], "pkd-last": [3]}.get(method, [])
    result = understudy("export", tmp_path / "pkd-skip", "-o", tmp_path / "student", "--with-weights")
    assert result.code == 0, result.err
    assert read_json(tmp_path / "student" / "config.json")["architectures"] == ["XLNetForSequenceClassification"]

    tables_out = []
    for engine in ("onnx", "torch"):
        output = tmp_path / f"{engine}.csv"
        assert understudy("score", tmp_path / "student", dev, "-o", output, "--engine", engine).code == 0
        with output.open(newline="", encoding="utf-8") as file:
            tables_out.append(list(csv.DictReader(file)))
    assert [row["prediction"] for row in tables_out[0]] == [row["prediction"] for row in tables_out[1]]
    assert {row["prediction"] for row in tables_out[0]} <= set(INTENTS)

    # Each launch is of two processes that load PyTorch.
    monkeypatch.setattr("benchmarks.bench.process_cost.LAUNCHES", 1)
    report = ("bench", tmp_path / "student", "--teacher", teacher_bundle, "--data", dev, "--rounds", 3)
    options = ("--scenarios", "single-stream,offline", "--seconds", 0.5, "--engine", "torch")
    result = understudy(*report, *options, "-o", tmp_path / "report")
    assert result.code == 0, result.err
    measured = json.loads((tmp_path / "report" / "results.json").read_text())["models"]
    assert {(model["engine"], model["device"][:4]) for model in measured} <= {("torch", "cpu"), ("torch", "cuda")}
    assert "layers" in understudy("inspect", tmp_path / "student").out


def test_a_text_padded_beside_a_longer_one_keeps_its_answer(teacher_bundle: Path) -> None:
    engine = Engine.load(teacher_bundle)
    alone = engine.classify(["Where is it?"])[0]
    beside = engine.classify(["Where is it?", " ".join(TEXTS)])[0]
    np.testing.assert_allclose(alone.logits, beside.logits, rtol=0, atol=1e-5)
