"""`finetune`: a pre-trained encoder and a labelled table into a teacher."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from common.errors import InputError
from common.examples import BY_USUAL_NAMES, Columns, find_task, read_examples
from common.files import check_output
from common.labels import REGRESSION, SINGLE_LABEL, Task
from common.metrics import choose_metric
from common.progress import say
from distill.checkpoint import sole_run
from distill.losses import hard_loss
from distill.models import (
    has_fresh_output,
    load_config,
    load_tokenizer,
    load_with_fresh,
    make_encoder,
    refresh_output,
    set_task,
)
from distill.processes import WHOLE, Share, one_voice
from distill.record import TrainingRecord, read_record
from distill.result import write_result
from distill.settings import TrainingSettings
from distill.sources import find_model
from distill.training import Objective, fit, make_repeatable
from distill.training_data import tokenize

DEFAULT_MAX_LENGTH = 128


class HardLabels(Objective):
    """The labels alone."""

    def __init__(self, problem_type: str):
        super().__init__()
        self.problem_type = problem_type

    def forward(
        self,
        output: Any,
        batch: dict[str, Tensor],  # noqa: ARG002
        rows: list[int],  # noqa: ARG002
        targets: Tensor,
        share: Share = WHOLE,
    ) -> dict[str, Tensor]:
        return {"loss": share.rows * hard_loss(output.logits, targets, self.problem_type)}


@one_voice()
def finetune(
    model: str,
    train: str,
    dev: str,
    output: Path,
    settings: TrainingSettings,
    columns: Columns = BY_USUAL_NAMES,
    *,
    multi_label: bool = False,
    regression: bool = False,
    positive: str | None = None,
    overwrite: bool = False,
) -> TrainingRecord:
    """Trains a classifier and writes it to `output` in the Hub's layout, with `distillation.json`.

    A run that was killed goes on where its last checkpoint was, if it is asked for again (`checkpoint.sole_run`).

    Args:
        model: a directory, the embedded default's name, or a name on the Hub.
        train, dev: tables, or `hub:NAME[/CONFIG]`.
        positive: of two labels the one that F1 counts as positive; it becomes the second, for all that is made of this.

    Raises:
        InputError: a model, a table or a label that will not do.
        WorkFailedError: the loss left the finite numbers.
    """
    started = time.monotonic()
    check_output(output, directory=True, overwrite=overwrite)
    train_examples = read_examples(train, columns, split="train")
    dev_examples = read_examples(dev, columns, split="validation")
    source = find_model(model)
    config = load_config(source)
    own = _task_of(config)
    known = own.labels if own else ()
    task = find_task(train_examples, multi_label=multi_label, regression=regression, known=known, positive=positive)
    if task.problem_type == SINGLE_LABEL and any(map(_is_fraction, task.labels)):
        fraction = next(filter(_is_fraction, task.labels))
        say(f"Labels such as '{fraction}' are learned as classes; with --regression they are learned as numbers")
    metric = choose_metric(task, settings.metric)
    set_task(config, task)
    tokenizer = load_tokenizer(source)
    encoder = make_encoder(tokenizer, config, settings.max_length or DEFAULT_MAX_LENGTH)
    data = tokenize(train_examples, dev_examples, task, encoder, config.vocab_size)

    make_repeatable(settings.seed)
    teacher, fresh = load_with_fresh(source, config)
    if not has_fresh_output(teacher, fresh):
        if own is not None and answers_alike(own, task):
            data.scale.unfold(teacher)
        else:
            refresh_output(teacher)
            say(f"{source.name} answers another task; the last layer of its head starts fresh")
    record = TrainingRecord(
        method="finetune",
        settings={"model": source.name, **vars(settings), "max_length": encoder.max_length},
        problem_type=task.problem_type,
        labels=list(task.labels),
        metric=metric,
        data={"train": {**train_examples.describe(), **data.describe()}, "dev": dev_examples.describe()},
        base_model=_base_of(source.path) or source.describe(),
        teacher=None,
        layers={"count": config.num_hidden_layers},
        device="",
    )
    labels = "a number each" if task.problem_type == REGRESSION else f"{len(task.labels)} labels"
    say(f"Fine-tuning {source.name} ({config.num_hidden_layers} layers) on {len(train_examples):,} rows with {labels}")

    if metric.startswith("f1"):
        say(f"F1 counts '{task.labels[1]}' as positive")

    with sole_run(output, overwrite=overwrite) as checkpoint:
        fit(teacher, data, settings, record, HardLabels(task.problem_type), checkpoint)
        record.wall_time_s = round(record.wall_time_s + time.monotonic() - started, 3)
        write_result(output, teacher, tokenizer, encoder.max_length, record, checkpoint, overwrite=overwrite)
    return record


def answers_alike(own: Task, task: Task) -> bool:
    """Whether each output of a head means the same in both tasks.

    Args:
        own: the head's own task, whose labels may never have been named: LABEL_0, LABEL_1, …
    """
    if own.problem_type != task.problem_type or len(own.labels) != len(task.labels):
        return False
    pairs = zip(own.labels, task.labels, strict=True)
    return task.problem_type == REGRESSION or all(mine in (label, f"LABEL_{label}") for mine, label in pairs)


def _is_fraction(label: str) -> bool:
    """Whether a label is a number that no class would be called by, as 2.5 is, and 2, 2.0 and nan are not."""
    try:
        return not float(label).is_integer() and math.isfinite(float(label))
    except ValueError:
        return False


def _task_of(config: Any) -> Task | None:
    """What a model answers already; None where its config names no task."""
    try:
        return Task.from_config(config.to_dict())
    except InputError:
        return None


def _base_of(directory: Path) -> dict[str, str] | None:
    """The base model that a model trained here names; fine-tuning it further does not change it."""
    record = read_record(directory)
    return record["base_model"] if record else None
