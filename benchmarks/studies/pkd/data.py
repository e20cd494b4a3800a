"""A task's three tables: to learn from, to choose by, and to report on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from benchmarks.studies.pkd.plan import TaskPlan
from common.errors import InputError
from common.examples import Columns, Examples, find_task, read_examples
from common.labels import Task
from common.tokenization import Text
from distill.sweep.holdout import split_train

HOLDOUT_SHARE = 0.1
# Of a table that comes without dev rows.
DEV_SHARE = 0.15

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Tables:
    """Files of one task.

    Attributes:
        train: what teacher and students learn from: no row that dev has, and without `holdout`.
        holdout: the part of train that picks epochs and settings.
        dev: what is reported on, and chooses nothing.
        columns: of all three.
    """

    train: Path
    holdout: Path
    dev: Path
    columns: Columns
    task: Task

    def describe(self) -> dict[str, Any]:
        """Hash and rows of each."""
        read = {name: self._read(name) for name in ("train", "holdout", "dev")}
        return {name: {"sha256": examples.sha256, "rows": len(examples)} for name, examples in read.items()}

    def targets(self) -> NDArray[Any]:
        """The right answers of the dev rows, `[rows]`."""
        dev = self._read("dev")
        return self.task.targets(dev.labels, dev.places)

    def _read(self, name: str) -> Examples:
        return read_examples(str(getattr(self, name)), self.columns)


def prepare(plan: TaskPlan, data: Path, work: Path) -> Tables:
    """Cuts a task's tables, the same each time, into `work`.

    Args:
        data: the directory with a folder for each task.

    Raises:
        InputError: a table is missing or will not do.
    """
    columns = plan.columns
    train = read_examples(str(data / plan.train), columns)
    task = find_task(train, multi_label=False, regression=False)
    work.mkdir(parents=True, exist_ok=True)
    if plan.dev is None:
        rest, dev = split_train(train, columns, task, DEV_SHARE, work / "dev")
        train = read_examples(str(rest), columns)
    else:
        dev = data / plan.dev
    if plan.train_rows is not None:
        if plan.train_rows >= len(train):
            raise InputError(f"{train.source} has {len(train)} rows; the study takes {plan.train_rows} of more")
        _, part = split_train(train, columns, task, plan.train_rows / len(train), work / "slice")
        train = read_examples(str(part), columns)
    train = _without(train, read_examples(str(dev), columns).texts)
    own, holdout = split_train(train, columns, task, HOLDOUT_SHARE, work / "split")
    return Tables(own, holdout, dev, columns, task)


def _without(train: Examples, dev: Sequence[Text]) -> Examples:
    """The rows whose words, whatever their case, no dev row has in this order."""
    seen = {words(text) for text in dev}
    kept = [row for row, text in enumerate(train.texts) if words(text) not in seen]
    return replace(
        train,
        texts=[train.texts[row] for row in kept],
        labels=[train.labels[row] for row in kept],
        places=[train.places[row] for row in kept],
    )


def words(text: Text) -> tuple[tuple[str, ...], ...]:
    """A text's words in their order, by part, whatever their case: texts with the same are the same."""
    parts = text if isinstance(text, tuple) else (text,)
    return tuple(tuple(_WORD.findall(part.casefold())) for part in parts)
