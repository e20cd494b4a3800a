"""`distillation.json`: what a training run was given, did and reached, so that it can be repeated and trusted."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import MADE_BY, read_json, write_json

RECORD_FILE = "distillation.json"
FORMAT_VERSION = 1


@dataclass
class TrainingRecord:
    """One run of `finetune` or `distill`.

    Attributes:
        method: one of `settings.METHODS`.
        settings: every setting of the run.
        problem_type, labels: the task.
        metric: which dev metric picked the epoch.
        data: name, hash and rows of `train` and `dev`, and of the texts without a label, `unlabelled`, where some were
            given: of these also how many are `repeated`, `in_train` or `in_dev`, and were left out. Of `train` how many
            rows are `in_dev`, which were learned, and of numbers as `labels` their mean and deviation.
        base_model: name and weight hash of the pre-trained model behind it all; None where unknown.
        teacher: name, weight hash, layers and dev metrics; None for a fine-tuned model without one.
        layers: the model's own depth, and for a student what it started as and which teacher layers it matched.
        steps: loss, its terms and the learning rate, one entry a step.
        epochs: dev metrics, one entry an epoch.
        best_epoch: the one whose weights were kept, from 1.
        truncated: rows of `train` (and `unlabelled`) and of `dev` that lost tokens at the length limit.
        wall_time_s: seconds.
    """

    method: str
    settings: dict[str, Any]
    problem_type: str
    labels: list[str]
    metric: str
    data: dict[str, dict[str, Any]]
    base_model: dict[str, str] | None
    teacher: dict[str, Any] | None
    layers: dict[str, Any]
    device: str
    steps: list[dict[str, float]] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    truncated: dict[str, int] = field(default_factory=dict)
    wall_time_s: float = 0.0

    @property
    def best(self) -> dict[str, float]:
        """Dev metrics of the epoch whose weights were kept."""
        metrics: dict[str, float] = self.epochs[self.best_epoch - 1]["dev"]
        return metrics

    def write(self, directory: Path) -> None:
        """Writes the record into a model's directory."""
        versions = {name: version(name) for name in ("understudy", "torch", "transformers")}
        write_json(
            directory / RECORD_FILE,
            {
                **MADE_BY,
                "format_version": FORMAT_VERSION,
                **vars(self),
                "best_dev": self.best,
                "versions": {"python": platform.python_version(), **versions},
            },
        )


def read_record(directory: Path) -> dict[str, Any] | None:
    """The record of a model's directory; None for a model that Understudy did not train.

    Raises:
        InputError: the record is damaged.
    """
    path = directory / RECORD_FILE
    if not path.is_file():
        return None
    record = read_json(path)
    lacking = [name for name in ("method", "settings", "metric", "data", "best_dev", "layers") if not record.get(name)]
    lacking += [name for name in ("base_model", "teacher") if name not in record]
    if lacking:
        raise InputError(f"{path} is damaged: it has no '{lacking[0]}'")
    return record
