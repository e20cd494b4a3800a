"""Texts that the teacher labels: what is taken, what is left out, and that the rest of distilling stays as it was."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from common.errors import InputError
from distill.distillation import distill
from distill.finetuning import finetune
from distill.settings import DistillationSettings, TrainingSettings
from tests.conftest import INTENTS, messages, write_tsv

QUICK = TrainingSettings(epochs=1, learning_rate=1e-3, max_length=64)
STUDENT = DistillationSettings(2, init="teacher-skip", training=QUICK)
OTHERS = [row["text"] for row in messages() if row["label"] not in INTENTS][:40]


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_without_unlabelled_texts_the_weights_are_what_they_were(
    bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, dev = map(str, small_tables)
    distill(str(bert_teacher), train, dev, tmp_path / "now", STUDENT)

    def plain(logits: Tensor, targets: Tensor, *_: object) -> Tensor:
        return functional.cross_entropy(logits.float(), targets)

    monkeypatch.setattr("distill.objective.hard_loss", plain)
    distill(str(bert_teacher), train, dev, tmp_path / "before", STUDENT)
    now, before = (load_file(tmp_path / name / "model.safetensors") for name in ("now", "before"))
    assert all(torch.equal(now[name], before[name]) for name in before)


def test_repeated_texts_and_dev_texts_are_left_out(
    bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, dev = map(str, small_tables)
    in_dev = small_tables[1].read_text(encoding="utf-8").splitlines()[1].split("\t")[0]
    # The tokenizer lower-cases and sees no spaces at the end.
    in_train = small_tables[0].read_text(encoding="utf-8").splitlines()[1].split("\t")[0]
    texts = [*OTHERS, OTHERS[3], OTHERS[4].upper() + " ", in_dev, in_dev.lower(), in_dev, in_train.upper()]
    path = _jsonl(tmp_path / "log.jsonl", [{"text": text, "text_pair": None} for text in texts])
    record = distill(str(bert_teacher), train, dev, tmp_path / "student", STUDENT, unlabelled=path)
    said = capsys.readouterr().out
    assert (
        "log.jsonl: of 46 texts 2 that are repeated, 1 that are training rows and 3 that are in the dev table are left "
        "out\n"
    ) in said
    assert "on 96 rows, and 40 without a label\n" in said
    assert len(record.steps) == 5  # 136 rows in batches of 32
    assert record.data["train"]["rows"] == 96
    assert record.data["unlabelled"] == {
        "name": "log.jsonl",
        "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        "rows": 46,
        "pairs": False,
        "repeated": 2,
        "in_train": 1,
        "in_dev": 3,
    }


def test_a_batch_without_a_label_is_learned_from(
    bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    training = TrainingSettings(epochs=1, batch_size=2, learning_rate=1e-3, max_length=64)
    settings = DistillationSettings(2, init="teacher-skip", training=training)
    train, dev = map(str, small_tables)
    path = str(write_tsv(tmp_path / "texts.tsv", [{"text": text} for text in OTHERS]))
    steps = distill(str(bert_teacher), train, dev, tmp_path / "student", settings, unlabelled=path).steps
    assert any(step["hard"] == 0 for step in steps)
    assert all(step["loss"] > 0 and np.isfinite(step["loss"]) for step in steps)


@pytest.mark.parametrize("kind", ["several", "number", "pairs"])
def test_other_tasks_go_through(kind: str, bert_base: Path, tmp_path: Path) -> None:
    rows = [row for row in messages() if row["label"] in INTENTS][:48]
    labels = {
        "several": [row["label"] if n % 3 else f"{row['label']}|urgent" for n, row in enumerate(rows)],
        "number": [len(row["text"]) / 100 for row in rows],
        "pairs": [row["label"] for row in rows],
    }[kind]
    second = {"text_pair": rows[0]["text"]} if kind == "pairs" else {}
    table = [{"text": row["text"], **second, "label": label} for row, label in zip(rows, labels, strict=True)]
    path = str(write_tsv(tmp_path / "t.tsv", table))
    flags = {"multi_label": kind == "several", "regression": kind == "number"}
    finetune(str(bert_base), path, path, tmp_path / "teacher", QUICK, **flags)
    log = _jsonl(tmp_path / "log.jsonl", [{"text": text, "text_pair": None, **second} for text in OTHERS])
    record = distill(str(tmp_path / "teacher"), path, path, tmp_path / "student", STUDENT, unlabelled=log)
    assert record.data["unlabelled"]["pairs"] == (kind == "pairs")
    assert len(record.steps) == 3  # 88 rows in batches of 32
    assert np.isfinite([step["loss"] for step in record.steps]).all()


def test_no_text_of_a_table_that_is_reported_on_is_learned_from(
    bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    train, dev = map(str, small_tables)
    held = str(write_tsv(tmp_path / "held.tsv", [{"text": text, "label": "unknown"} for text in OTHERS[:7]]))
    log = _jsonl(tmp_path / "log.jsonl", [{"text": text} for text in OTHERS])
    record = distill(str(bert_teacher), train, dev, tmp_path / "s", STUDENT, unlabelled=log, reported=[held])
    assert record.data["unlabelled"]["in_dev"] == 7


@pytest.mark.parametrize(
    "values",
    [{"method": "finetune"}, {"method": "kd", "alpha": 0.0}, {"layers": 1, "alpha": 0.0}, {"beta": 0, "alpha": 0}],
)
def test_a_loss_without_the_teacher_takes_no_unlabelled_texts(
    values: dict[str, Any], bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    train, dev = map(str, small_tables)
    settings = DistillationSettings(**{"layers": 2, "init": "teacher-skip", "training": QUICK, **values})
    with pytest.raises(InputError, match="--unlabelled needs a loss with the teacher's answers in it"):
        distill(str(bert_teacher), train, dev, tmp_path / "student", settings, unlabelled=train)


def test_tables_that_do_not_fit_are_refused(
    bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    train, dev = map(str, small_tables)
    pairs = _jsonl(tmp_path / "pairs.jsonl", [{"text": "a", "text_pair": "b"}])
    in_dev = [line.split("\t")[0] for line in small_tables[1].read_text(encoding="utf-8").splitlines()[1:]]
    texts = str(write_tsv(tmp_path / "texts.tsv", [{"text": text} for text in in_dev]))
    named = str(write_tsv(tmp_path / "named.tsv", [{"text": "a", "intent": "b"}]))
    for unlabelled, reason in (
        (pairs, r"train\.tsv and .*pairs\.jsonl: one has pairs of texts, the other single texts"),
        (texts, r"texts\.tsv: every text is in the dev table"),
        (str(tmp_path / "absent.csv"), "no such file"),
        (named, r"named\.tsv has a label column, 'intent', and the teacher labels these texts: take the column out"),
    ):
        with pytest.raises(InputError, match=reason):
            distill(str(bert_teacher), train, dev, tmp_path / "student", STUDENT, unlabelled=unlabelled)
    assert not (tmp_path / "student").exists()
