"""The study's results: a line for each encoder and for each classifier made of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.studies.lines import add_line, damaged, read_lines
from benchmarks.studies.pretraining.plan import ENCODERS, TASKS, Cell, settings_of
from common.errors import InputError
from distill.pretraining.settings import PretrainingSettings
from distill.settings import TrainingSettings

RESULTS = Path("benchmarks/results/pretraining_study")
ENCODERS_FILE, CELLS_FILE = "encoders.jsonl", "cells.jsonl"


@dataclass(frozen=True)
class EncoderRow:
    """One encoder.

    Attributes:
        settings: of its pretraining, also where it had none.
        corpus: hash and lines of what it read.
        tokens: that it read, special tokens left out; 0 for random weights.
        epochs: passes over the corpus that were begun.
        losses: the record's last entry; empty for random weights.
        wall_time_s: seconds of pretraining.
        machine: what it was trained on.
    """

    encoder: str
    settings: dict[str, Any]
    corpus: dict[str, Any]
    weights_sha256: str
    parameters: int
    machine: dict[str, Any]
    tokens: int = 0
    epochs: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    wall_time_s: float = 0.0

    @property
    def is_current(self) -> bool:
        """Whether the plan has these settings today."""
        plan = ENCODERS.get(self.encoder)
        try:
            return plan is not None and PretrainingSettings(**self.settings) == plan.settings
        except (InputError, TypeError):
            return False


@dataclass(frozen=True)
class ClassifierRow:
    """One fine-tuned classifier.

    Attributes:
        data: hash and rows of `train`, `holdout` and `dev`.
        encoder_sha256: of the weights that it started from.
        chosen_on: metrics on the held-out part of train, which picked the epoch and picks the rate.
        dev: metrics on dev.
        answers: the label's index for each dev row, as `lines.pack` gives it.
        best_epoch: whose weights were kept, from 1.
    """

    encoder: str
    task: str
    rate: float
    seed: int
    settings: dict[str, Any]
    data: dict[str, dict[str, Any]]
    encoder_sha256: str
    chosen_on: dict[str, float]
    dev: dict[str, float]
    answers: str
    best_epoch: int
    wall_time_s: float
    machine: dict[str, Any]

    @property
    def cell(self) -> Cell:
        return Cell(self.encoder, self.task, self.rate, self.seed)

    @property
    def is_current(self) -> bool:
        """Whether the plan has these settings today."""
        try:
            return TrainingSettings(**self.settings) == settings_of(self.cell, TASKS[self.task])
        except (InputError, TypeError, KeyError):
            return False


def read_encoders(directory: Path) -> dict[str, EncoderRow]:
    """The last row of each encoder that has the plan's settings.

    Raises:
        InputError: a line is damaged.
    """
    rows = _rows(directory / ENCODERS_FILE, EncoderRow)
    return {row.encoder: row for row in rows if row.is_current}


def read_cells(directory: Path, encoders: dict[str, EncoderRow]) -> dict[Cell, ClassifierRow]:
    """The last row of each cell that has the plan's settings and one of these encoders' weights.

    Raises:
        InputError: a line is damaged.
    """
    found = {}
    for row in _rows(directory / CELLS_FILE, ClassifierRow):
        encoder = encoders.get(row.encoder)
        if row.is_current and encoder is not None and encoder.weights_sha256 == row.encoder_sha256:
            found[row.cell] = row
    return found


def add_row(directory: Path, row: EncoderRow | ClassifierRow) -> None:
    """Appends a row, which is on the disk when this returns."""
    add_line(directory / (ENCODERS_FILE if isinstance(row, EncoderRow) else CELLS_FILE), vars(row))


def _rows(path: Path, kind: type) -> Iterator[Any]:
    for number, line in enumerate(read_lines(path), start=1):
        try:
            yield kind(**line)
        except TypeError:
            raise damaged(path, number) from None
