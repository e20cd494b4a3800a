"""Losses over widths that differ, and students narrower than their teachers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from common.errors import InputError
from distill.distillation import distill
from distill.finetuning import finetune
from distill.losses import hidden_loss
from distill.models import load_config
from distill.projection import width_projection
from distill.settings import DistillationSettings, TrainingSettings
from distill.sources import find_model
from distill.students import make_student
from tests.conftest import make_model

QUICK = TrainingSettings(epochs=1, learning_rate=1e-3, max_length=64)
ALL_LOSSES = {"beta": 10.0, "hidden_weight": 1.0, "relation_weight": 1.0}


def test_equal_widths_pass_unchanged_and_narrow_ones_start_as_the_first_coordinates() -> None:
    states = torch.randn(2, 3, 4)
    assert width_projection(4, 4)(states) is states
    wide = width_projection(4, 6)(states)
    assert torch.equal(wide[..., :4], states)
    assert not wide[..., 4:].any()


def test_hidden_loss_agrees_with_float64() -> None:
    draw = np.random.default_rng(0)
    student, teacher = draw.normal(size=(2, 3, 2, 5, 8))
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1]])
    total = sum(((student[row, :, t] - teacher[row, :, t]) ** 2).sum() for row, t in zip(*mask.nonzero(), strict=True))
    loss = hidden_loss(torch.tensor(student), torch.tensor(teacher), torch.tensor(mask))
    assert loss.item() == pytest.approx(total / (mask.sum() * 2 * 8), rel=1e-5)
    assert loss.dtype == torch.float32


def test_a_narrow_student_starts_as_the_first_part_of_its_teacher(bert_teacher: Path) -> None:
    source = find_model(str(bert_teacher))
    model = make_student(load_config(source), source, (2, 4), seed=0, width=16)
    assert (model.config.hidden_size, model.config.num_attention_heads, model.config.intermediate_size) == (16, 2, 32)
    own, teacher = model.state_dict(), load_file(bert_teacher / "model.safetensors")
    query, inner = "bert.encoder.layer.{}.attention.self.query.weight", "bert.encoder.layer.{}.intermediate.dense.bias"
    for mine, theirs in ((0, 1), (1, 3)):
        assert torch.equal(own[query.format(mine)], teacher[query.format(theirs)][:16, :16])
        assert torch.equal(own[inner.format(mine)], teacher[inner.format(theirs)][:32])
    assert torch.equal(own["classifier.weight"], teacher["classifier.weight"][:, :16])


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "xlnet"])
def test_every_loss_goes_through_a_narrow_student(family: str, small_tables: tuple[Path, Path], tmp_path: Path) -> None:
    train, dev = map(str, small_tables)
    base = make_model(tmp_path / "base", family, 3, pretrained=True, scale=1.0)
    finetune(str(base), train, dev, tmp_path / "teacher", QUICK)
    # As deep as its teacher: it is smaller all the same.
    settings = DistillationSettings(3, "pkd-skip", "teacher-skip", training=QUICK, width=24, **ALL_LOSSES)
    record = distill(str(tmp_path / "teacher"), train, dev, tmp_path / "student", settings)
    assert set(record.steps[0]) == {"step", "lr", "loss", "hard", "soft", "patience", "hidden", "relation"}
    assert np.isfinite([step["loss"] for step in record.steps]).all()
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    assert (model.config.hidden_size, model.config.num_attention_heads) == (24, 3)
    # The projection was for training alone.
    assert set(load_file(tmp_path / "student" / "model.safetensors")) == set(model.state_dict())


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"width": 32}, "the student must be narrower than the teacher, whose width is 32"),
        ({"width": 17}, "a width of 17 cannot be split into 2 heads"),
        ({"width": 16, "heads": 3}, "a width of 16 cannot be split into 3 heads"),
        ({"heads": 2}, "--heads is of use with --width alone"),
        ({"layers": 5, "width": 16}, "the student must have fewer layers than the teacher: asked for 5"),
    ],
)
def test_widths_that_will_not_do_are_refused(
    values: dict[str, Any], reason: str, bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    train, dev = map(str, small_tables)
    settings = DistillationSettings(**{"layers": 2, "init": "teacher-skip", "training": QUICK, **values})
    with pytest.raises(InputError, match=reason):
        distill(str(bert_teacher), train, dev, tmp_path / "student", settings)
    assert not (tmp_path / "student").exists()
