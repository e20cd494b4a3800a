"""Which models may be compared, what they are called, and how they answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.bench.contestants import check_tasks, open_models, unique_ids
from common.errors import InputError
from common.labels import REGRESSION, Task
from serve.engine import Engine


def open_them(students: list[Path | str], teacher: Path | str):
    return open_models(students, teacher, "onnx", "cpu", 1)


def test_the_teacher_is_first_and_names_are_unique(student: Path, teacher: Path) -> None:
    models = open_them([student, student, teacher], teacher)
    assert [(model.id, model.role) for model in models] == [
        ("teacher", "teacher"),
        ("student", "student"),
        ("student-2", "student"),
        ("teacher-2", "student"),
    ]
    assert unique_ids(["machine", "a", "a", "a-2"]) == ["machine-2", "a", "a-2", "a-2-2"]


def test_a_model_is_described_and_answers_as_the_engine_does(student: Path, teacher: Path, messages: list[str]) -> None:
    model = open_them([student], teacher)[1]
    told = model.describe()
    assert (told["layers"], told["engine"], told["device"], told["where"]) == (1, "onnx", "cpu", "in-process")
    assert len(told["sha256"]) == len(told["manifest_sha256"]) == 64
    texts = [*messages[:300], "word " * 500]
    answers = model.answer(texts)
    assert answers.truncated == sum(text.truncated for text in model.engine.encoder.encode(texts)) > 0
    expected = np.stack([prediction.scores for prediction in Engine.load(student).classify(texts)])  # type: ignore[union-attr]
    np.testing.assert_allclose(answers.scores, expected, atol=1e-6)
    model.call(texts[:3])


def test_what_a_number_is_called_does_not_matter() -> None:
    check_tasks(Task(REGRESSION, ("LABEL_0",)), Task(REGRESSION, ("score",)))


def test_an_engine_of_its_own_stands_behind_an_at(student: Path, teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be one of onnx, torch, not 'tensorrt'"):
        open_them([f"{student}@tensorrt"], teacher)
    with pytest.raises(InputError, match="no weights for the torch engine"):
        open_them([f"{student}@torch"], teacher)
    assert open_them([f"{student}@onnx"], f"{teacher}@onnx")[1].id == "student"
    odd = tmp_path / "model@v2"
    odd.symlink_to(student)
    assert open_them([odd], teacher)[1].path == odd


def _swap_labels(config: dict[str, Any]) -> None:
    config["id2label"] = {"0": "b", "1": "a", "2": "c"}


def _rename_label(config: dict[str, Any]) -> None:
    config["id2label"]["2"] = "d"


def _change_task(config: dict[str, Any]) -> None:
    config["problem_type"] = "multi_label_classification"


def _lose_a_word(tokenizer: dict[str, Any]) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["unseen"] = vocabulary.pop("the")


@pytest.mark.parametrize(
    ("file", "edit", "message"),
    [
        ("config.json", _swap_labels, "same labels in another order: label 0 is 'b' and 'a'"),
        ("config.json", _rename_label, "different labels; only one of them has: c, d"),
        ("config.json", _change_task, "differ in problem_type"),
        ("tokenizer.json", _lose_a_word, "student and teacher tokenizers differ"),
    ],
)
def test_models_that_cannot_be_compared(
    student: Path,
    teacher: Path,
    changed: Callable[..., Path],
    file: str,
    edit: Callable[[dict[str, Any]], None],
    message: str,
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_them([student, changed(student, file, edit)], teacher)
    assert "\n" not in str(caught.value)
