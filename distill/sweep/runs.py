"""One run of a sweep: a student trained, measured on the dev table, and kept as a row."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from common.errors import DivergedError
from common.examples import Columns, Examples
from common.files import durable_file
from common.labels import Task
from common.metrics import evaluate
from common.resampled_metrics import answers_of
from common.tokenization import Encoded, TextEncoder, model_max_length
from distill.batches import TokenizedSet
from distill.distillation import distill
from distill.models import load_classifier, load_config, load_tokenizer, make_encoder
from distill.settings import DistillationSettings
from distill.sources import Source, find_model
from distill.sweep.results import Results, Row
from distill.training import choose_device, predict


@dataclass(frozen=True)
class Setting:
    """What all runs of a sweep share.

    Attributes:
        chosen_on: the table whose metric picks epochs and configurations: dev, or the held-out part of train.
        cache: where the teacher's answers are kept; None has every run ask the teacher anew.
        reported: the dev table where it is not `chosen_on`, so that no run learns from its texts.
    """

    teacher: Source
    train: str
    chosen_on: str
    dev: Examples
    task: Task
    unlabelled: str | None
    columns: Columns
    cache: Path | None
    reported: tuple[str, ...] = ()

    @cached_property
    def targets(self) -> NDArray[Any]:
        """`Task.targets` of the dev table."""
        return self.task.targets(self.dev.labels, self.dev.places)

    def read(self, model: Source) -> tuple[TextEncoder, list[Encoded]]:
        """The dev table as a model reads it when it is served."""
        encoder = reader(model)
        return encoder, encoder.encode(self.dev.texts)


@dataclass(frozen=True)
class Measured:
    """A model on the dev table.

    Attributes:
        answers: as `common.resampled_metrics.answers_of` gives them.
        metrics: all that fit the task.
    """

    answers: NDArray[Any]
    metrics: dict[str, float]
    parameters: int


def reader(model: Source) -> TextEncoder:
    """What makes tokens of texts for a model when it is served."""
    config, tokenizer = load_config(model), load_tokenizer(model)
    limit = model_max_length({"model_max_length": tokenizer.model_max_length}, config.to_dict())
    return make_encoder(tokenizer, config, limit)


def measure(model: Source, setting: Setting) -> Measured:
    """What a teacher or student answers on the dev table."""
    encoder, encoded = setting.read(model)
    classifier = load_classifier(model, load_config(model)).to(choose_device())
    scores = predict(classifier, encoder, TokenizedSet(encoded, setting.targets), setting.task)
    return Measured(
        answers_of(setting.task, scores),
        evaluate(setting.task, scores, setting.targets),
        sum(weight.numel() for weight in classifier.parameters()),
    )


def row_key(settings: DistillationSettings, results: Results) -> str:
    """The name of a run's row. A base that is named counts by its weights, since others may come to lie there."""
    base = {} if settings.base is None else {"base": find_model(settings.base).sha256}
    return results.key({**settings.describe(), **base})


def run(settings: DistillationSettings, setting: Setting, results: Results) -> Row:
    """Trains one student and keeps its row; the student is in `student_directory` then.

    A run that leaves the finite numbers has a row too, which says so: it would end the same way again.
    """
    key = row_key(settings, results)
    directory = student_directory(results, key)
    try:
        record = distill(
            str(setting.teacher.path),
            setting.train,
            setting.chosen_on,
            directory,
            settings,
            setting.columns,
            unlabelled=setting.unlabelled,
            reported=setting.reported,
            cache=setting.cache,
            # Whatever is there is of this same run, killed before its row was written.
            overwrite=True,
        )
    except DivergedError as error:
        row = Row(key, settings.describe(), failed=str(error))
        results.add(row)
        return row
    student = find_model(str(directory))
    measured = measure(student, setting)
    row = Row(
        key=key,
        settings=settings.describe(),
        chosen_on=record.best,
        dev=measured.metrics,
        best_epoch=record.best_epoch,
        parameters=measured.parameters,
        architecture=_keep_architecture(results, student),
        weights_sha256=student.sha256,
        wall_time_s=record.wall_time_s,
    )
    results.add(row, measured.answers)
    return row


def student_directory(results: Results, key: str) -> Path:
    """Where a run has its student."""
    return results.directory / "students" / key


def discard_student(results: Results, key: str) -> None:
    """Deletes a run's student, and what a run that failed left of one."""
    directory = student_directory(results, key)
    shutil.rmtree(directory, ignore_errors=True)
    shutil.rmtree(directory.with_name(f".{key}.checkpoint"), ignore_errors=True)


def architecture_directory(results: Results, name: str) -> Path:
    """Where the config of a kind of student is."""
    return results.directory / "architectures" / name


def _keep_architecture(results: Results, student: Source) -> str:
    """Keeps the config of a kind of student; returns its name, such as `3x384-1f0c2b7a`."""
    content = (student.path / "config.json").read_bytes()
    config = load_config(student)
    name = f"{config.num_hidden_layers}x{config.hidden_size}-{hashlib.sha256(content).hexdigest()[:8]}"
    directory = architecture_directory(results, name)
    directory.mkdir(parents=True, exist_ok=True)
    with durable_file(directory / "config.json") as path:
        path.write_bytes(content)
    return name
