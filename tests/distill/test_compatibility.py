"""Teachers, records and base models that do not mean the same by tokens or labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError
from distill.distillation import distill
from distill.settings import DistillationSettings, TrainingSettings
from tests.conftest import INTENTS, make_model, write_tsv

QUICK = TrainingSettings(epochs=1, learning_rate=1e-3, max_length=64)
Change = Callable[[dict[str, Any]], object]


def _changed(directory: Path, file: str, change: Change) -> Path:
    content = json.loads((directory / file).read_text(encoding="utf-8"))
    change(content)
    (directory / file).write_text(json.dumps(content), encoding="utf-8")
    return directory


def _refused(teacher: Path, tables: tuple[Path, Path], output: Path, base: Path | None, reason: str) -> None:
    init, name = ("teacher-skip", None) if base is None else ("pretrained", str(base))
    settings = DistillationSettings(2, init=init, base=name, training=QUICK)
    with pytest.raises(InputError, match=reason):
        distill(str(teacher), str(tables[0]), str(tables[1]), output, settings)
    assert not output.exists()


def test_another_order_of_the_teachers_labels_is_refused(
    bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    teacher = Path(shutil.copytree(bert_teacher, tmp_path / "teacher"))
    _changed(teacher, "config.json", lambda config: config.update(id2label=dict(enumerate(INTENTS[::-1]))))
    reason = "'teacher' was trained with the labels cancel_order, damaged_item, login_problem, and its config.json has"
    _refused(teacher, small_tables, tmp_path / "student", None, reason)


def test_a_label_of_the_tables_that_the_teacher_lacks_is_refused(
    bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    rows = [{"text": f"text {n}", "label": label} for n, label in enumerate([*INTENTS, "other"])]
    train = write_tsv(tmp_path / "train.tsv", rows)
    reason = r"train\.tsv, line 5: the label 'other' is not one of the model's 3"
    _refused(bert_teacher, (train, small_tables[1]), tmp_path / "student", None, reason)


def _classifier(directory: Path, labels: tuple[str, ...], teacher: Path) -> Path:
    """A classifier that reads texts as the teacher does."""
    make_model(directory, labels=labels)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(teacher / file, directory / file)
    return directory


@pytest.mark.parametrize("labels", [INTENTS[::-1], ("a", "b", "c")])
def test_a_base_with_a_head_for_other_labels_is_refused(
    labels: tuple[str, ...], bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    base = _classifier(tmp_path / "base", labels, bert_teacher)
    reason = "'base' is a classifier whose labels, or their order, are not the teacher's"
    _refused(bert_teacher, small_tables, tmp_path / "student", base, reason)


def test_a_base_with_the_teachers_labels_is_taken(
    bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    base, (train, dev) = _classifier(tmp_path / "base", INTENTS, bert_teacher), map(str, small_tables)
    settings = DistillationSettings(2, "kd", base=str(base), training=QUICK)
    assert distill(str(bert_teacher), train, dev, tmp_path / "student", settings).labels == list(INTENTS)


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("tokenizer.json", lambda file: file["model"]["vocab"].update(zebra=1000), "different vocabularies"),
        ("tokenizer.json", lambda file: file["normalizer"].update(lowercase=False), "read a text differently: 'Hello"),
        ("tokenizer.json", lambda file: file["normalizer"].update(strip_accents=False), "differently: 'Ünïcödé"),
        ("tokenizer.json", lambda file: file.update(post_processor=None), "read a text differently"),
        ("tokenizer_config.json", lambda file: file.update(mask_token="[UNK]"), "different special tokens"),
    ],
)
def test_a_base_that_reads_otherwise_is_refused(
    file: str,
    change: Change,
    reason: str,
    bert_teacher: Path,
    bert_base: Path,
    small_tables: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    base = _changed(Path(shutil.copytree(bert_base, tmp_path / "base")), file, change)
    _refused(bert_teacher, small_tables, tmp_path / "student", base, reason)
